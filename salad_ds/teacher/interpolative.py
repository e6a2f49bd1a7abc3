"""Binary interpolative coding (Moffat and Stuiver, 2000) of sets, many sets at once.

Of a sorted set the middle member is written first, then the middle of each half, and so on: the members already known
leave it a range, and only its place within that range is written. A set that lies close together, or fills a range,
costs little, without any parameter. A place within a range of R is a truncated binary number: ``log2 R`` bits, rounded
down for as many places as possible.

All sets of all units go through the tree level by level, so that a level is a handful of array operations. In its unit
a level stands as the short parts of its numbers, then the last bits of those that have one more: thus positions follow
from what is known already.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from salad_ds.teacher.bits import Cursor, Reader

Fields = list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
"""(units, positions in the unit, widths, values) of fields to be written, each [F]."""


def write(members: np.ndarray, counts: np.ndarray, units: np.ndarray, bounds: np.ndarray, cursor: Cursor) -> Fields:
    """Code sets. ``members``: [E] integers, set after set, each ascending, without repetition and in
    ``[0, bounds[set])``; ``counts``, ``units`` (ascending), ``bounds``: [S] of each set."""
    fields: Fields = []

    def visit(place: np.ndarray, low: np.ndarray, span: np.ndarray, unit: np.ndarray) -> np.ndarray:
        value = members[place]
        bits, short = widths_of(span)
        number = value - low
        longer = number >= short
        number = np.where(longer, number + short, number)
        extra = np.flatnonzero(longer)
        fields.append((unit, cursor.take(unit, bits), bits, np.where(longer, number >> 1, number)))
        ones = np.ones(len(extra), dtype=np.int64)
        fields.append((unit[extra], cursor.take(unit[extra], ones), ones, number[extra] & 1))
        return value

    walk(counts, units, bounds, visit)
    return fields


def read(reader: Reader, counts: np.ndarray, units: np.ndarray, bounds: np.ndarray, cursor: Cursor) -> np.ndarray:
    """The inverse: [E] int64 members. Any bits give sets that ``write`` could have been given."""
    members = np.zeros(int(counts.sum()), dtype=np.int64)

    def visit(place: np.ndarray, low: np.ndarray, span: np.ndarray, unit: np.ndarray) -> np.ndarray:
        bits, short = widths_of(span)
        number = reader.read(cursor.take(unit, bits), bits)
        extra = np.flatnonzero(number >= short)
        more = unit[extra]
        last = reader.read(cursor.take(more, np.ones(len(extra), dtype=np.int64)), 1)
        number[extra] += number[extra] + last - short[extra]
        number += low
        members[place] = number
        return number

    walk(counts, units, bounds, visit)
    return members


def widths_of(span: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bits of the shorter numbers, how many are that short) of truncated binary numbers below ``span`` >= 1."""
    bits = np.frexp(span.astype(np.float64))[1].astype(np.int64) - 1
    return bits, (np.int64(2) << bits) - span


def walk(counts: np.ndarray, units: np.ndarray, bounds: np.ndarray,
         visit: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Go through the trees of all sets, level by level. ``visit(place of the middle among the members, least value it
    may have, number of values it may have, unit)`` → its value; each [nodes]."""
    ends = np.cumsum(counts, dtype=np.int64)
    sets = np.flatnonzero(counts)
    begin, end, unit = (ends - counts)[sets], ends[sets], units[sets]
    least, most = np.zeros(len(sets), dtype=np.int64), bounds[sets].astype(np.int64) - 1
    while len(begin):
        middle = (begin + end) >> 1
        low = least + (middle - begin)
        value = visit(middle, low, most - (end - 1 - middle) - low + 1, unit)
        kept = np.flatnonzero(np.stack([middle > begin, end > middle + 1], 1).ravel())

        def children(left: np.ndarray, right: np.ndarray, kept: np.ndarray = kept) -> np.ndarray:
            return np.stack([left, right], 1).ravel()[kept]

        begin, end, least, most, unit = (children(begin, middle + 1), children(middle, end), children(least, value + 1),
                                         children(value - 1, most), children(unit, unit))
