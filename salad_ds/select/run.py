"""``salad-ds select``: embed → cluster → probe → sample, each step kept in a table that the next one reads.

Below ``<select.out>/selection``: embeddings.npy, texts.parquet and names.parquet (cluster), probes.parquet and its
speech (probe), clusters.parquet and selected.parquet (sample). A table is made again only when what it is made from has
changed, and a step may be run alone. Under a launcher the ranks share embedding, speaking and measuring; the first one
writes the tables.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from salad_ds.align.run import align_directory
from salad_ds.config import Recipe
from salad_ds.data.parts import part_of
from salad_ds.data.parts import ranks as own_part
from salad_ds.data.shards import ShardSet
from salad_ds.environment import end_with_parent
from salad_ds.errors import RecipeError, SaladError
from salad_ds.files import digest_of, sole_writer
from salad_ds.progress import clock
from salad_ds.select.assign import size_bounds
from salad_ds.select.embed import embed, made_from
from salad_ds.select.probe import probe, student_directory
from salad_ds.select.steps import budget_of, cluster, clustered_from, open_texts, sample
from salad_ds.synth.synthesize import synthesize_shards, text_items
from salad_ds.table import read_table
from salad_ds.teacher.ranks import Ranks

STEPS = ("embed", "cluster", "probe", "sample")
PATIENCE = 86400.0
"""Seconds to wait for another process that makes the same selection, such as another task of a SLURM array."""


def selection_directory(recipe: Recipe) -> Path:
    return recipe.path(recipe.select.out) / "selection"


def select(recipe: Recipe, step: str = "", quiet: bool = False) -> pa.Table | None:
    """Run every step that is not done, or ``step`` alone (of STEPS), and print what was made, at last the table of
    clusters. Returns clusters.parquet; None for a step before it.

    Raises RecipeError, DataError (also where what ``step`` needs is not there), CheckpointError, AssetError.
    """
    if step not in ("", *STEPS):
        raise RecipeError(f"select has no step {step!r}", f"its steps are {', '.join(STEPS)}")
    texts, room = open_texts(recipe), selection_directory(recipe)
    check(recipe, texts, step)
    end_with_parent()
    with Ranks() as ranks, contextlib.ExitStack() as stack:
        ranks.first(lambda: stack.enter_context(alone(room)))
        quiet = quiet or ranks.rank > 0

        def wanted(name: str) -> bool:
            return step in ("", name)

        def say(text: str) -> None:
            if not quiet:
                print(text, flush=True)

        vectors = embed(recipe, texts, room / "embeddings.npy", ranks, wanted("embed"), quiet)
        if wanted("embed"):
            say(f"embed: {len(vectors):,} texts, {vectors.shape[1]} numbers each ({vectors.dtype}), by "
                f"{recipe.select.embedder}")
        if step == "embed":
            return None
        source = clustered_from(recipe.select, made_from(room / "embeddings.npy"))
        labels = ranks.first(lambda: cluster(recipe, texts, vectors, source, room, wanted("cluster"), quiet))
        if wanted("cluster"):
            sizes = np.bincount(labels)
            say(f"cluster: {len(sizes)} clusters of {sizes.min():,} to {sizes.max():,} texts")
        if step == "cluster":
            return None
        probes = probe(recipe, texts, labels, room, source, ranks, wanted("probe"))
        if wanted("probe"):
            say(told(probes))
        if step == "probe":
            return None
        clusters = ranks.first(lambda: sample(recipe, room, room))
        say(report(clusters))
        return clusters


def check(recipe: Recipe, texts: ShardSet, step: str = "") -> None:
    """What a later step would refuse, before the first one begins. Raises RecipeError, CheckpointError, DataError."""
    size_bounds(len(texts), recipe.select.clusters)
    if step not in ("embed", "cluster"):
        student_directory(recipe)
    if step in ("", "sample"):
        budget_of(recipe)


@contextlib.contextmanager
def alone(room: Path) -> Iterator[None]:
    """Be the only process that selects in ``room``, after waiting for another; what a killed one left half written is
    swept up."""
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(sole_writer(room)):
            print(f"waiting for another process that selects in {room}", file=sys.stderr, flush=True)
            if not stack.enter_context(sole_writer(room, PATIENCE)):
                raise SaladError(f"another process selects in {room}", "wait for it, or end it")
        for part in room.glob(".*.part"):
            part.unlink(missing_ok=True)
        yield


def told(probes: pa.Table) -> str:
    """The probes in one line, for people."""
    rows = probes.to_pylist()
    measured = [row for row in rows if row["m"] is not None]
    heard = [min(row["cer"], 1.0) for row in rows if row["cer"] is not None and row["seconds"] is not None]
    tokens = sum(row["tokens"] for row in measured)
    m = f": M {sum(row['m'] * row['tokens'] for row in measured) / tokens:.4f}" if tokens else ""
    seconds = sum(row["seconds"] or 0.0 for row in rows)
    return (f"probe: {len(rows)} texts, {clock(seconds)} of speech, {len(measured)} measured{m}"
            + (f", CER {sum(heard) / len(heard):.3f}" if heard else ""))


def report(clusters: pa.Table) -> str:
    """The clusters as lines for people, the highest misalignment first, with why one is set aside."""
    lines = [f"{'cluster':>7} {'texts':>7} {'P_web':>7} {'M':>8} {'± 95 %':>8} {'CER':>6} {'P_target':>8} {'drawn':>6}"
             "  words"]
    rows = sorted(clusters.to_pylist(), key=lambda row: -row["m"] if row["m"] == row["m"] else 0.0)
    for row in rows:
        aside = f" [set aside: {row['set_aside']}]" if row["set_aside"] else ""
        lines.append(f"{row['cluster']:>7} {row['size']:>7} {row['p_web']:>7.4f} {row['m']:>8.4f} "
                     f"{row['m_high'] - row['m']:>8.4f} {row['cer']:>6.3f} {row['p_target']:>8.4f} {row['drawn']:>6}  "
                     f"{', '.join(row['words'][:5])}{aside}")
    set_aside = sum(bool(row["set_aside"]) for row in rows)
    lines.append(f"{sum(row['drawn'] for row in rows)} texts drawn from {len(rows)} clusters, {set_aside} set aside")
    return "\n".join(lines)


def synthesize_selected(recipe: Recipe, part: str = "") -> dict[str, Any]:
    """Speak the texts of selected.parquet into ``<select.out>/speech``; returns the manifest. Skipped where done.

    ``part``: see synthesize.synthesize.
    """
    table, drawn_from = read_table(selection_directory(recipe) / "selected.parquet")
    texts = open_texts(recipe)
    rows = table["row"].to_pylist()
    clusters = dict(zip(table["key"].to_pylist(), table["cluster"].to_pylist(), strict=True))
    items = ((key, text, {**extra, "cluster": clusters[key]}) for key, text, extra in text_items(texts, rows))
    return synthesize_shards(items, recipe.path(recipe.select.out) / "speech", recipe.synth, source="selected",
                             made_from={"texts": texts.digest, "selected": digest_of(drawn_from)}, total=len(rows),
                             max_cer=recipe.synth.max_cer, part=part_of(part) if part else own_part())


def select_and_speak(recipe: Recipe, part: str = "") -> None:
    """``select``, then ``synthesize_selected`` (``part``: of the latter). Once all parts are spoken: word times from
    the recipe's aligner where the engine knows none, and the lineage."""
    from salad_ds.select.lineage import record_selection

    with Ranks() as ranks, contextlib.ExitStack() as stack:
        select(recipe)
        ranks.everywhere(lambda: synthesize_selected(recipe, part))
        speech = recipe.path(recipe.select.out) / "speech"
        if not (speech / "manifest.json").is_file():
            return  # another part is still at it
        ranks.first(lambda: stack.enter_context(alone(selection_directory(recipe))))  # two parts may end at once
        ranks.everywhere(lambda: align_directory(speech, recipe.align, recipe.data.max_bad_share,
                                                 quiet=ranks.rank > 0, part=own_part()))
        ranks.first(lambda: record_selection(recipe) and None)
