"""Files appear whole: write beside, sync, rename. Digests say what an artefact was made from."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from salad_ds.errors import DataError, SaladError


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and renamed onto ``path``.

    On an exception the temporary file is removed and ``path`` is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    os.chmod(name, 0o644)
    part = Path(name)
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_directory(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def sole_writer(directory: str | Path, patience: float = 0.0, name: str = ".lock") -> Iterator[bool]:
    """Hold the lock of ``directory`` (the kernel lets go of it when the process dies); yields whether it was free.

    Waits up to ``patience`` seconds for another writer to end. ``name``: of the lock's file, where a directory has
    several.
    """
    Path(directory).mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + patience
    with open(Path(directory) / name, "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < end:
                    time.sleep(0.2)
                    continue
                yield False
            except OSError as error:
                raise SaladError(f"{directory} cannot be locked ({error.strerror})",
                                 "mount this file system with locks (Lustre: -o flock), or work on another") from None
            else:
                yield True
            return


@contextlib.contextmanager
def writing_alone(directory: Path, busy: SaladError, leftovers: str, name: str = ".lock") -> Iterator[None]:
    """Be the only run that writes into ``directory``, and sweep up what a killed one left half written: the files that
    match the pattern ``leftovers``. ``name``: see sole_writer. Raises ``busy`` while another run writes."""
    with sole_writer(directory, name=name) as free:
        if not free:
            raise busy
        for part in directory.glob(leftovers):
            part.unlink(missing_ok=True)
        yield


@contextlib.contextmanager
def writing_beside(directory: Path, leftovers: str, name: str) -> Iterator[None]:
    """Be one of several runs that write other files into ``directory``. Who is alone at first sweeps up what a killed
    one left half written, see writing_alone; where it cannot be locked, nobody does."""
    with open(directory / name, "w") as file, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                for part in directory.glob(leftovers):
                    part.unlink(missing_ok=True)
            fcntl.flock(file, fcntl.LOCK_SH)
            stack.callback(fcntl.flock, file, fcntl.LOCK_UN)
        yield


def sync_file(path: str | Path) -> int:
    """Make a file's content durable; returns its size in bytes."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def sync_directory(path: str | Path) -> None:
    """Make renames inside ``path`` durable (a no-op where the file system refuses)."""
    fd = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(fd)
    finally:
        os.close(fd)


def write_text(path: str | Path, text: str) -> None:
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, sort_keys=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; a missing or damaged file is a DataError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing", "run the stage that makes it first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid JSON ({error})", "delete it and run its stage again") from None


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def digest_of(value: Any) -> str:
    """Hex digest (32 characters) of a JSON-able value, independent of dictionary order and of the process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
