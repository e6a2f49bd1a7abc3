"""Balanced k-means over embeddings, and what a person needs to name a cluster: telling words and nearest texts.

scikit-learn's k-means finds the first centres on a sample; then assignment and centres are improved in turn with the
balanced assignment of ``assign``: on the sample until that gains nothing, then on all texts. The linear algebra has one
thread per block of texts, and blocks are added up in their order, so the clusters do not depend on how many cores there
are.

Memory of n vectors of width d in k clusters, beside the memory map of the vectors themselves (page cache):
4·n·k (costs) + 40·n (labels, members) + 8·s·(d + k) (a sample of s = min(n, 256·k), and scikit-learn's copy)
+ 8·16384·(d + k) per thread. For 10 M × 1024 and k = 128: 6 GB, and 0.15 GB per thread.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from threadpoolctl import threadpool_limits

from salad_ds.select.assign import balanced, in_blocks, size_bounds

SAMPLE_PER_CLUSTER = 256
STARTS = 3
PLAIN_STEPS = 25
STEPS = 12
ENOUGH = 5e-4
"""Relative gain of a step below which the steps end."""
EXACT_UP_TO = 20_000
"""Texts up to which the assignment is the optimum for its centres; of more it is so to some 1e-6 of the cost."""
WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True)
class Clusters:
    """``labels`` int32 [n]; ``centres`` float32 [k, d]; ``inertia``: mean squared distance to the own centre."""

    labels: np.ndarray
    centres: np.ndarray
    inertia: float

    @property
    def sizes(self) -> np.ndarray:
        return np.bincount(self.labels, minlength=len(self.centres))


def balanced_kmeans(vectors: np.ndarray, k: int, seed: int, steps: int = STEPS, slack: float = 0.1,
                    after: Callable[[], object] = lambda: None) -> Clusters:
    """Cluster ``vectors`` float [n, d] (may be a memory map) into ``k`` clusters whose sizes lie within ``slack`` of
    equal. ``after`` is called after each step, of which there are at most ``steps`` on the sample and as many on all
    texts. Deterministic for a seed. RecipeError when there are fewer rows than k.
    """
    bounds = size_bounds(len(vectors), k, slack)
    random = np.random.default_rng(seed)
    rows = np.sort(random.choice(len(vectors), min(len(vectors), SAMPLE_PER_CLUSTER * k), replace=False))
    with threadpool_limits(1):
        sample = np.ascontiguousarray(vectors[rows], np.float32)
        plain = KMeans(k, n_init=STARTS, max_iter=PLAIN_STEPS, random_state=int(random.integers(2**31))).fit(sample)
        centres, prices = plain.cluster_centers_, None
        if len(sample) < len(vectors):
            found, prices = improved(sample, centres, size_bounds(len(sample), k, slack), steps, prices, after)
            centres = found.centres
        del sample, plain
        return improved(vectors, centres, bounds, steps, prices, after, exact=len(vectors) <= EXACT_UP_TO)[0]


def improved(vectors: np.ndarray, centres: np.ndarray, bounds: tuple[int, int], steps: int, prices: np.ndarray | None,
             after: Callable[[], object], exact: bool = False) -> tuple[Clusters, np.ndarray]:
    """Balanced assignment and new centres in turn, while that gains more than ENOUGH: ``(clusters, prices)``."""
    k = len(centres)
    costs = np.empty((len(vectors), k), np.float32)
    last = np.inf
    for _ in range(steps):
        squared_distances(vectors, centres, costs)
        labels, prices = balanced(costs, *bounds, prices, exact=exact)
        inertia = float(np.take_along_axis(costs, labels[:, None], 1).mean(dtype=np.float64))
        centres = means(vectors, labels, k)
        after()
        if inertia >= last * (1 - ENOUGH):
            break
        last = inertia
    # around its own mean a cluster is tighter than around the centre that it was assigned by
    squared_distances(vectors, centres, costs)
    inertia = float(np.take_along_axis(costs, labels[:, None], 1).mean(dtype=np.float64))
    assert prices is not None
    return Clusters(labels, centres, inertia), prices


def squared_distances(vectors: np.ndarray, centres: np.ndarray, out: np.ndarray) -> None:
    """``out[i, c]`` = squared Euclidean distance, float32 [n, k], block by block."""
    norms = np.einsum("kd,kd->k", centres, centres)

    def block(rows: slice) -> None:
        part = np.asarray(vectors[rows], np.float32)
        np.matmul(part, -2.0 * centres.T, out=out[rows])
        out[rows] += norms
        out[rows] += np.einsum("nd,nd->n", part, part)[:, None]
        np.maximum(out[rows], 0.0, out=out[rows])

    in_blocks(len(vectors), block)


def means(vectors: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Mean vector of each cluster, float32 [k, d] (blocks are summed in float64); zeros for an empty one."""

    def block(rows: slice) -> np.ndarray:
        part, own = np.asarray(vectors[rows], np.float32), labels[rows]
        member = csr_array((np.ones(len(own), np.float32), (own, np.arange(len(own)))), shape=(k, len(own)))
        return member @ part

    sums = np.zeros((k, vectors.shape[1]), np.float64)
    for sum_ in in_blocks(len(vectors), block):
        sums += sum_
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
