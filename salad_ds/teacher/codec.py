"""How the rows of a text become bytes, and back. The store knows nothing but this interface; a shard names its codec.

``ef1``: every row takes the same number of bytes, so any row of a record is at hand without the others.

- *Ids* are sorted and Elias-Fano coded: the low bits as they are, the high bits as the unary code of their steps. A set
  of 128 ids of 151,936 takes 195 bytes; no code for arbitrary sets can take less than 186; packed ids take 288.
- *Log-probabilities* of the top are 16-bit integers on a grid from ``-span`` to 0, ``span`` being the smallest of the
  row (float16, rounded up). Error at most ``span / 131070`` nats: 1e-4 relative for a typical row whose top reaches
  down to e^-13, 8e-4 at worst (log-probabilities are cut off at -100).
- *Tail mass* and *entropy* are float32. *Draws* are a sorted multiset, Elias-Fano again.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from salad_ds.errors import StoreError
from salad_ds.teacher.sampling import Record

LEVELS = 65535
DEEPEST = 100.0
"""Nats; smaller log-probabilities are stored as this."""


class Codec(Protocol):
    """Rows of one text to bytes and back."""

    name: str
    """Goes into every shard; a change of the bytes is a new name."""

    def encode(self, record: Record) -> bytes:
        """Bytes of one text's record."""

    def decode(self, data: np.ndarray, count: int, rows: np.ndarray | None = None) -> Record:
        """The record of ``data`` (uint8, one text of ``count`` rows), or of the given rows of it, in their order."""


class EliasFano:
    """Sorted ids below ``vocab`` in rows of ``width``, to a fixed number of bytes per row. Repeated ids are allowed."""

    def __init__(self, vocab: int, width: int) -> None:
        self.width = width
        self.low_bits = max(0, (vocab // max(width, 1)).bit_length() - 1)
        self.high_bits = width + ((vocab - 1) >> self.low_bits) if width else 0
        self.bytes = (width * self.low_bits + self.high_bits + 7) // 8

    def encode(self, ids: np.ndarray) -> np.ndarray:
        """[N, width] ascending ids → [N, bytes] uint8."""
        count = len(ids)
        bits = np.zeros((count, self.bytes * 8), dtype=np.uint8)
        split = self.width * self.low_bits
        shifts = np.arange(self.low_bits)
        bits[:, :split] = (ids[:, :, None] >> shifts & 1).reshape(count, split)
        ones = (ids >> self.low_bits) + np.arange(self.width) + split
        np.put_along_axis(bits, ones, 1, axis=1)
        return np.packbits(bits, axis=1, bitorder="little")

    def decode(self, data: np.ndarray) -> np.ndarray:
        """[N, bytes] uint8 → [N, width] int64. Raises StoreError for bytes that ``encode`` cannot have made."""
        count, split = len(data), self.width * self.low_bits
        if not self.width:
            return np.zeros((count, 0), dtype=np.int64)
        bits = np.unpackbits(data, axis=1, count=split + self.high_bits, bitorder="little")
        ones = np.flatnonzero(bits[:, split:])
        if len(ones) != count * self.width:
            raise StoreError("a record of the teacher store does not decode",
                             "verify the store: it names the damaged shard")
        high = ones.reshape(count, self.width) - np.arange(count)[:, None] * self.high_bits - np.arange(self.width)
        weights = (1 << np.arange(self.low_bits)).astype(np.float32)  # a product of floats is exact up to 2^24
        low = bits[:, :split].reshape(count, self.width, self.low_bits).astype(np.float32) @ weights
        return (high << self.low_bits) + low.astype(np.int64)


class FixedWidthCodec:
    """``ef1``, described in the module's docstring. A row: ids, draws, log-probabilities, span, tail, entropy."""

    name = "ef1"

    def __init__(self, vocab: int, top_k: int, samples: int) -> None:
        self.vocab, self.top_k, self.samples = vocab, top_k, samples
        self.top, self.drawn = EliasFano(vocab, top_k), EliasFano(vocab, samples)
        self.layout = np.dtype([("top", "u1", (self.top.bytes,)), ("drawn", "u1", (self.drawn.bytes,)),
                                ("values", "<u2", (top_k,)), ("span", "<f2"), ("tail", "<f4"), ("entropy", "<f4")])

    @property
    def row_bytes(self) -> int:
        return self.layout.itemsize

    def encode(self, record: Record) -> bytes:
        log_probs = np.clip(record.top_log_probs.astype(np.float64), -DEEPEST, 0.0)
        exact = -log_probs.min(axis=1)
        span = exact.astype(np.float16)
        span = np.where(span < exact, np.nextafter(span, np.float16(np.inf)), span)
        step = np.maximum(span.astype(np.float64), 1e-7)[:, None] / LEVELS
        rows = np.zeros(len(record), dtype=self.layout)
        rows["top"], rows["drawn"] = self.top.encode(record.top_ids), self.drawn.encode(record.drawn_ids)
        rows["values"] = np.rint(-log_probs / step)
        rows["span"], rows["tail"], rows["entropy"] = span, record.tail, record.entropy
        return rows.tobytes()

    def decode(self, data: np.ndarray, count: int, rows: np.ndarray | None = None) -> Record:
        if len(data) != count * self.row_bytes:
            raise StoreError(f"a record has {len(data)} bytes instead of {count * self.row_bytes}",
                             "verify the store: it names the damaged shard")
        table = np.asarray(data).view(self.layout)
        if rows is not None:
            table = table[rows]
        step = np.maximum(table["span"].astype(np.float32), np.float32(1e-7))[:, None] / np.float32(LEVELS)
        return Record(self.top.decode(table["top"]), table["values"] * -step, table["tail"].astype(np.float32),
                      table["entropy"].astype(np.float32), self.drawn.decode(table["drawn"]))


CODECS: dict[str, type[FixedWidthCodec]] = {FixedWidthCodec.name: FixedWidthCodec}
DEFAULT_CODEC = FixedWidthCodec.name


def make_codec(name: str, vocab: int, top_k: int, samples: int) -> Codec:
    """The codec called ``name``. Raises StoreError for one that this version does not know."""
    if name not in CODECS:
        raise StoreError(f"the teacher store uses codec {name!r}, this version knows {', '.join(CODECS)}",
                         "install a newer salad_ds, or precompute again")
    return CODECS[name](vocab, top_k, samples)
