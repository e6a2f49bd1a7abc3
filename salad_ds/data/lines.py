"""Text files of which any line is one read away: in memory lie the places of the lines, and of small files the content.

Indexes and word times of big shards (a published tar may hold 30,000 utterances) are read one line at a time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from salad_ds.config import StorageConfig
from salad_ds.data import sources, storage
from salad_ds.data.storage import Place

KEPT = 1 << 18
"""Local files up to this size are kept in memory whole; larger ones are read again line by line. Remote files are
always kept: a request per line costs more than their bytes."""


class Lines:
    """The lines of ``raw``, which is the content of the local file ``path`` where one is given; ``[n]`` gives one
    without its end."""

    def __init__(self, raw: bytes, path: Path | None = None) -> None:
        ends = np.flatnonzero(np.frombuffer(raw, np.uint8) == 10)
        if raw and not raw.endswith(b"\n"):
            ends = np.append(ends, len(raw))
        self.ends = ends.astype(np.uint32 if len(raw) < 1 << 32 else np.uint64)
        self.path, self.raw = path, b"" if path else raw

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> bytes:
        begin, end = int(self.ends[number - 1]) + 1 if number else 0, int(self.ends[number])
        if self.path is None:
            return self.raw[begin:end]
        # Opened for each line: thousands of such files may be known at a time.
        return sources.open_source(self.path).read(begin, end - begin)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.ends.nbytes + len(self.raw)


def read_lines(place: Place, settings: StorageConfig | None = None) -> tuple[Lines, bytes]:
    """``(lines, the whole content)`` of a file. Raises storage.Missing, DataError."""
    raw, path = storage.read_bytes(place, settings), storage.local(place)
    return Lines(raw, path if path is not None and len(raw) > KEPT else None), raw
