"""``salad-ds select``: embed → cluster → probe → sample, each step kept in a table that the next one reads.

Below ``<select.out>/selection``: embeddings.npy, texts.parquet and names.parquet (cluster), probes.parquet,
clusters.parquet and selected.parquet (sample). A table is made again only when what it is made from has changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from salad_ds.config import Recipe
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError, RecipeError
from salad_ds.files import digest_of, sha256_file
from salad_ds.progress import Progress
from salad_ds.select import embed as embedding
from salad_ds.select.cluster import balanced_kmeans, nearest_rows, telling_words
from salad_ds.select.probe import Measure, probe
from salad_ds.select.sample import Gap, draw, expected_seconds, gap_of, target
from salad_ds.select.table import read_made, read_table, write_table
from salad_ds.synth.synthesize import synthesize_shards, text_items
from salad_ds.train.tracking import open_tracker

STEPS = 12
NEAREST = 3
SHOWN = 160
"""Characters of a nearest text that names.parquet keeps."""


def selection_directory(recipe: Recipe) -> Path:
    return recipe.path(recipe.select.out) / "selection"


def select(recipe: Recipe, measure: Measure | None = None, quiet: bool = False) -> pa.Table:
    """Run every step that is not done and print the table of clusters. Returns clusters.parquet.

    ``measure``: see ``probe.probe``. Raises RecipeError, DataError, CheckpointError, AssetError.
    """
    texts = open_texts(recipe)
    room = selection_directory(recipe)
    vectors_path = room / "embeddings.npy"
    embedder = embedding.Embedder(recipe.select.embedder)
    vectors = embedding.embed(texts, embedder, vectors_path)
    del embedder
    labelled, names = cluster(recipe, texts, vectors, embedding.made_from(vectors_path))
    labels = labelled["cluster"].to_numpy()
    _, clustered_from = read_table(room / "texts.parquet")
    probes = probe(recipe, texts, labels, room, {"clusters": digest_of(clustered_from)}, measure)
    clusters, _ = sample(recipe, labelled, names, probes)
    if not quiet:
        print(report(clusters))
    return clusters


def open_texts(recipe: Recipe) -> ShardSet:
    if not recipe.select.text:
        raise RecipeError("select.text is empty", "name a directory of text shards to select from")
    texts = ShardSet.open(recipe.path(recipe.select.text))
    if texts.kind != "text":
        raise RecipeError(f"select.text is {recipe.select.text}, which holds {texts.kind}",
                          "give a directory of text shards")
    return texts


def cluster(recipe: Recipe, texts: ShardSet, vectors: np.ndarray, embedded_from: dict[str, Any],
            ) -> tuple[pa.Table, pa.Table]:
    """``(texts.parquet, names.parquet)``: every text with its cluster; every cluster with what names it."""
    settings, room = recipe.select, selection_directory(recipe)
    made_from = {"embeddings": embedded_from, "clusters": settings.clusters, "seed": settings.seed}
    labelled = read_made(room / "texts.parquet", made_from)
    names = read_made(room / "names.parquet", made_from)
    if labelled is not None and names is not None:
        return labelled, names
    with Progress("cluster", STEPS, "steps") as bar:
        found = balanced_kmeans(vectors, settings.clusters, settings.seed, STEPS, after=bar.update)
    samples = [texts.read(i) for i in range(len(texts))]
    near = nearest_rows(vectors, found, NEAREST)
    words = telling_words((sample.text for sample in samples), found.labels, settings.clusters)
    names = write_table(room / "names.parquet", {
        "cluster": (pa.int32(), range(settings.clusters)),
        "size": (pa.int64(), found.sizes),
        "p_web": (pa.float64(), found.sizes / len(texts)),
        "words": (pa.list_(pa.string()), words),
        "nearest": (pa.list_(pa.string()), [[samples[i].text[:SHOWN] for i in rows] for rows in near])}, made_from)
    labelled = write_table(room / "texts.parquet", {
        "row": (pa.int64(), range(len(texts))),
        "key": (pa.string(), [sample.key for sample in samples]),
        "text": (pa.string(), [sample.text for sample in samples]),
        "domain": (pa.string(), [str(sample.meta.get("domain", sample.meta.get("source", ""))) for sample in samples]),
        "cluster": (pa.int32(), found.labels)}, made_from)
    return labelled, names


def natural_seconds(recipe: Recipe) -> float:
    """Seconds of natural speech that the stages train on: their speech sources, our own synthetic speech left out."""
    own = {recipe.path(recipe.select.out) / "speech", recipe.path(recipe.synthesize.out)}
    paths = {recipe.path(source.path) for stage in recipe.stages.values() for source in stage.sources
             if source.kind == "speech"} - own
    return sum(ShardSet.open(path).seconds for path in sorted(paths, key=str))


def sample(recipe: Recipe, labelled: pa.Table, names: pa.Table, probes: pa.Table) -> tuple[pa.Table, pa.Table]:
    """``(clusters.parquet, selected.parquet)`` from the tables of the earlier steps."""
    settings, room = recipe.select, selection_directory(recipe)
    budget = {"items": settings.budget_items} if settings.budget_items > 0 else \
        {"seconds": round(settings.budget_share * natural_seconds(recipe), 3)}
    made_from = {"probes": digest_of(read_table(room / "probes.parquet")[1]), "gamma": settings.gamma,
                 "policy": settings.policy, "max_cer": settings.max_cer, "seed": settings.seed, "budget": budget}
    done = [read_made(room / f"{name}.parquet", made_from) for name in ("clusters", "selected")]
    if done[0] is not None and done[1] is not None:
        return done[0], done[1]
    if not any(budget.values()):
        raise DataError("the selection's budget is nothing", "set select.budget_items, or train on natural speech and "
                        "set select.budget_share")
    gaps = gaps_of(probes, len(names), settings.max_cer)
    p_web = names["p_web"].to_numpy()
    aside = np.array([bool(gap.set_aside) for gap in gaps])
    p_target = target(p_web, np.array([gap.m for gap in gaps]), aside, settings.gamma, settings.policy)
    labels = labelled["cluster"].to_numpy()
    characters = np.array([len(text) for text in labelled["text"].to_pylist()], float)
    spoken = [row for row in probes.to_pylist() if row["seconds"] is not None]
    lengths = expected_seconds(characters, np.array([len(row["text"]) for row in spoken]),
                               np.array([row["seconds"] for row in spoken]))
    rows = draw(labels, p_target, settings.seed, budget.get("items"), budget.get("seconds"), lengths)
    counts = np.bincount(labels[rows], minlength=len(names))
    selected = labelled.take(pa.array(rows))
    selected_table = write_table(room / "selected.parquet", {
        "order": (pa.int64(), range(len(rows))),
        **{name: (selected.schema.field(name).type, selected[name].combine_chunks())
           for name in ("row", "key", "text", "domain", "cluster")},
        "expected_seconds": (pa.float64(), lengths[rows])}, made_from)
    clusters = write_table(room / "clusters.parquet", {
        **{name: (names.schema.field(name).type, names[name].combine_chunks()) for name in names.column_names},
        "m": (pa.float64(), [gap.m for gap in gaps]), "m_error": (pa.float64(), [gap.error for gap in gaps]),
        "m_low": (pa.float64(), [gap.low for gap in gaps]), "m_high": (pa.float64(), [gap.high for gap in gaps]),
        "cer": (pa.float64(), [gap.cer for gap in gaps]), "probes": (pa.int64(), [gap.probes for gap in gaps]),
        "set_aside": (pa.string(), [gap.set_aside for gap in gaps]),
        "p_target": (pa.float64(), p_target), "drawn": (pa.int64(), counts)}, made_from)
    return clusters, selected_table


def gaps_of(probes: pa.Table, k: int, max_cer: float) -> list[Gap]:
    rows: list[list[dict[str, Any]]] = [[] for _ in range(k)]
    for row in probes.to_pylist():
        rows[row["cluster"]].append(row)
    return [gap_of([row["m"] for row in own if row["m"] is not None],
                   [row["tokens"] for row in own if row["m"] is not None],
                   [row["cer"] for row in own if row["cer"] is not None], max_cer) for own in rows]


def report(clusters: pa.Table) -> str:
    """The clusters as lines for people, the highest misalignment first."""
    lines = [f"{'cluster':>7} {'texts':>7} {'P_web':>7} {'M':>8} {'± 95 %':>8} {'CER':>6} {'P_target':>8} {'drawn':>6}"
             "  words"]
    rows = sorted(clusters.to_pylist(), key=lambda row: -row["m"] if row["m"] == row["m"] else 0.0)
    for row in rows:
        aside = f" [set aside: {row['set_aside']}]" if row["set_aside"] else ""
        lines.append(f"{row['cluster']:>7} {row['size']:>7} {row['p_web']:>7.4f} {row['m']:>8.4f} "
                     f"{row['m_high'] - row['m']:>8.4f} {row['cer']:>6.3f} {row['p_target']:>8.4f} {row['drawn']:>6}  "
                     f"{', '.join(row['words'][:5])}{aside}")
    aside = sum(bool(row["set_aside"]) for row in rows)
    lines.append(f"{sum(row['drawn'] for row in rows)} texts drawn from {len(rows)} clusters, {aside} set aside")
    return "\n".join(lines)


def synthesize_selected(recipe: Recipe) -> dict[str, Any]:
    """Speak the texts of selected.parquet into ``<select.out>/speech``; returns the manifest. Skipped where done."""
    table, made_from = read_table(selection_directory(recipe) / "selected.parquet")
    texts = open_texts(recipe)
    rows = table["row"].to_pylist()
    clusters = dict(zip(table["key"].to_pylist(), table["cluster"].to_pylist(), strict=True))
    items = ((key, text, {**extra, "cluster": clusters[key]}) for key, text, extra in text_items(texts, rows))
    return synthesize_shards(items, recipe.path(recipe.select.out) / "speech", recipe.synth, source="selected",
                             made_from={"texts": texts.digest, "selected": digest_of(made_from)}, total=len(rows))


def select_and_speak(recipe: Recipe) -> None:
    """``select``, then ``synthesize_selected``; the tables go to MLflow when they are new."""
    table = selection_directory(recipe) / "selected.parquet"
    before = sha256_file(table) if table.is_file() else ""
    clusters = select(recipe)
    manifest = synthesize_selected(recipe)
    if sha256_file(table) == before:
        return
    with open_tracker(recipe, "select") as tracker:
        aside = sum(map(bool, clusters["set_aside"].to_pylist()))
        drawn = sum(clusters["drawn"].to_pylist())
        tracker.metrics({"clusters": len(clusters), "set_aside": aside, "drawn": drawn, "seconds": manifest["seconds"]})
        for path in sorted(table.parent.glob("*.parquet")):
            tracker.artifact(path)
