"""The one error hierarchy: what is wrong, where, and how to mend it.

Every error a user can cause is a ``SaladError``; the command line prints it as one line and keeps the
traceback for ``--debug``. Of what else escapes, a full disk, too little memory and the like have a mend too; anything
beyond them is a defect of ours, exit code ``FAULT``.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
import traceback
from pathlib import Path

FAULT = 70
EXIT_CODES = {
    0: "done, or nothing was left to do",
    1: "an error with a mend; `doctor`: something that is needed is missing",
    2: "wrong usage: no such verb or option",
    FAULT: "a defect of salad_ds or of a library: one line, and where the traceback lies",
    85: "told to stop (SIGTERM, SIGUSR1), with a checkpoint: the same command goes on; launchers/slurm.sbatch requeues",
    130: "interrupted (Ctrl-C): the same command goes on; a second Ctrl-C does not wait for what is being closed",
    141: "nobody reads the output any more, as in `salad-ds doctor | head`",
}
"""What the command line exits with. A launcher has its own where a rank is killed: of deepspeed, torchrun, srun."""

MENDS = {
    errno.ENOSPC: "make room there; the same command goes on where it stopped",
    errno.EDQUOT: "make room within your quota; the same command goes on where it stopped",
    errno.EACCES: "allow it, or name another place, such as workdir=DIRECTORY",
    errno.EROFS: "name a place that can be written, such as workdir=DIRECTORY",
    errno.EMFILE: "raise the limit of open files: ulimit -n 65536",
    errno.ENOMEM: "free memory, or take fewer workers",
}
"""Of errors that the machine raises, by errno."""
LITTLE_MEMORY = "take smaller batches (stages.*.micro_batch, data.context, *.batch) or fewer workers"


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
    """(what, mend) of any error, one line each: what another rank can say of it. No mend, "", where none is known."""
    if isinstance(error, SaladError):
        return error.what, error.mend
    if isinstance(error, OSError) and error.errno in MENDS:
        at = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{at}", MENDS[error.errno]
    mend = LITTLE_MEMORY if type(error).__name__ in ("MemoryError", "OutOfMemoryError") else ""  # torch has one too
    return " ".join(f"{type(error).__name__}: {error}".split()), mend


def keep_traceback(error: Exception, verb: str, directory: Path) -> str:
    """Write the traceback of a defect into ``directory``, or where that cannot be written into the temporary one;
    returns what to do with it."""
    name = f"traceback-{verb}-rank{os.environ.get('RANK', '0')}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    text = "".join(traceback.format_exception(error))
    for place in (directory, Path(tempfile.gettempdir())):
        try:
            (place / name).write_text(text)
        except OSError:
            continue
        return f"run again with --debug, or read {place / name}; please report it"
    return "run again with --debug; please report it"
