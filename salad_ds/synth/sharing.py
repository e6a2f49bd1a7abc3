"""Which spoken word belongs to which written one: a part of a text is read as a whole, and the words divided again."""

from __future__ import annotations

CONTEXT = 3
"""Words on each side of one that the library is asked about: ``in 1984``, ``2024 people``, ``July 4, 1776``."""
LONGEST = 32
"""Words of an island: sharing takes the square of it."""


def islands(hard: list[bool]) -> list[tuple[int, int]]:
    """Ranges ``[begin, end)`` of words that the library is asked about."""
    found: list[tuple[int, int]] = []
    for i in (i for i, is_one in enumerate(hard) if is_one):
        begin, end = max(i - CONTEXT, 0), min(i + CONTEXT + 1, len(hard))
        if found and begin < found[-1][1]:
            begin = found.pop()[0] if end - found[-1][0] <= LONGEST else found[-1][1]
        if begin < end:
            found.append((begin, end))
    return found


def shared(alone: list[tuple[str, ...]], together: tuple[str, ...], hard: list[bool]) -> list[list[str]]:
    """``together``, what an island reads as, divided among its words; ``alone``: what each reads as by itself.

    Words that are the same in both belong to the same original, those of plain originals before others ('$3 million':
    three million dollars); what lies between two of them is divided in proportion, so that the order stays.
    """
    base = [spoken.lower() for one in alone for spoken in one]
    owner = [i for i, one in enumerate(alone) for _ in one]
    out: list[list[str]] = [[] for _ in alone]
    b0 = t0 = 0
    for b1, t1 in [*common(base, [t.lower() for t in together], [1 if hard[i] else 3 for i in owner]),
                   (len(base), len(together))]:
        for j in range(t0, t1):
            place = b0 + (j - t0) * (b1 - b0) // (t1 - t0) if b1 > b0 else max(b0 - 1, 0)
            out[owner[place] if owner else 0].append(together[j])
        if b1 < len(base):
            out[owner[b1]].append(together[t1])
        b0, t0 = b1 + 1, t1 + 1
    return out


def common(a: list[str], b: list[str], weights: list[int]) -> list[tuple[int, int]]:
    """Index pairs of the heaviest common subsequence of ``a`` and ``b``; ``weights``: of the words of ``a``."""
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            best[i][j] = max(best[i + 1][j], best[i][j + 1], (best[i + 1][j + 1] + weights[i]) * (a[i] == b[j]))
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if a[i] == b[j] and best[i][j] == best[i + 1][j + 1] + weights[i]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs
