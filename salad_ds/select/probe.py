"""The probe: a few texts of every cluster are spoken, heard by a recogniser, and put to the student.

The misalignment M says how far the student, hearing the text, is from the teacher reading it. The character error rate
tells a domain the student does not understand from speech that does not say the text: a high M there is the engine's
fault. Speaking (with hearing) and measuring each keep what they have done, and the ranks of a launcher share both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from salad_ds.align.run import align_directory, settings_of
from salad_ds.config import Recipe
from salad_ds.data.parts import ranks as own_part
from salad_ds.data.shards import ShardSet
from salad_ds.errors import CheckpointError, DataError
from salad_ds.files import digest_of
from salad_ds.synth.items import NAME as ITEMS
from salad_ds.synth.speak import Job, engine_of
from salad_ds.synth.synthesize import identity, synthesize_shards, text_items
from salad_ds.table import read_made, read_table, write_table
from salad_ds.teacher.identity import teacher_identity
from salad_ds.teacher.ranks import Ranks

Source = Callable[[Sequence[int]], list[dict[str, Any]]]
"""Rows of the corpus → a record of each: the columns of probes.parquet but ``cluster``."""
PER_SHARD = 32
KINDS = {"row": pa.int64(), "key": pa.string(), "cluster": pa.int32(), "text": pa.string(), "heard": pa.string(),
         "cer": pa.float64(), "m": pa.float64(), "tokens": pa.int64(), "seconds": pa.float64(), "voice": pa.string(),
         "rejected": pa.string()}


def probe_rows(labels: np.ndarray, k: int, items: int, seed: int) -> np.ndarray:
    """Up to ``items`` rows of each cluster, drawn uniformly; sorted by row. A cluster's draw depends on no other's."""
    chosen = []
    for cluster in range(k):
        rows = np.flatnonzero(labels == cluster)
        random = np.random.default_rng([seed, 1, cluster])
        chosen.append(random.choice(rows, min(items, len(rows)), replace=False))
    return np.sort(np.concatenate(chosen))


def student_directory(recipe: Recipe) -> Path:
    """Where the probed student lies: ``<stage>/model``, or a directory of its own. Raises CheckpointError."""
    stage = recipe.path(recipe.select.checkpoint)
    for directory in (stage / "model", stage):
        if (directory / "config.json").is_file():
            return directory
    raise CheckpointError(f"select.checkpoint: {stage} holds no student", f"run its training stage first, or set "
                          f"select.checkpoint to one of {', '.join(recipe.stages) or 'the stages'}")


def spoken_from(recipe: Recipe) -> dict[str, str]:
    """Digests of what the probes' speech and its word times depend on, the engine's version too. All of the speech is
    kept, however it is heard.

    Raises RecipeError, AssetError for an engine or recogniser that cannot be used.
    """
    job = Job.of(recipe.synth, None)
    engine = engine_of(job)
    times = {} if engine.times_words else {"engine": recipe.align.engine, **settings_of(recipe.align)}
    return {"synth": digest_of(identity(job, engine)), "times": digest_of(times)}


def probed_from(recipe: Recipe, texts: ShardSet, rows: Sequence[int]) -> dict[str, Any]:
    """What the records of ``rows`` are made from."""
    from salad_ds.measure.divergences import weights_identity, what_counts

    return {"texts": texts.digest, "rows": digest_of(list(map(int, rows))), **spoken_from(recipe),
            "student": weights_identity(student_directory(recipe)),
            "teacher": teacher_identity(recipe.teacher.llm or recipe.model.llm),
            "settings": what_counts(recipe, recipe.select.seed)}


def probe(recipe: Recipe, texts: ShardSet, labels: np.ndarray, directory: Path, clustered_from: dict[str, Any],
          ranks: Ranks, make: bool = True, source: Source | None = None, by: Recipe | None = None) -> pa.Table:
    """``probes.parquet`` in ``directory``: one row per probe text (KINDS). Every rank calls it.

    ``rejected``: why it could not be spoken or measured, else empty; ``m``: nats per token. ``source`` tells the
    records (by default they are spoken and measured below ``directory``), ``by`` the recipe that it measures by.
    ``make`` False raises DataError where there is something to do.
    """
    settings = recipe.select
    rows = probe_rows(labels, settings.clusters, settings.probe_items, settings.seed).tolist()
    made_from = ranks.first(lambda: {"clusters": digest_of(clustered_from), **probed_from(by or recipe, texts, rows)})
    path = directory / "probes.parquet"
    if (done := ranks.first(lambda: read_made(path, made_from))) is not None:
        return done
    if not make:
        raise DataError(f"{path} is not of these clusters and this student", "run the step probe first")
    speech = probe_speech(directory, made_from)
    records = source(rows) if source else speak_and_measure(recipe, texts, rows, speech, ranks)
    return ranks.first(lambda: write_table(path, {
        name: (kind, [int(labels[row["row"]]) if name == "cluster" else row[name] for row in records])
        for name, kind in KINDS.items()}, made_from))


def probe_speech(directory: Path, made_from: dict[str, Any]) -> Path:
    """Where the speech of the probes lies that probes.parquet was ``made_from``: named by what it holds, so that
    another seed or engine leaves the earlier probes alone."""
    named = [made_from[name] for name in ("texts", "rows", "synth")]
    return directory / f"probe-{digest_of(named)[:12]}" / "speech"


def speak_and_measure(recipe: Recipe, texts: ShardSet, rows: Sequence[int], speech: Path,
                      ranks: Ranks) -> list[dict[str, Any]]:
    """The records of ``rows``, whose speech is kept in ``speech``. Every rank calls it and gets all.

    Raises DataError where nothing can be spoken.
    """
    from salad_ds.measure.divergences import misalignment_of_shards

    made_from = {"texts": texts.digest, "rows": digest_of(list(map(int, rows)))}
    ranks.everywhere(lambda: synthesize_shards(
        text_items(texts, rows), speech, recipe.synth, source="probe", made_from=made_from, total=len(rows),
        samples_per_shard=PER_SHARD, max_bad_share=1.0, part=own_part()))
    items = {row["key"]: row for row in ranks.first(lambda: table_of_items(speech)).to_pylist()}
    if all(item["rejected"] for item in items.values()):
        raise DataError(f"none of the probe texts can be spoken ({next(iter(items.values()))['rejected']})",
                        "look at select.text and synth.engine; English is expected")
    # Most engines know their words' times; what another has spoken is aligned like any speech.
    ranks.everywhere(lambda: align_directory(speech, recipe.align, quiet=ranks.rank > 0, part=own_part()))
    measured = {item["key"]: item for item in misalignment_of_shards(recipe, student_directory(recipe), speech)}
    return [record(int(row), texts.read(row).text, items[texts.entry(row).key], measured) for row in rows]


def table_of_items(speech: Path) -> pa.Table:
    if not (speech / ITEMS).is_file():
        raise DataError(f"{speech / ITEMS} is missing: what was heard of its shards is not known any more",
                        f"remove {speech}; the same command speaks its texts again")
    return read_table(speech / ITEMS)[0]


def record(row: int, text: str, item: dict[str, Any], measured: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """``item``: its row of items.parquet."""
    known = measured.get(item["key"])
    return {"row": row, "key": item["key"], "text": text, "heard": item["heard"], "cer": item["cer"],
            "m": float(known["m"]) if known else None, "tokens": int(known["tokens"]) if known else 0,
            "seconds": None if item["rejected"] else item["seconds"], "voice": item["voice"],
            "rejected": item["rejected"] or ("" if known else "cannot be measured")}
