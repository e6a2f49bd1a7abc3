"""Which sample comes next: arithmetic, never the history of a buffer.

Everything here is a pure function of (seed, source, position). A source is walked through epoch after epoch, each in
an order of its own: its shards are shuffled and taken a group at a time, and within a group the samples of all its
shards are shuffled. So a reader has one group's indexes and word times in memory, however large the corpus is, and
neighbours come from as many shards as a group has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

GROUP = 16
"""Shards that are mixed at a time (``data.shuffle_shards``). Published tars hold some thousand samples each: 16 of them
mix better than the buffers of a few thousand samples that loaders commonly have, and their indexes and word times (2 MB
each) stay within what a ShardSet keeps in memory, twice."""


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


class SourceOrder:
    """The endless walk over one source: position → (epoch, sample), every sample once per epoch.

    ``shards``: samples of each shard (0 is fine); ``seed``: of this source's order; ``group``: shards mixed at a time.
    Memory: two integers per shard. Raises ValueError for a source without samples.
    """

    def __init__(self, shards: Sequence[int], seed: int, group: int = GROUP) -> None:
        self.counts = np.asarray(shards, dtype=np.int64)
        self.first = np.concatenate([[0], np.cumsum(self.counts)])
        self.size = int(self.first[-1])
        if self.size == 0:
            raise ValueError("a source without samples has no order")
        self.seed, self.group = seed, group
        self._epoch = (-1, self.counts, self.counts)

    def __getitem__(self, position: int) -> tuple[int, int]:
        """(epoch, number of the sample in the source) at ``position`` of the walk."""
        epoch, inside = divmod(position, self.size)
        shards, bounds = self._shuffled(epoch)
        number = int(np.searchsorted(bounds, inside, side="right")) - 1
        members = shards[number * self.group : (number + 1) * self.group]
        begins = int(bounds[number])
        chosen = permuted(inside - begins, int(bounds[number + 1]) - begins, stable_seed(self.seed, epoch, number))
        ends = np.cumsum(self.counts[members])
        place = int(np.searchsorted(ends, chosen, side="right"))
        shard = members[place]
        return epoch, int(self.first[shard] + chosen - (ends[place] - self.counts[shard]))

    def _shuffled(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards in this epoch's order, and where each group of them begins in the epoch."""
        if self._epoch[0] != epoch:
            shards = np.random.default_rng(stable_seed(self.seed, epoch)).permutation(len(self.counts))
            ends = np.concatenate([[0], np.cumsum(self.counts[shards])])
            self._epoch = (epoch, shards, ends[np.r_[0 : len(shards) : self.group, len(shards)]])
        return self._epoch[1:]


class Turns:
    """Whose turn it is among sources that share by weight: the one furthest behind its share of the positions.

    ``spent[k]``: what source k has had (plus where it began); the caller keeps it, and it is all the history there is.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        if not weights or not sum(weights) > 0 or min(weights) < 0:
            raise ValueError(f"nothing can be mixed with weights {list(weights)}")
        self.weights = list(weights)
        self.sources = [k for k, weight in enumerate(weights) if weight > 0]

    def start(self, span: int, *parts: object) -> list[int]:
        """A beginning for ``spent``, drawn from ``parts``: lanes that all began with the same source would stay in
        step. At most ``span`` positions per source of mean weight."""
        rng = np.random.default_rng(stable_seed("turns", *parts))
        scale = span * len(self.weights) / sum(self.weights)
        return [int(weight * scale * rng.random()) for weight in self.weights]

    def next(self, spent: Sequence[int]) -> int:
        """The source that comes now; ties go to the first."""
        return min(self.sources, key=lambda k: spent[k] / self.weights[k])
