"""Ranges of bytes of open files, from any thread: by pread where there is a file system, by one request where there
is a URL.
"""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import BinaryIO, Protocol

from salad_ds.config import StorageConfig
from salad_ds.data.storage import Place, ask_for, check_allowed, current, filesystem, local, persistently, shown
from salad_ds.errors import DataError

STALE = (errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN)
"""What a network file system says when its server was away for a moment."""
EDGE = 1 << 20
BLOCK = 8 << 20
"""Bytes fetched at once by whoever walks through a remote file."""


class Source(Protocol):
    """An open file. ``read`` gives exactly ``size`` bytes from ``offset``; any thread may call it."""

    block: int

    @property
    def place(self) -> Place: ...

    def size(self) -> int: ...

    def read(self, offset: int, size: int) -> bytes: ...


class LocalSource:
    """A file of a local or network file system, read with pread."""

    block = 0

    def __init__(self, place: Place, settings: StorageConfig, file: BinaryIO | None = None) -> None:
        self.place, self.settings = place, settings
        self.file = file or persistently(place, settings, self._open)

    def _open(self) -> BinaryIO:
        return open(self.place, "rb", buffering=0)

    def size(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def read(self, offset: int, size: int) -> bytes:
        try:
            raw = os.pread(self.file.fileno(), size, offset)
            while 0 < len(raw) < size:  # network file systems may answer in parts
                more = os.pread(self.file.fileno(), size - len(raw), offset + len(raw))
                if not more:
                    break
                raw += more
        except OSError as error:
            if error.errno not in STALE:
                raise DataError(f"{self.place} cannot be read ({error.strerror})", "look at the disk") from None
            raw = persistently(self.place, self.settings, lambda: self._again(offset, size))
        if len(raw) != size:
            raise DataError(f"{self.place} ends at byte {offset + len(raw)}, inside what is wanted",
                            "copy it again, or prepare the corpus again")
        return raw

    def _again(self, offset: int, size: int) -> bytes:
        file = self._open()  # the old handle may be stale for good; a thread that still reads from it keeps it open
        file.seek(offset)
        raw = b""
        while len(raw) < size and (more := file.read(size - len(raw))):
            raw += more
        self.file = file
        return raw


class RemoteSource:
    """A file behind a URL: one request per read."""

    block = BLOCK

    def __init__(self, url: str, settings: StorageConfig) -> None:
        check_allowed(url, settings)
        self.place, self.settings = url, settings

    def size(self) -> int:
        def ask() -> int | None:
            system, path = filesystem(str(self.place), self.settings)
            return ask_for(system, "info", self.settings, path)["size"]

        size = persistently(self.place, self.settings, ask)
        if size is None:
            raise DataError(f"{shown(self.place)} does not tell its size", "use a server that does")
        return int(size)

    def read(self, offset: int, size: int) -> bytes:
        raw = self.up_to(offset, size)
        if len(raw) != size:
            raise DataError(f"{shown(self.place)} ends at byte {offset + len(raw)}, inside what is wanted",
                            "copy it again, or prepare the corpus again")
        return raw

    def up_to(self, offset: int, size: int) -> bytes:
        """As ``read``; shorter where the file ends."""
        if not size:
            return b""

        def ask() -> bytes:
            system, path = filesystem(str(self.place), self.settings)
            return ask_for(system, "cat_file", self.settings, path, start=offset, end=offset + size)

        raw = persistently(self.place, self.settings, ask)
        if len(raw) > size:  # the whole file came: a server that knows no ranges
            raise DataError(f"{shown(self.place)}: the server does not answer with ranges of bytes",
                            "use one that does, or copy the shards")
        return raw


def open_source(place: Place, settings: StorageConfig | None = None) -> Source:
    """``place`` opened for reading ranges. Raises Missing, DataError; a remote file may be found missing later."""
    settings = current(settings)
    path = local(place)
    if path is not None:
        return LocalSource(path, settings)
    url = str(place)
    check_allowed(url, settings)
    return pipe_source(url, settings) if url.startswith("pipe:") else RemoteSource(url, settings)


def fetched(place: Place, settings: StorageConfig | None = None) -> LocalSource:
    """``place`` opened; a remote file is first copied, whole, into a nameless temporary file. For whoever reads it more
    than once."""
    source = open_source(place, settings)
    if isinstance(source, LocalSource):
        return source
    file, walk = tempfile.TemporaryFile(buffering=0), Walk(source)
    while piece := walk.read(BLOCK):
        file.write(piece)
    return LocalSource(place, current(settings), file)


def pipe_source(url: str, settings: StorageConfig) -> LocalSource:
    """What the shell command prints, kept in a nameless temporary file for as long as somebody reads from it."""
    file = tempfile.TemporaryFile(buffering=0)
    done = subprocess.run(url[len("pipe:"):], shell=True, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE)
    if done.returncode:
        last = " ".join(done.stderr.decode(errors="replace").split())[-200:]
        raise DataError(f"{url} ended with {done.returncode} ({last})", "run the command by hand")
    return LocalSource(url, settings, file)


class Walk:
    """A Source as a file object for whoever goes through it from the beginning: remote files come in large blocks,
    local ones in just the bytes that are asked for, so that the sound between two headers is never read."""

    def __init__(self, source: Source) -> None:
        self.source, self.end, self.at = source, source.size(), 0
        self._begin, self._held = 0, b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.end}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, size: int = -1) -> bytes:
        last = self.end if size < 0 else min(self.at + size, self.end)
        if last <= self.at:
            return b""
        if not (self._begin <= self.at and last <= self._begin + len(self._held)):
            length = min(max(self.source.block, last - self.at), self.end - self.at)
            if not self.source.block:
                raw, self.at = self.source.read(self.at, length), last
                return raw
            self._begin, self._held = self.at, self.source.read(self.at, length)
        raw = self._held[self.at - self._begin:last - self._begin]
        self.at = last
        return raw


def sha256_of(file: Source | Place, settings: StorageConfig | None = None) -> str:
    """Hex SHA-256 of the whole file."""
    source = open_source(file, settings) if isinstance(file, (str, Path)) else file
    digest, walk = hashlib.sha256(), Walk(source)
    while piece := walk.read(EDGE):
        digest.update(piece)
    return digest.hexdigest()


def edges_of(file: Source | Place, settings: StorageConfig | None = None) -> str:
    """``edges:`` and a digest of size, first and last MiB: a file known again without reading all of it."""
    source = open_source(file, settings) if isinstance(file, (str, Path)) else file
    size = source.size()
    digest = hashlib.blake2b(f"{size}\0".encode(), digest_size=16)
    digest.update(source.read(0, min(size, EDGE)))
    if size > EDGE:
        begin = max(size - EDGE, EDGE)
        digest.update(source.read(begin, size - begin))
    return f"edges:{digest.hexdigest()}"


def digest_like(known: str, file: Source | Place, settings: StorageConfig | None = None) -> str:
    """The digest of a file, of the kind that ``known`` is of."""
    return edges_of(file, settings) if known.startswith("edges:") else sha256_of(file, settings)


def first_line(place: Place, settings: StorageConfig | None = None, piece: int = 1 << 14) -> bytes:
    """Up to and without the first line feed. Raises Missing, DataError."""
    source = open_source(place, settings)
    if isinstance(source, LocalSource):
        with open(source.file.fileno(), "rb", closefd=False) as file:
            return file.readline().rstrip(b"\n")
    assert isinstance(source, RemoteSource)
    raw = source.up_to(0, piece)
    while b"\n" not in raw and len(raw) == piece:
        piece *= 4
        raw = source.up_to(0, piece)
    return raw.split(b"\n", 1)[0]
