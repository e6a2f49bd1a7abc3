"""The one error hierarchy: what is wrong, where, and how to mend it.

Every error a user can cause is a ``SaladError``; the command line prints it as one line and keeps the
traceback for ``--debug``. Anything else that escapes is a defect of ours.
"""

from __future__ import annotations


class SaladError(Exception):
    """A fault that the user can mend.

    ``what`` names the fault and the thing at fault (file, key, sample); ``mend`` says what to do about it.
    """

    code = 1
    """What the command line exits with."""

    def __init__(self, what: str, mend: str = "") -> None:
        self.what = what
        self.mend = mend
        super().__init__(what if not mend else f"{what} | mend: {mend}")


class RecipeError(SaladError):
    """A recipe or override that cannot be used: unknown key, wrong type, contradiction."""


class AssetError(SaladError):
    """A packaged model, voice or corpus that is missing or not what it should be."""


class DataError(SaladError):
    """Shards, sidecars or samples that cannot be used."""


class StoreError(SaladError):
    """A teacher store that is damaged, incomplete, or made by another teacher or tokenizer."""


class CheckpointError(SaladError):
    """A checkpoint that is damaged, missing, or made from another recipe."""


class Stopped(SaladError):
    """No fault: a job that was told to stop (SIGTERM, SIGUSR1) and wrote a checkpoint first. Its exit code asks to be
    started again; launchers/slurm.sbatch does it."""

    code = 85


def in_words(error: Exception) -> tuple[str, str]:
    """(what, mend) of any error: what another rank can say of it."""
    return (error.what, error.mend) if isinstance(error, SaladError) else (f"{type(error).__name__}: {error}", "")
