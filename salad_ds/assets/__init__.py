"""Real models and corpora that install from package registries: ``packaged:<name>``.

Where a recipe names a model or a corpus it may name a hub model, a directory, or one of these. They make the demo, the
tests and the evidence on a CPU real without any model hub. A packaged asset is converted on first use into the cache
(``$SALAD_DS_HOME``, by default ``~/.cache/salad_ds``) and carries ``asset.json``: what it was made from, its licence.

``python -m salad_ds.assets`` lists them, ``python -m salad_ds.assets NAME...`` prepares them ahead of time.
"""

from __future__ import annotations

from pathlib import Path

from salad_ds.assets.cache import home, is_prepared, prepare
from salad_ds.assets.catalogue import ASSETS, find

PREFIX = "packaged:"

__all__ = ["ASSETS", "PREFIX", "home", "is_prepared", "prepare", "resolve"]


def resolve(reference: str, kind: str = "") -> Path | str:
    """What ``reference`` stands for: the directory of a packaged asset, prepared if need be, or itself.

    ``packaged:smollm2-135m``, ``packaged:whisper-base``, ``packaged:whisper-tiny.en`` and ``packaged:minilm`` become
    Hugging Face directories, ``packaged:kokoro`` one of a model and voices, ``packaged:asterisk``,
    ``packaged:librivox`` and ``packaged:wordnet`` directories of unpacked Debian packages. ``kind`` says in an error
    what the reference was wanted for.

    Raises AssetError for a name that does not exist, a package that is not installed or not the version we know.
    """
    if not reference.startswith(PREFIX):
        return reference
    return prepare(find(reference.removeprefix(PREFIX), kind))
