"""Which sample comes next: arithmetic, never the history of a buffer.

Everything here is a pure function of (seed, position). A source of n samples is walked through epoch after epoch, each
in an order of its own; sources are mixed in blocks that hold their exact shares.
"""

from __future__ import annotations

import hashlib

import numpy as np

BLOCK = 240
"""Samples of one mixing block: divisible by the usual shares (halves, thirds, quarters, fifths)."""


def stable_seed(*parts: object) -> int:
    """A 64-bit seed from ``parts``, the same in every process (Python's ``hash`` is salted)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def permuted(index: int, size: int, seed: int) -> int:
    """Where ``index`` goes in a pseudo-random permutation of ``range(size)``, in O(1) memory.

    A four-round Feistel network over the next even power of two, walked until it falls inside the range (cycle walking:
    Black and Rogaway 2002): on average fewer than four steps.
    """
    if not 0 <= index < size:
        raise IndexError(f"{index} is not below {size}")
    half = max((size - 1).bit_length() + 1, 2) // 2
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(4):
            left, right = right, left ^ (_mix(right, seed, turn) & mask)
        index = (left << half) | right
        if index < size:
            return index


def _mix(value: int, seed: int, turn: int) -> int:
    """splitmix64's finaliser over (value, seed, turn)."""
    z = (value * 0x9E3779B97F4A7C15 + seed + turn * 0xD1342543DE82EF95) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)


def shares(weights: list[float], block: int = BLOCK) -> list[int]:
    """Samples of each source in one block: largest remainders, ties to the first."""
    total = sum(weights)
    exact = [block * weight / total for weight in weights]
    counts = [int(value) for value in exact]
    order = sorted(range(len(weights)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: block - sum(counts)]:
        counts[i] += 1
    return counts


class Mixture:
    """The endless sequence of (source, sample) pairs of several sources.

    ``sizes[k]``: samples of source k; ``weights[k]``: its share. Raises ValueError when a source with weight has no
    samples, or so small a share that it would never come.
    """

    def __init__(self, sizes: list[int], weights: list[float], seed: int) -> None:
        if not sizes or sum(weights) <= 0 or any(n == 0 and w > 0 for n, w in zip(sizes, weights, strict=True)):
            raise ValueError(f"sources of {sizes} samples cannot be mixed with weights {weights}")
        self.sizes, self.seed = sizes, seed
        self.counts = shares(weights)
        if any(weight > 0 and not count for weight, count in zip(weights, self.counts, strict=True)):
            raise ValueError(f"a source has less than one sample in {BLOCK}")
        self._block: tuple[int, np.ndarray, np.ndarray] | None = None

    def __getitem__(self, position: int) -> tuple[int, int, int]:
        """(source, epoch, index in the source) of the ``position``-th sample."""
        block, inside = divmod(position, BLOCK)
        if self._block is None or self._block[0] != block:
            sources = np.repeat(np.arange(len(self.counts)), self.counts)
            sources = np.random.default_rng(stable_seed(self.seed, "mix", block)).permutation(sources)
            ranks = np.empty(BLOCK, dtype=np.int64)
            for k, count in enumerate(self.counts):
                ranks[sources == k] = np.arange(count)
            self._block = (block, sources, ranks)
        source = int(self._block[1][inside])
        walked = block * self.counts[source] + int(self._block[2][inside])
        epoch, index = divmod(walked, self.sizes[source])
        return source, epoch, permuted(index, self.sizes[source], stable_seed(self.seed, "order", source, epoch))
