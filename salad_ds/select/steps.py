"""The steps that begin and end at tables: texts into clusters, clusters into a draw. Texts pass through one by one, so
that a corpus may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from salad_ds.config import Recipe, SelectConfig
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError, RecipeError
from salad_ds.files import digest_of
from salad_ds.progress import Progress
from salad_ds.select.cluster import balanced_kmeans, nearest_rows, telling_words
from salad_ds.select.sample import Gap, draw, expected_seconds, gap_of, shrunk, target
from salad_ds.table import read_made, read_table, write_rows, write_table

NEAREST = 3
SHOWN = 160
"""Characters of a nearest text that names.parquet keeps."""
TOLD_FROM = 4096
"""Texts per cluster, drawn by the seed, that its telling words are found in."""
TEXTS = {"row": pa.int64(), "key": pa.string(), "text": pa.string(), "domain": pa.string(), "cluster": pa.int32()}


def open_texts(recipe: Recipe) -> ShardSet:
    if not recipe.select.text:
        raise RecipeError("select.text is empty", "name a directory of text shards to select from")
    texts = ShardSet.open(recipe.path(recipe.select.text))
    if texts.kind != "text":
        raise RecipeError(f"select.text is {recipe.select.text}, which holds {texts.kind}",
                          "give a directory of text shards")
    return texts


def clustered_from(settings: SelectConfig, embedded_from: dict[str, Any]) -> dict[str, Any]:
    """What texts.parquet and names.parquet are made from."""
    return {"embeddings": embedded_from, "clusters": settings.clusters, "seed": settings.seed}


def cluster(recipe: Recipe, texts: ShardSet, vectors: np.ndarray, made_from: dict[str, Any], room: Path,
            make: bool = True, quiet: bool = False) -> np.ndarray:
    """The cluster of every text, int32 [n]; kept in ``room`` as texts.parquet, with names.parquet: every cluster with
    what names it. ``make`` False raises DataError where they would have to be made."""
    settings = recipe.select
    labelled = read_made(room / "texts.parquet", made_from, ["cluster"])
    if labelled is not None and read_made(room / "names.parquet", made_from) is not None:
        return labelled["cluster"].to_numpy()
    if not make:
        raise DataError(f"{room / 'texts.parquet'} is not of these embeddings and this select.clusters",
                        "run the step cluster first")
    with Progress("cluster", None, "steps", quiet=quiet) as bar:
        found = balanced_kmeans(vectors, settings.clusters, settings.seed, after=bar.update)
    k = settings.clusters
    near = nearest_rows(vectors, found, NEAREST)
    told = told_from(found.labels, k, settings.seed)
    words = telling_words((texts.read(int(i)).text for i in told), found.labels[told], k)
    write_table(room / "names.parquet", {
        "cluster": (pa.int32(), range(k)),
        "size": (pa.int64(), found.sizes),
        "p_web": (pa.float64(), found.sizes / len(texts)),
        "words": (pa.list_(pa.string()), words),
        "nearest": (pa.list_(pa.string()), [[texts.read(i).text[:SHOWN] for i in rows] for rows in near])}, made_from)
    write_rows(room / "texts.parquet", TEXTS, labelled_rows(texts, found.labels), made_from)
    return found.labels


def told_from(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Up to TOLD_FROM rows of each cluster, in the order of the rows."""
    random = np.random.default_rng([seed, 4])
    members = (np.flatnonzero(labels == cluster) for cluster in range(k))
    return np.sort(np.concatenate([random.permutation(rows)[:TOLD_FROM] for rows in members]))


def labelled_rows(texts: ShardSet, labels: np.ndarray) -> Iterator[tuple[Any, ...]]:
    for row, label in enumerate(labels):
        sample = texts.read(row)
        yield row, sample.key, sample.text, str(sample.meta.get("domain", sample.meta.get("source", ""))), label


def natural_seconds(recipe: Recipe) -> float:
    """Seconds of natural speech that the stages train on: their speech sources, our own synthetic speech left out."""
    own = {recipe.path(recipe.select.out) / "speech", recipe.path(recipe.synthesize.out)}
    paths = {recipe.path(source.path) for stage in recipe.stages.values() for source in stage.sources
             if source.kind == "speech"} - own
    return sum(ShardSet.open(path).seconds for path in sorted(paths, key=str))


def budget_of(recipe: Recipe) -> dict[str, Any]:
    """``{"items": n}``, or ``{"seconds": s}`` of speech. Raises DataError for a budget of nothing."""
    settings = recipe.select
    if settings.budget_items > 0:
        return {"items": settings.budget_items}
    seconds = 3600 * settings.budget_hours or settings.budget_share * natural_seconds(recipe)
    if not seconds > 0:
        raise DataError("the selection's budget is nothing", "set select.budget_items or select.budget_hours, or train "
                        "on natural speech and set select.budget_share")
    return {"seconds": round(seconds, 3)}


def sample(recipe: Recipe, clustering: Path, room: Path) -> pa.Table:
    """``clusters.parquet``, with selected.parquet beside it in ``room``, where probes.parquet lies; ``clustering``:
    where texts.parquet and names.parquet do."""
    settings = recipe.select
    probes, probed_from = read_table(room / "probes.parquet")
    budget = budget_of(recipe)
    made_from = {"probes": digest_of(probed_from), "gamma": settings.gamma, "policy": settings.policy,
                 "shrink": settings.shrink, "max_cer": settings.max_cer, "seed": settings.seed,
                 "budget": budget}
    done = read_made(room / "clusters.parquet", made_from)
    if done is not None and read_made(room / "selected.parquet", made_from, ["order"]) is not None:
        return done
    names = read_table(clustering / "names.parquet")[0]
    labels = read_table(clustering / "texts.parquet", ["cluster"])[0]["cluster"].to_numpy()
    gaps = gaps_of(probes, len(names), settings.max_cer)
    m, error = np.array([gap.m for gap in gaps]), np.array([gap.error for gap in gaps])
    used = shrunk(m, error, np.array([gap.probes for gap in gaps])) if settings.shrink else m
    aside = np.array([bool(gap.set_aside) for gap in gaps])

    def write(p_target: np.ndarray, drawn: np.ndarray, made_from: dict[str, Any]) -> pa.Table:
        return write_table(room / "clusters.parquet", {
            **{name: (names.schema.field(name).type, names[name].combine_chunks()) for name in names.column_names},
            "m": (pa.float64(), m), "m_error": (pa.float64(), error),
            "m_low": (pa.float64(), [gap.low for gap in gaps]), "m_high": (pa.float64(), [gap.high for gap in gaps]),
            "m_used": (pa.float64(), used), "cer": (pa.float64(), [gap.cer for gap in gaps]),
            "probes": (pa.int64(), [gap.probes for gap in gaps]),
            "set_aside": (pa.string(), [gap.set_aside for gap in gaps]), "p_target": (pa.float64(), p_target),
            "drawn": (pa.int64(), drawn)}, made_from)

    nothing = np.zeros(len(names))
    try:
        p_target = target(names["p_web"].to_numpy(), used, aside, settings.gamma, settings.policy)
    except DataError:  # the table says of each cluster why; it is no draw that a later run could take up
        write(nothing, nothing.astype(np.int64), made_from | {"drawn": "nothing"})
        raise
    spoken = [row for row in probes.to_pylist() if row["seconds"] is not None]
    lengths = expected_seconds(characters(clustering / "texts.parquet"), np.array([len(row["text"]) for row in spoken]),
                               np.array([row["seconds"] for row in spoken]))
    rows = draw(labels, p_target, settings.seed, budget.get("items"), budget.get("seconds"), lengths)
    selected = taken(clustering / "texts.parquet", rows)
    write_table(room / "selected.parquet", {
        "order": (pa.int64(), range(len(rows))),
        **{name: (kind, selected[name].combine_chunks()) for name, kind in TEXTS.items()},
        "expected_seconds": (pa.float64(), lengths[rows])}, made_from)
    return write(p_target, np.bincount(labels[rows], minlength=len(names)), made_from)


def gaps_of(probes: pa.Table, k: int, max_cer: float) -> list[Gap]:
    rows: list[list[dict[str, Any]]] = [[] for _ in range(k)]
    for row in probes.to_pylist():
        rows[row["cluster"]].append(row)

    def gap(own: list[dict[str, Any]]) -> Gap:
        measured, spoken = [[row for row in own if row[name] is not None] for name in ("m", "seconds")]
        return gap_of([row["m"] for row in measured], [row["tokens"] for row in measured],
                      [row["cer"] for row in spoken if row["cer"] is not None], len(spoken), len(own) - len(spoken),
                      max_cer)

    return [gap(own) for own in rows]


def characters(path: Path) -> np.ndarray:
    """Length of every text of texts.parquet, float64 [n]."""
    parts = [pc.utf8_length(batch["text"]) for batch in pq.ParquetFile(path).iter_batches(columns=["text"])]
    return np.concatenate([part.to_numpy(zero_copy_only=False) for part in parts]).astype(float)


def taken(path: Path, rows: np.ndarray) -> pa.Table:
    """``rows`` of texts.parquet, in their order; its row groups are read one at a time."""
    file, first = pq.ParquetFile(path), 0
    order, parts = np.argsort(rows, kind="stable"), []
    ordered = rows[order]
    for group in range(file.num_row_groups):
        last = first + file.metadata.row_group(group).num_rows
        own = ordered[np.searchsorted(ordered, first):np.searchsorted(ordered, last)]
        if len(own):
            parts.append(file.read_row_group(group).take(pa.array(own - first)))
        first = last
    table = pa.concat_tables(parts) if parts else file.schema_arrow.empty_table()
    return table.take(pa.array(np.argsort(order, kind="stable")))
