"""What is finished but not yet in a whole shard: an append-only file of records that survives a killed run.

File: ``saladspl`` and 16 bytes that name what it belongs to, then records. A record is the length of its head, the
length of its body and its number (u32, u32, u64, little-endian), a 16-byte BLAKE2b over these and over head and body,
the head (JSON) and the body (bytes). It is there whole or not at all: what a crash left torn, or a disk damaged, is cut
off with everything behind it when the file is opened. Only places are kept in memory; heads and bodies are read when
they are asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from salad_ds.files import atomic_path, sync_directory

MAGIC = b"saladspl"
SIZES = struct.Struct("<IIQ")
SUM = 16
SYNC = 2.0
"""Seconds of finished work that a power cut may cost. A killed process loses nothing that was appended."""


class Spool:
    """Records by number (below 2^64). Of several with one number the last counts. One writer at a time."""

    def __init__(self, path: str | Path, owner: str) -> None:
        """Open ``path``, which need not exist, and cut off what is damaged; all of it, if it is not ``owner``'s (the
        digest of what the product is made from: files.digest_of)."""
        self.path, self.start = Path(path), MAGIC + bytes.fromhex(owner)
        self.places: dict[int, tuple[int, int, int]] = {}  # number → offset of the head, bytes of head and body
        new = not self.path.is_file()
        self.file = open(self.path, "w+b" if new else "r+b", buffering=0)
        if new:
            sync_directory(self.path.parent)
        self._scan()
        self.synced = time.monotonic()

    def _scan(self) -> None:
        size, end = os.fstat(self.file.fileno()).st_size, len(self.start)
        if os.pread(self.file.fileno(), len(self.start), 0) == self.start:
            while record := self._record_at(end, size):
                number, place = record
                self.places[number] = place
                end = sum(place)
        else:
            os.pwrite(self.file.fileno(), self.start, 0)
        self.file.truncate(end)
        self.file.seek(end)

    def _record_at(self, at: int, size: int) -> tuple[int, tuple[int, int, int]] | None:
        """The record that begins at byte ``at``; None where there is no whole and sound one."""
        start = at + SIZES.size + SUM
        if start > size:
            return None
        sizes, found = struct.unpack(f"{SIZES.size}s{SUM}s", os.pread(self.file.fileno(), SIZES.size + SUM, at))
        head, body, number = SIZES.unpack(sizes)
        if start + head + body > size:
            return None
        if checksum(sizes, os.pread(self.file.fileno(), head + body, start)) != found:
            return None
        return number, (start, head, body)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.file.close()

    def __contains__(self, number: int) -> bool:
        return number in self.places

    def __iter__(self) -> Iterator[int]:
        """The numbers, in order."""
        return iter(sorted(self.places))

    def head(self, number: int) -> dict[str, Any]:
        offset, head, _ = self.places[number]
        return json.loads(os.pread(self.file.fileno(), head, offset))

    def body(self, number: int) -> bytes:
        offset, head, body = self.places[number]
        return os.pread(self.file.fileno(), body, offset + head)

    def append(self, number: int, head: dict[str, Any], body: bytes = b"") -> None:
        """Add a record. It outlives this process at once, and a power cut after SYNC seconds at the most."""
        raw = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode() + body
        end = self.file.tell()
        sizes = SIZES.pack(len(raw) - len(body), len(body), number)
        whole = memoryview(sizes + checksum(sizes, raw) + raw)
        while whole:  # a raw file may take a part only
            whole = whole[self.file.write(whole):]
        self.places[number] = (end + SIZES.size + SUM, len(raw) - len(body), len(body))
        if time.monotonic() - self.synced > SYNC:
            self.sync()

    def sync(self) -> None:
        os.fsync(self.file.fileno())
        self.synced = time.monotonic()

    def keep(self, numbers: Iterable[int]) -> None:
        """Drop all records but these. The file is replaced whole."""
        kept = [number for number in numbers if number in self.places]
        with atomic_path(self.path) as part:
            with open(part, "wb") as file:
                file.write(self.start)
                for number in kept:
                    offset, head, body = self.places[number]
                    begin = offset - SIZES.size - SUM
                    file.write(os.pread(self.file.fileno(), SIZES.size + SUM + head + body, begin))
        self.file.close()
        self.places.clear()
        self.file = open(self.path, "r+b", buffering=0)
        self._scan()


def checksum(sizes: bytes, raw: bytes) -> bytes:
    digest = hashlib.blake2b(sizes, digest_size=SUM)
    digest.update(raw)
    return digest.digest()
