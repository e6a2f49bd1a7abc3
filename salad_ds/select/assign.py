"""Balanced assignment: every point to a cluster, sizes between bounds, at (nearly) the least total cost.

This is a transport problem, solved in two steps:

1. *Prices.* Each cluster gets a price; every point takes the cluster of least cost + price. Such an assignment is
   always the cheapest one with the sizes it happens to have. The prices that give the right sizes maximise the
   problem's dual (a cluster that is full may cost more than nothing, one at its least size less than nothing, any
   other costs nothing). Its corners are rounded off by an entropy (a softmin of width ``eps``), so that L-BFGS-B finds
   the maximum, and the rounding is taken back in LEVELS.
2. *Paths.* The few points still in excess are moved along shortest augmenting paths between clusters (edge A→B: the
   cheapest point of A to move to B). This keeps the assignment the cheapest for its sizes, and goes on while a path
   still lowers the cost within the bounds, so that for small problems the result is the optimum.

Memory: the cost matrix, 4·n·k bytes (10 M points, 128 clusters: 5.1 GB), 20 bytes per point, and BLOCK points' costs a
few times per thread. Threads share the blocks; what they add up is added in the blocks' order, so the result does not
depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from scipy.optimize import minimize

from salad_ds.environment import cores
from salad_ds.errors import RecipeError

T = TypeVar("T")
BLOCK = 16384
LEVELS = (0.2, 0.05, 0.01)
"""Widths of the softmin, in standard deviations of the costs."""
ITERATIONS = 40
"""Of L-BFGS-B, at most, per level."""
AT_ONCE = 1 << 17
"""Of more points than this, one path moves several at a time: point by point, ten million would take hours."""


def size_bounds(n: int, k: int, slack: float = 0.1) -> tuple[int, int]:
    """Smallest and largest cluster: within ``slack`` of n / k, widened to whole points where that is narrower."""
    if not 1 <= k <= n:
        raise RecipeError(f"select.clusters is {k} for {n} texts", "use fewer clusters, or give more texts")
    return (min(int(np.ceil((1 - slack) * n / k)), n // k), max(int((1 + slack) * n / k), -(-n // k)))


def balanced(costs: np.ndarray, low: int, high: int, prices: np.ndarray | None = None,
             exact: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """``(labels int32 [n], prices float64 [k])`` for ``costs`` float32 [n, k], sizes in [low, high].

    ``prices``: those of a similar problem, to start from. ``exact`` False leaves the last gains: the sizes hold, and
    the cost is the least for the sizes found, which need not be the best ones. Deterministic: ties go to the lower
    cluster and point.
    """
    n, k = costs.shape
    if not low * k <= n <= high * k:
        raise ValueError(f"{n} points do not fit {k} clusters of {low} to {high}")
    spread = float(costs[:BLOCK].std())
    levels = LEVELS if prices is None else LEVELS[-1:]
    prices = np.zeros(k) if prices is None else prices
    for level in levels if spread > 0 else ():
        prices = priced(costs, low, high, prices, level * spread)
    labels = cheapest(costs, prices)
    Paths(costs, labels, low, high).settle(exact)
    return labels, prices


def priced(costs: np.ndarray, low: int, high: int, prices: np.ndarray, eps: float) -> np.ndarray:
    """The prices float64 [k] that maximise the smoothed dual, from ``prices``: their negative part stands for the least
    size, their positive part for the largest."""
    n, k = costs.shape

    def loss(parts: np.ndarray) -> tuple[float, np.ndarray]:
        up, down = parts[:k], parts[k:]
        value, sizes = softmin(costs, up - down, eps)
        return (high * up.sum() - low * down.sum() - value) / n, np.concatenate([high - sizes, sizes - low]) / n

    start = np.concatenate([np.maximum(prices, 0), np.maximum(-prices, 0)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * (2 * k),
                     options={"maxiter": ITERATIONS, "ftol": 1e-12, "gtol": 1e-9}).x
    return found[:k] - found[k:]


def softmin(costs: np.ndarray, prices: np.ndarray, eps: float) -> tuple[float, np.ndarray]:
    """Sum over the points of the soft minimum of cost + price, and its gradient: soft sizes float64 [k]."""
    scaled, slope = (prices / eps).astype(np.float32), np.float32(-1 / eps)

    def block(rows: slice) -> tuple[float, np.ndarray]:
        part = costs[rows] * slope
        part -= scaled
        top = part.max(1, keepdims=True)
        part -= top
        np.exp(part, out=part)
        total = part.sum(1)
        part /= total[:, None]
        return float((np.log(total) + top[:, 0]).sum(dtype=np.float64)), part.sum(0, dtype=np.float64)

    values, sizes = zip(*in_blocks(len(costs), block), strict=True)
    return -eps * float(np.sum(values)), np.sum(sizes, axis=0)


def blocks(n: int) -> Iterator[slice]:
    for first in range(0, n, BLOCK):
        yield slice(first, min(first + BLOCK, n))


def in_blocks(n: int, work: Callable[[slice], T]) -> list[T]:
    """``work`` of every block of ``n`` points, by all cores (numpy lets go of the interpreter); results in order."""
    with ThreadPoolExecutor(min(cores(), -(-n // BLOCK))) as pool:
        return list(pool.map(work, blocks(n)))


def cheapest(costs: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """int32 [n]: the cluster of least cost + price."""
    labels, prices = np.empty(len(costs), np.int32), prices.astype(np.float32)

    def block(rows: slice) -> None:
        labels[rows] = (costs[rows] + prices).argmin(1)

    in_blocks(len(costs), block)
    return labels


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
        gain = self.costs[members]
        gain -= self.costs[members, cluster][:, None]
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
        self.shift(path, max(1, len(self.labels) // AT_ONCE))

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

    def shift(self, path: list[int], most: int = 1) -> None:
        """Move a point along every edge of ``path``; up to ``most``, if they keep its ends inside the bounds."""
        ends = self.sizes[path[0]] - self.low, self.high - self.sizes[path[-1]]
        count = max(1, min(most, *ends, *(len(self.members[cluster]) for cluster in path[:-1])))
        moves = [(self.cheapest_moves(a, b, count), a, b) for a, b in zip(path[:-1], path[1:], strict=True)]
        for points, a, b in moves:
            self.labels[points] = b
            self.members[a] = np.setdiff1d(self.members[a], points, assume_unique=True)
            self.members[b] = np.union1d(self.members[b], points)
        self.sizes[path[0]] -= count
        self.sizes[path[-1]] += count
        for cluster in path:
            self.refresh(cluster)

    def cheapest_moves(self, a: int, b: int, count: int) -> np.ndarray:
        """int64 [count]: the members of ``a`` that cost least to move to ``b``, sorted."""
        if count == 1:
            return self.point[a, b:b + 1]
        gain = self.costs[self.members[a], b] - self.costs[self.members[a], a]
        return np.sort(self.members[a][np.argsort(gain, kind="stable")[:count]])
