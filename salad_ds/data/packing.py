"""Which of the waiting samples fill a row best.

Rows have a fixed number of positions and samples may not be cut to fit, so the choice decides how much of every row is
padding. A lane sees a few samples ahead; among those the fullest row is found exactly, as a subset sum.
"""

from __future__ import annotations

from collections.abc import Sequence


def fullest(sizes: Sequence[int], room: int) -> list[int]:
    """Indexes, in order, of the samples that together fill most of ``room``. ``sizes``: positions of each, at least 1.

    Among equally full choices the one with the earlier samples wins. Sums are the bits of one integer, so that a sample
    is added to all of them by one shift.
    """
    within = (1 << (room + 1)) - 1
    reach = [1] * (len(sizes) + 1)  # reach[i]: sums that samples i, i + 1, … can make
    for i in reversed(range(len(sizes))):
        reach[i] = (reach[i + 1] | reach[i + 1] << sizes[i]) & within
    missing = reach[0].bit_length() - 1
    chosen = []
    for i, size in enumerate(sizes):
        if size <= missing and reach[i + 1] >> (missing - size) & 1:
            chosen.append(i)
            missing -= size
    return chosen
