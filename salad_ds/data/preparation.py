"""What every file of data_prep has in common: fingerprints of the source, the command line, the table at the end."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from salad_ds.data.rejections import lines
from salad_ds.errors import DataError, SaladError
from salad_ds.progress import clock

EDGE = 1 << 20
QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"'})
"""Typographic quotes → the ones of a keyboard: word times and tokenizers know ``don't``, not ``don’t``."""

HELP = {
    "limit": "at most this many samples, over all parts (0: all)",
    "samples_per_shard": "samples of one tar",
    "join_seconds": "join neighbouring utterances of one speaker up to this many seconds (0: leave them)",
    "split": "all, train or test (an eighth, by a hash)",
    "subset": "names of the corpus's own subsets, with commas; all",
    "part": "i/n: every n-th unit from the i-th; auto: this rank's, or this task's of a SLURM array",
    "workers": "processes (0: one per core, at most 8)",
    "max_bad_share": "stop when a larger share cannot be used",
}
"""Of the options that several corpora have; a corpus explains its own at the head of its file."""


def fingerprint(root: Path, files: Iterable[Path], content: bool = True) -> str:
    """Digest of names, sizes, first and last MiB of ``files``: known again without reading terabytes.

    ``content=False``: names and sizes alone, for hundreds of thousands of recordings.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(files):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
        if content:
            with open(path, "rb") as file:
                digest.update(file.read(EDGE))
                if size > EDGE:
                    file.seek(max(size - EDGE, EDGE))
                    digest.update(file.read(EDGE))
    return digest.hexdigest()


def existing(path: str | Path, what: str) -> Path:
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{what} {path} does not exist", "give the place where the corpus lies")
    return path


def inside(root: Path, relative: str) -> Path:
    """``relative`` below ``root``. Raises DataError for a path that leads out of it, by ``..`` or by a link."""
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise DataError(f"path {relative!r} leads out of {root}", "keep audio files below the manifest's directory")
    return path


def of_subset(root: Path, paths: Iterable[Path], subset: str) -> list[Path]:
    """Those of ``paths`` that lie in a folder of one of the names in ``subset`` (with commas; ``all``), in order.

    Raises DataError for a name that is no folder there.
    """
    found = sorted(paths)
    names = [name.strip() for name in subset.split(",") if name.strip()]
    if names == ["all"]:
        return found
    folders = {path: set(path.relative_to(root.parent).parts[:-1]) for path in found}
    for name in names or [""]:
        if not any(name in folder for folder in folders.values()):
            raise DataError(f"{root} holds nothing of subset {name!r}", "name its folders, with commas, or all")
    return [path for path in found if folders[path] & set(names)]


def summary(manifest: dict[str, Any], directory: str | Path) -> str:
    """What was written and what was not, for people."""
    size = f"{manifest['samples']} samples in {len(manifest['shards'])} shards"
    if manifest["kind"] == "speech":
        size += f", {clock(manifest['seconds'])} of speech"
    part = "part {} of {}: ".format(*manifest["part"]) if "part" in manifest else ""
    out = [f"{directory}: {part}{size}"]
    out += lines("  rejected", manifest["rejected"]) + lines("  left out", manifest["left_out"])
    if part:
        out.append("  the directory is complete when all its parts are done")
    return "\n".join(out)


def main(doc: str, prepare: Callable[..., dict[str, Any]]) -> None:
    """``python data_prep/X.py SRC OUT [--limit N ...]``: an option for every keyword argument of ``prepare``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="directory or file of the corpus, or packaged:<asset>")
    parser.add_argument("out", help="directory of the shards to be written")
    for name, parameter in list(inspect.signature(prepare, eval_str=True).parameters.items())[2:]:
        told = HELP.get(name, "see above")
        flag, default = f"--{name.replace('_', '-')}", parameter.default
        shown = f"{told}; default: {default!r}" if default not in (0, "") else told
        if parameter.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=told)
        else:
            parser.add_argument(flag, type=parameter.annotation, default=default, help=shown)
    values = vars(parser.parse_args())
    source, out = values.pop("source"), values.pop("out")
    try:
        from salad_ds.assets import resolve

        manifest = prepare(str(resolve(source)), out, **values)
    except SaladError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on where it stopped")
    print(summary(manifest, out))
