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


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """Digest of names, sizes, first and last MiB of ``files``: known again without reading terabytes."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(files):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
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


def summary(manifest: dict[str, Any], directory: str | Path) -> str:
    """What was written and what was not, for people."""
    size = f"{manifest['samples']} samples in {len(manifest['shards'])} shards"
    if manifest["kind"] == "speech":
        size += f", {clock(manifest['seconds'])} of speech"
    out = [f"{directory}: {size}"]
    out += lines("  rejected", manifest["rejected"]) + lines("  left out", manifest["left_out"])
    return "\n".join(out)


def main(doc: str, prepare: Callable[..., dict[str, Any]], *options: tuple[str, dict[str, Any]]) -> None:
    """``python data_prep/X.py SRC OUT [--limit N ...]``. ``options``: more arguments, as (flag, argparse settings)."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="directory or file of the corpus, or packaged:<asset>")
    parser.add_argument("out", help="directory of the shards to be written")
    parser.add_argument("--limit", type=int, default=0, help="at most this many samples (0: all)")
    parser.add_argument("--samples-per-shard", type=int,
                        default=inspect.signature(prepare).parameters["samples_per_shard"].default)
    parser.add_argument("--max-bad-share", type=float, default=0.05)
    for flag, settings in options:
        parser.add_argument(flag, **settings)
    values = vars(parser.parse_args())
    source, out = values.pop("source"), values.pop("out")
    try:
        from salad_ds.assets import resolve

        manifest = prepare(str(resolve(source)), out, **values)
    except SaladError as error:
        sys.exit(f"error: {error}")
    print(summary(manifest, out))


JOIN = ("--join-seconds", {"type": float, "default": 0.0,
                           "help": "join neighbouring utterances of one speaker up to this many seconds"})
SPLIT = ("--split", {"choices": ("all", "train", "test"), "default": "all", "help": "part of the corpus, by hash"})
