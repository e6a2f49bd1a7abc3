"""Balanced k-means over embeddings, and what a person needs to name a cluster: telling words and nearest texts.

Plain k-means (k-means++ and Lloyd's steps on a sample) finds the centres; then assignment and centres are improved in
turn with the balanced assignment of ``assign``. One thread in the linear algebra: sums do not depend on the machine's
number of cores.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from sklearn.cluster import kmeans_plusplus
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from threadpoolctl import threadpool_limits

from salad_ds.select.assign import balanced, blocks, size_bounds

SAMPLE_PER_CLUSTER = 256
SEEDS_PER_CLUSTER = 32
"""Rows of the sample among which k-means++ looks: it is the slow part, and Lloyd's steps see the whole sample."""
STARTS = 3
WORD = re.compile(r"[A-Za-z][a-z]{2,}")


@dataclass(frozen=True)
class Clusters:
    """``labels`` int32 [n]; ``centres`` float32 [k, d]; ``inertia``: mean squared distance to the own centre."""

    labels: np.ndarray
    centres: np.ndarray
    inertia: float

    @property
    def sizes(self) -> np.ndarray:
        return np.bincount(self.labels, minlength=len(self.centres))


def balanced_kmeans(vectors: np.ndarray, k: int, seed: int, steps: int = 12, slack: float = 0.1,
                    after: Callable[[], object] = lambda: None) -> Clusters:
    """Cluster ``vectors`` float32 [n, d] (may be a memory map) into ``k`` clusters whose sizes lie within ``slack`` of
    equal. ``after`` is called after each step. Deterministic for a seed. RecipeError when there are fewer rows than k.
    """
    low, high = size_bounds(len(vectors), k, slack)
    with threadpool_limits(1):
        centres = first_centres(vectors, k, seed)
        best: Clusters | None = None
        prices = None
        costs = np.empty((len(vectors), k), np.float32)
        for _ in range(steps):
            squared_distances(vectors, centres, costs)
            labels, prices = balanced(costs, low, high, prices, exact=False)
            inertia = float(np.take_along_axis(costs, labels[:, None], 1).mean(dtype=np.float64))
            after()
            if best is not None and inertia >= best.inertia * (1 - 1e-5):
                break
            best = Clusters(labels, centres, inertia)
            centres = means(vectors, labels, k)
        assert best is not None
        squared_distances(vectors, best.centres, costs)
        labels, _ = balanced(costs, low, high, prices)
        centres = means(vectors, labels, k)
        squared_distances(vectors, centres, costs)
        inertia = float(np.take_along_axis(costs, labels[:, None], 1).mean(dtype=np.float64))
    return Clusters(labels, centres, inertia)


def first_centres(vectors: np.ndarray, k: int, seed: int) -> np.ndarray:
    """The best of STARTS runs of plain k-means on a sample: float32 [k, d]."""
    random = np.random.default_rng(seed)
    rows = np.sort(random.choice(len(vectors), min(len(vectors), SAMPLE_PER_CLUSTER * k), replace=False))
    sample = np.ascontiguousarray(vectors[rows], np.float32)
    runs = [lloyd(sample, k, int(random.integers(2**31))) for _ in range(STARTS)]
    return min(runs, key=lambda run: run[1])[0]


def lloyd(sample: np.ndarray, k: int, seed: int, steps: int = 15) -> tuple[np.ndarray, float]:
    """Plain k-means: ``(centres float32 [k, d], mean squared distance)``. Emptied clusters take the farthest points."""
    few = np.random.default_rng(seed).choice(len(sample), min(len(sample), SEEDS_PER_CLUSTER * k), replace=False)
    centres, _ = kmeans_plusplus(sample[few].astype(np.float64), k, random_state=seed)
    centres = centres.astype(np.float32)
    costs = np.empty((len(sample), k), np.float32)
    inertia = np.inf
    for _ in range(steps):
        squared_distances(sample, centres, costs)
        labels = costs.argmin(1).astype(np.int32)
        nearest = np.take_along_axis(costs, labels[:, None], 1)[:, 0]
        found = float(nearest.mean(dtype=np.float64))
        empty = np.flatnonzero(np.bincount(labels, minlength=k) == 0)
        labels[np.argsort(-nearest, kind="stable")[:len(empty)]] = empty
        centres = means(sample, labels, k)
        if not len(empty) and found >= inertia * (1 - 1e-5):
            break
        inertia = found
    return centres, inertia


def squared_distances(vectors: np.ndarray, centres: np.ndarray, out: np.ndarray) -> None:
    """``out[i, c]`` = squared Euclidean distance, float32 [n, k], block by block."""
    norms = np.einsum("kd,kd->k", centres, centres)
    for rows in blocks(len(vectors)):
        part = np.asarray(vectors[rows], np.float32)
        np.matmul(part, -2.0 * centres.T, out=out[rows])
        out[rows] += norms
        out[rows] += np.einsum("nd,nd->n", part, part)[:, None]
        np.maximum(out[rows], 0.0, out=out[rows])


def means(vectors: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Mean vector of each cluster, float32 [k, d] (blocks are summed in float64); zeros for an empty one."""
    sums = np.zeros((k, vectors.shape[1]), np.float64)
    for rows in blocks(len(vectors)):
        part, own = np.asarray(vectors[rows], np.float32), labels[rows]
        member = csr_array((np.ones(len(own), np.float32), (own, np.arange(len(own)))), shape=(k, len(own)))
        sums += member @ part
    return (sums / np.maximum(np.bincount(labels, minlength=k), 1)[:, None]).astype(np.float32)


def nearest_rows(vectors: np.ndarray, clusters: Clusters, count: int) -> list[list[int]]:
    """Rows of the ``count`` members nearest to each centre, the nearest first."""
    found = []
    for cluster, centre in enumerate(clusters.centres):
        rows = np.flatnonzero(clusters.labels == cluster)
        distance = ((np.asarray(vectors[rows], np.float32) - centre) ** 2).sum(1)
        found.append(rows[np.argsort(distance, kind="stable")[:count]].tolist())
    return found


def telling_words(texts: Iterator[str] | Sequence[str], labels: np.ndarray, k: int, count: int = 8) -> list[list[str]]:
    """The words that set each cluster apart: the share of its texts that hold the word, times the logarithm of how much
    larger that share is than in all texts. What is as common everywhere tells nothing; stop words are left out."""
    inside: list[Counter[str]] = [Counter() for _ in range(k)]
    for text, label in zip(texts, labels, strict=True):
        words = {word.lower() for word in WORD.findall(text)} - ENGLISH_STOP_WORDS
        inside[label].update(words)
    everywhere: Counter[str] = Counter()
    for counts in inside:
        everywhere.update(counts)
    sizes = np.bincount(labels, minlength=k)
    told = []
    for counts, size in zip(inside, sizes, strict=True):
        score = {word: n / size * np.log(n / size * len(labels) / everywhere[word]) for word, n in counts.items()}
        told.append(sorted(score, key=lambda word: (-score[word], word))[:count])
    return told
