"""What Stage II changed: the probes of the selection, their very speech, put to the student that was trained on it.

The same utterances with the same interleaving before and after: the change of M is a mean over pairs, far better known
than either M.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import t as student_t

from salad_ds.config import Recipe
from salad_ds.data.shards import ShardSet
from salad_ds.errors import CheckpointError
from salad_ds.files import digest_of
from salad_ds.measure.statistics import ratio
from salad_ds.select.probe import probe_speech
from salad_ds.select.stages import stages_on_selection
from salad_ds.table import read_made, read_table, write_table
from salad_ds.teacher.ranks import Ranks


@dataclass(frozen=True)
class Change:
    """M after minus M before over ``n`` probes that were measured both times, nats per text token.

    ``error``: its standard error (ratio estimator over the paired differences; NaN for fewer than two); ``low``,
    ``high``: 95 % interval (Student's t). ``before``, ``after``: M over the same probes, and their standard errors.
    """

    n: int
    mean: float
    error: float
    low: float
    high: float
    before: dict[str, float]
    after: dict[str, float]


def paired(before: Sequence[float], after: Sequence[float], tokens: Sequence[int]) -> Change | None:
    """The Change from M per utterance (nats per token) before and after; None without any."""
    if not len(tokens):
        return None
    counts = np.asarray(tokens, float)
    sums = [np.asarray(values, float) * counts for values in (before, after)]
    change = ratio(sums[1] - sums[0], counts)
    half = float(student_t.ppf(0.975, len(counts) - 1) * change["se"]) if len(counts) > 1 else float("nan")
    return Change(len(counts), change["mean"], change["se"], change["mean"] - half, change["mean"] + half,
                  ratio(sums[0], counts), ratio(sums[1], counts))


def remeasure(recipe: Recipe, stage: str) -> pa.Table:
    """``probes-<stage>.parquet``: the probes that probes.parquet could measure, measured with the student of ``stage``.

    Columns: key, cluster, m (nats per token; null where it cannot be measured), tokens. Skipped where done. Under a
    launcher every rank calls it. Raises DataError without a selection or its probe speech, CheckpointError without the
    stage's student.
    """
    from salad_ds.measure.divergences import misalignment_of_shards

    room, student = recipe.path(recipe.select.out) / "selection", recipe.path(stage) / "model"
    path = room / f"probes-{stage}.parquet"
    with Ranks() as ranks:
        probes, probed_from = ranks.first(lambda: read_table(room / "probes.parquet"))
        speech = probe_speech(room, probed_from)
        made_from = ranks.first(lambda: measured_from(recipe, room, probed_from, speech, student, stage))
        if (done := ranks.first(lambda: read_made(path, made_from))) is not None:
            return done
        found = {item["key"]: item for item in misalignment_of_shards(recipe, student, speech)}
        rows = [row for row in probes.to_pylist() if row["m"] is not None]
        return ranks.first(lambda: write_table(path, {
            "key": (pa.string(), [row["key"] for row in rows]),
            "cluster": (pa.int32(), [row["cluster"] for row in rows]),
            "m": (pa.float64(), [found[row["key"]]["m"] if row["key"] in found else None for row in rows]),
            "tokens": (pa.int64(), [found[row["key"]]["tokens"] if row["key"] in found else 0 for row in rows]),
        }, made_from))


def measured_from(recipe: Recipe, room: Path, probed_from: dict[str, Any], speech: Path, student: Path,
                  stage: str) -> dict[str, Any]:
    """What probes-<stage>.parquet is made from."""
    from salad_ds.measure.divergences import weights_identity, what_counts

    if not student.is_dir():
        raise CheckpointError(f"there is no student in {student}",
                              f"train it first: salad-ds train RECIPE --stage {stage}")
    return {"probes": digest_of(probed_from), "selected": selected_identity(room),
            "speech": ShardSet.open(speech).identity(), "student": weights_identity(student),
            "settings": what_counts(recipe, recipe.select.seed)}


def selected_identity(room: Path) -> str:
    """Names the draw: a student that was trained on another one tells nothing about this one."""
    return digest_of(read_table(room / "selected.parquet", ["key"])[1])


def measured_after(recipe: Recipe) -> tuple[str, dict[str, dict[str, Any]]] | None:
    """(stage, its rows by key) of the last stage that was measured after training on this very selection."""
    room = recipe.path(recipe.select.out) / "selection"
    probed = digest_of(read_table(room / "probes.parquet", ["key"])[1])
    for stage in reversed(stages_on_selection(recipe)):
        if (room / f"probes-{stage}.parquet").is_file():
            table, made_from = read_table(room / f"probes-{stage}.parquet")
            if (made_from.get("probes"), made_from.get("selected")) == (probed, selected_identity(room)):
                return stage, {row["key"]: row for row in table.to_pylist() if row["m"] is not None}
    return None


def finish(recipe: Recipe) -> Path | None:
    """``remeasure`` for every stage that has been trained on the selection as it stands, then lineage and page.

    Returns the page's path; None, and nothing done, where the selected speech is not whole: others still work at their
    parts. Under a launcher every rank calls it.
    """
    from salad_ds.select.lineage import record_selection
    from salad_ds.select.page import selection_page
    from salad_ds.select.run import alone

    if not (recipe.path(recipe.select.out) / "speech/manifest.json").is_file():
        return None
    with Ranks() as ranks, contextlib.ExitStack() as stack:
        ranks.first(lambda: stack.enter_context(alone(recipe.path(recipe.select.out) / "selection")))
        for stage in ranks.first(lambda: trained(recipe)):
            remeasure(recipe, stage)
        ranks.first(lambda: record_selection(recipe) and None)
        return ranks.first(lambda: selection_page(recipe))


def trained(recipe: Recipe) -> list[str]:
    """Of the stages that train on the selection, those that have been, with the shards and settings of today."""
    marked = [stage for stage in stages_on_selection(recipe) if (recipe.path(stage) / "done.json").is_file()]
    if not marked:
        return []
    from salad_ds.train.loop import already_done, stage_digest  # DeepSpeed: seconds, only where it is asked

    return [stage for stage in marked if already_done(recipe.path(stage), stage_digest(recipe, stage))]
