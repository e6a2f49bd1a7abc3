"""Balanced assignment: every point to a cluster, sizes between bounds, at (nearly) the least total cost.

This is a transport problem. Two steps, both exact in what they promise:

1. *Prices.* Each cluster gets a price; every point takes the cluster of least cost + price. Such an assignment is
   always the cheapest one with the sizes it happens to have. Prices of clusters that are too full rise, of those too
   empty fall, until few points are in excess.
2. *Paths.* What is left is moved along shortest augmenting paths between clusters (edge A→B: the cheapest point of A
   to move to B). This keeps the assignment the cheapest for its sizes, and goes on while a path still lowers the cost
   within the bounds, so that for small problems the result is the optimum.

Memory: the cost matrix, 4·n·k bytes (10 M points, 128 clusters: 5.1 GB), plus blocks of BLOCK points.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from salad_ds.errors import RecipeError

BLOCK = 16384
PRICE_ROUNDS = 150
EXCESS_SHARE = 0.002
"""The price step stops when at most this share of the points is in excess; paths do the rest."""


def size_bounds(n: int, k: int, slack: float = 0.1) -> tuple[int, int]:
    """Smallest and largest cluster: within ``slack`` of n / k, widened to whole points where that is narrower."""
    if not 1 <= k <= n:
        raise RecipeError(f"select.clusters is {k} for {n} texts", "use fewer clusters, or give more texts")
    return (min(int(np.ceil((1 - slack) * n / k)), n // k), max(int((1 + slack) * n / k), -(-n // k)))


def balanced(costs: np.ndarray, low: int, high: int, prices: np.ndarray | None = None,
             exact: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """``(labels int32 [n], prices float32 [k])`` for ``costs`` float32 [n, k], sizes in [low, high].

    ``prices``: those of a similar problem, to start from. ``exact`` False leaves the last gains: the sizes hold, and
    the cost is the least for the sizes found, which need not be the best ones. Deterministic: ties go to the lower
    cluster and point.
    """
    n, k = costs.shape
    if not low * k <= n <= high * k:
        raise ValueError(f"{n} points do not fit {k} clusters of {low} to {high}")
    prices = np.zeros(k, np.float32) if prices is None else prices.astype(np.float32).copy()
    best: tuple[int, np.ndarray, np.ndarray] | None = None
    for _ in range(PRICE_ROUNDS):
        labels = cheapest(costs, prices)
        sizes = np.bincount(labels, minlength=k)
        excess = int(np.maximum(sizes - high, 0).sum() + np.maximum(low - sizes, 0).sum())
        if best is None or excess < best[0]:
            best = (excess, labels, prices.copy())
        if excess <= EXCESS_SHARE * n:
            break
        move_prices(costs, labels, sizes, prices, low, high)
    assert best is not None
    _, labels, prices = best
    Paths(costs, labels, low, high).settle(exact)
    return labels, prices


def blocks(n: int) -> Iterator[slice]:
    for first in range(0, n, BLOCK):
        yield slice(first, min(first + BLOCK, n))


def cheapest(costs: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """int32 [n]: the cluster of least cost + price."""
    labels = np.empty(len(costs), np.int32)
    for rows in blocks(len(costs)):
        labels[rows] = (costs[rows] + prices).argmin(1)
    return labels


def move_prices(costs: np.ndarray, labels: np.ndarray, sizes: np.ndarray, prices: np.ndarray, low: int,
                high: int) -> None:
    """One round, in place. A full cluster rises by the margin that sends away half of its excess (all clusters move at
    once, and a neighbour may have risen too); an empty one falls by the margin that draws half of what it lacks."""
    before = prices.copy()
    for cluster in np.flatnonzero(sizes > high):
        members = np.flatnonzero(labels == cluster)
        totals = costs[members] + before
        own = totals[:, cluster].copy()
        totals[:, cluster] = np.inf
        margin = totals.min(1) - own
        leaving = int(np.ceil((sizes[cluster] - high) / 2))
        prices[cluster] += np.partition(margin, leaving - 1)[leaving - 1] + 1e-6
    lacking = np.flatnonzero(sizes < low)
    if not len(lacking):
        return
    taken = costs[np.arange(len(costs)), labels] + before[labels]
    for cluster in lacking:
        coming = int(np.ceil((low - sizes[cluster]) / 2))
        margin = costs[:, cluster] + before[cluster] - taken
        margin[labels == cluster] = np.inf
        prices[cluster] -= np.partition(margin, coming - 1)[coming - 1] + 1e-6


class Paths:
    """Shortest augmenting paths in the graph of clusters. Changes ``labels`` in place."""

    def __init__(self, costs: np.ndarray, labels: np.ndarray, low: int, high: int) -> None:
        self.costs, self.labels, self.low, self.high = costs, labels, low, high
        k = costs.shape[1]
        self.sizes = np.bincount(labels, minlength=k)
        self.edge = np.full((k, k), np.inf, np.float64)
        self.point = np.zeros((k, k), np.int64)
        order = np.argsort(labels, kind="stable")
        self.members = [np.sort(part) for part in np.split(order, np.cumsum(self.sizes)[:-1])]
        self.tolerance = 1e-6 * max(float(np.abs(costs[:BLOCK]).mean()), 1e-12)
        for cluster in range(k):
            self.refresh(cluster)

    def refresh(self, cluster: int) -> None:
        """The cheapest move out of ``cluster`` to every other one."""
        members = self.members[cluster]
        if not len(members):
            self.edge[cluster] = np.inf
            return
        gain = self.costs[members].astype(np.float64)
        gain -= gain[:, cluster:cluster + 1]
        at = gain.argmin(0)
        self.edge[cluster] = gain[at, np.arange(gain.shape[1])]
        self.point[cluster] = members[at]
        self.edge[cluster, cluster] = np.inf

    def settle(self, exact: bool) -> None:
        """First bring the sizes inside the bounds, then (``exact``) lower the cost inside them while a path does."""
        while (self.sizes > self.high).any():
            self.must(self.sizes > self.high, self.sizes < self.high)
        while (self.sizes < self.low).any():
            self.must(self.sizes > self.low, self.sizes < self.low)
        for _ in range(len(self.labels) if exact else 0):
            path, length = self.shortest(self.sizes > self.low, self.sizes < self.high)
            if not path or length >= -self.tolerance:
                return
            self.shift(path)

    def must(self, sources: np.ndarray, targets: np.ndarray) -> None:
        path, _ = self.shortest(sources, targets)
        if not path:  # prices left rounding behind; any direct move is sound
            edge = np.where(sources[:, None] & targets[None, :], self.edge, np.inf)
            source, target = np.unravel_index(int(edge.argmin()), edge.shape)
            path = [int(source), int(target)]
        self.shift(path)

    def shortest(self, sources: np.ndarray, targets: np.ndarray) -> tuple[list[int], float]:
        """The cheapest path from any source to any target (Bellman-Ford), and its length; [] where there is none."""
        length = np.where(sources, 0.0, np.inf)
        parent = np.full(len(length), -1)
        for _ in range(len(length)):
            through = length[:, None] + self.edge
            new = through.min(0)
            better = new < length - self.tolerance
            if not better.any():
                break
            parent[better] = through.argmin(0)[better]
            length = np.where(better, new, length)
        goal = np.where(targets & (parent >= 0), length, np.inf)
        at = int(goal.argmin())
        path = [at]
        if not np.isfinite(goal[at]):
            return [], 0.0
        while parent[path[-1]] >= 0 and len(path) <= len(length):
            path.append(int(parent[path[-1]]))
        if len(set(path)) != len(path) or not sources[path[-1]]:
            return [], 0.0
        return path[::-1], float(goal[at])

    def shift(self, path: list[int]) -> None:
        """Move one point along every edge of ``path``."""
        moves = [(int(self.point[a, b]), a, b) for a, b in zip(path[:-1], path[1:], strict=True)]
        for point, a, b in moves:
            self.labels[point] = b
            self.members[a] = np.delete(self.members[a], np.searchsorted(self.members[a], point))
            self.members[b] = np.insert(self.members[b], np.searchsorted(self.members[b], point), point)
        self.sizes[path[0]] -= 1
        self.sizes[path[-1]] += 1
        for cluster in path:
            self.refresh(cluster)
