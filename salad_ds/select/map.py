"""The map of the clusters: a sample of the texts, and the clusters' middles, in two dimensions.

Embeddings live in hundreds of dimensions. For a picture, principal components take them to 50 and t-SNE (van der Maaten
& Hinton, 2008) to 2: what is near on the map is near in the embedding; long distances and areas mean nothing. One
thread and a seed: the same embeddings give the same table, byte for byte, on the same machine.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from salad_ds.config import Recipe
from salad_ds.errors import DataError
from salad_ds.files import digest_of
from salad_ds.progress import Progress
from salad_ds.select import embed as embedding
from salad_ds.table import read_made, read_table, write_table

POINTS = 3000
"""Texts on the map, however many there are."""
COMPONENTS = 50
VERSION = 1
"""Raised when the same embeddings give another map than before."""
CENTRE = -1
"""Stands in ``row`` for a cluster's middle."""


def shown_rows(labels: np.ndarray, k: int, points: int, seed: int) -> np.ndarray:
    """About ``points`` rows, sorted: of each cluster its share (but one at least), drawn uniformly inside it."""
    sizes = np.bincount(labels, minlength=k)
    if len(labels) <= points:
        return np.arange(len(labels))
    counts = np.minimum(np.maximum(sizes * points // len(labels), 1), sizes)
    chosen = [np.random.default_rng([seed, 3, cluster]).choice(np.flatnonzero(labels == cluster), count, replace=False)
              for cluster, count in enumerate(counts)]
    return np.sort(np.concatenate(chosen))


def flatten(vectors: np.ndarray, seed: int) -> np.ndarray:
    """float64 [n, 2] of float32 [n, d], each axis scaled to [0, 1]. Three points or fewer lie on their components."""
    if len(vectors) < 2:
        return np.full((len(vectors), 2), 0.5)
    with threadpool_limits(1):
        centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
        kept = min(COMPONENTS, *centred.shape)
        # the full decomposition: no randomness, and its signs are made definite by scikit-learn
        flat = PCA(kept, svd_solver="full").fit_transform(centred)
        if len(flat) > 3:
            spread = flat[:, :2] if kept > 1 else np.repeat(flat, 2, axis=1)
            start = 1e-4 * spread / max(float(spread[:, 0].std()), 1e-12)
            descent = TSNE(perplexity=min(30.0, (len(flat) - 1) / 3), init=start, random_state=seed, n_jobs=1)
            flat = descent.fit_transform(flat).astype(np.float64)
    flat = np.pad(flat, ((0, 0), (0, max(0, 2 - flat.shape[1]))))[:, :2]
    low, span = flat.min(0), np.ptp(flat, axis=0)
    return np.where(span > 0, (flat - low) / np.where(span > 0, span, 1.0), 0.5)


def project(recipe: Recipe, quiet: bool = False) -> pa.Table:
    """``map.parquet`` in the selection's directory: row, cluster, x, y (both in [0, 1], four decimals).

    A row of CENTRE is the middle (the median) of its cluster's points. Skipped where done; raises DataError where the
    clusters have not been made.
    """
    room = recipe.path(recipe.select.out) / "selection"
    table, clustered_from = read_table(room / "texts.parquet", ["cluster"])
    made_from = {"clusters": digest_of(clustered_from), "points": POINTS, "seed": recipe.select.seed, "map": VERSION}
    done = read_made(room / "map.parquet", made_from)
    if done is not None:
        return done
    labels = table["cluster"].to_numpy()
    k = int(labels.max()) + 1
    rows = shown_rows(labels, k, POINTS, recipe.select.seed)
    if embedding.made_from(room / "embeddings.npy") != clustered_from["embeddings"]:
        raise DataError(f"{room / 'embeddings.npy'} is not what the clusters were made from",
                        "run salad-ds select again")
    vectors = np.load(room / "embeddings.npy", mmap_mode="r", allow_pickle=False)
    with Progress("map", len(rows), "texts", quiet=quiet) as bar:
        places = flatten(np.asarray(vectors[rows], np.float32), recipe.select.seed)
        bar.update(len(rows))
    own = labels[rows]
    middles = np.array([np.median(places[own == cluster], axis=0) for cluster in range(k)])
    places = np.round(np.concatenate([middles, places]), 4)
    return write_table(room / "map.parquet", {
        "row": (pa.int64(), np.concatenate([np.full(k, CENTRE), rows])),
        "cluster": (pa.int32(), np.concatenate([np.arange(k), own])),
        "x": (pa.float64(), places[:, 0]), "y": (pa.float64(), places[:, 1])}, made_from)
