"""Many small numbers in one string of bits, written and read all at once.

Bit i of a string is bit ``i % 8`` (the least significant first) of byte ``i // 8``; a field of w bits at position p is
the number whose bit j stands at p + j. Fields have at most 25 bits, so that four bytes hold each.
"""

from __future__ import annotations

import numpy as np

WIDEST = 25


def pack(positions: np.ndarray, widths: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """``size`` bytes (uint8) holding ``values[i] < 2**widths[i]`` at bit ``positions[i]``; all [F], integer. Fields
    must not overlap; bits of no field are 0."""
    filled = np.flatnonzero(widths)
    positions, values = positions[filled], values[filled].astype(np.int64)
    words, shifted = positions >> 5, values << (positions & 31)
    length = size // 4 + 2
    # Of fields that do not overlap the sum is the union, and below 2^32 a float64 sum is exact.
    low = np.bincount(words, (shifted & 0xFFFFFFFF).astype(np.float64), length)
    high = np.bincount(words + 1, (shifted >> 32).astype(np.float64), length)
    return (low + high).astype("<u4").view(np.uint8)[:size]


class Reader:
    """Random access to the fields of ``data`` (uint8). What lies behind its end reads as zeros."""

    def __init__(self, data: np.ndarray) -> None:
        padded = np.concatenate([data, np.zeros(8, dtype=np.uint8)]).astype(np.uint32)
        self.last = len(data)
        self.words = padded[:-3] | padded[1:-2] << 8 | padded[2:-1] << 16 | padded[3:] << 24

    def read(self, positions: np.ndarray, widths: np.ndarray | int) -> np.ndarray:
        """[F] int64 fields at bit ``positions`` (not negative), of ``widths`` (0 to 25) bits."""
        words = self.words[np.minimum(positions >> 3, self.last)].astype(np.int64)
        return (words >> (positions & 7)) & ((1 << np.asarray(widths, dtype=np.int64)) - 1)


class Cursor:
    """Where each of several bit strings (*units*) is to go on. ``at``: [U] int64, bits."""

    def __init__(self, at: np.ndarray) -> None:
        self.at = at.astype(np.int64)

    def take(self, units: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """Positions of the next fields: [F] int64, for ``units`` [F] (ascending) and ``widths`` [F]."""
        ends = np.cumsum(widths)
        sums = np.bincount(units, widths, len(self.at)).astype(np.int64)
        before = np.cumsum(sums) - sums
        places = ends - widths + (self.at - before)[units]
        self.at = self.at + sums
        return places
