"""The probe: a few texts of every cluster are spoken, heard by a recogniser, and put to the student.

The misalignment M says how far the student, hearing the text, is from the teacher reading it. The character error rate
tells a domain the student does not understand from speech that does not say the text: a high M there is the engine's
fault. Each of the three steps keeps what it has done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from salad_ds.audio import decode
from salad_ds.config import Recipe
from salad_ds.data.shards import ShardSet
from salad_ds.errors import CheckpointError, DataError
from salad_ds.files import digest_of, sha256_file
from salad_ds.measure.asr import character_error_rate, hear
from salad_ds.progress import Progress
from salad_ds.select.table import read_made, write_table
from salad_ds.synth.synthesize import synthesize_shards, text_items

Measure = Callable[[Recipe, Path, Path], list[dict[str, Any]]]
"""(recipe, directory of the student, directory of speech shards with word times) → one {"key", "m": mean KL per
predicted text token (nats), "tokens"} per utterance that could be measured."""
PER_SHARD = 32


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


def probe(recipe: Recipe, texts: ShardSet, labels: np.ndarray, directory: Path, made_from: dict[str, Any],
          measure: Measure | None = None) -> pa.Table:
    """Speak, hear and measure the probes; returns ``probes.parquet``: one row per probe text.

    Columns: row, key, cluster, text, heard, cer, m (nats per token), tokens, seconds, voice, rejected (why it could not
    be spoken or measured, else empty). ``measure`` defaults to ``measure.divergences.misalignment_of_shards``.
    """
    from salad_ds.measure.divergences import misalignment_of_shards, weights_identity

    settings = recipe.select
    student = student_directory(recipe)
    rows = probe_rows(labels, settings.clusters, settings.probe_items, settings.seed)
    spoken_from = {"texts": texts.digest, "rows": digest_of(rows.tolist())}
    made_from = {**made_from, **spoken_from, "synth": digest_of(vars(recipe.synth) | {"workers": 0}),
                 "asr": settings.asr, "student": weights_identity(student)}
    table = read_made(directory / "probes.parquet", made_from)
    if table is not None:
        return table
    # Named by what it holds, so that another seed or engine leaves the earlier probes alone.
    room = directory / f"probe-{digest_of([spoken_from, made_from['synth']])[:12]}"
    manifest = synthesize_shards(text_items(texts, rows.tolist()), room / "speech", recipe.synth, source="probe",
                                 made_from=spoken_from, samples_per_shard=PER_SHARD, total=len(rows), max_bad_share=1.0)
    spoken = ShardSet.open(room / "speech") if manifest["samples"] else None
    if spoken is None:
        raise DataError("none of the probe texts can be spoken", "look at select.text; English is expected")
    heard = hear_shards(spoken, room, settings.asr)
    measured = {item["key"]: item for item in (measure or misalignment_of_shards)(recipe, student, room / "speech")}
    return write_probes(directory / "probes.parquet", texts, labels, rows, spoken, heard, measured, made_from)


def hear_shards(spoken: ShardSet, room: Path, asr: str) -> dict[str, tuple[str, float]]:
    """key → (what was heard, character error rate). One small table per shard, so a killed run goes on at the next."""
    found: dict[str, tuple[str, float]] = {}
    at = 0
    with Progress("hear", len(spoken), "probes") as bar:
        for number, shard in enumerate(spoken.shards):
            made_from = {"shard": sha256_file(shard), "asr": asr}
            size = spoken.manifest["shards"][number]["samples"]
            path = room / f"heard-{digest_of(asr)[:8]}-{shard.stem}.parquet"
            table = read_made(path, made_from)
            if table is None:
                table = hear_samples([spoken.read(i) for i in range(at, at + size)], path, asr, made_from)
            for row in table.to_pylist():
                found[row["key"]] = (row["heard"], row["cer"])
            at += size
            bar.update(size)
    return found


def hear_samples(samples: list[Any], path: Path, asr: str, made_from: dict[str, Any]) -> pa.Table:
    decoded = [decode(sample.audio) for sample in samples]
    texts: list[str] = [""] * len(samples)
    for rate in sorted({rate for _, rate in decoded}):
        places = [i for i, (_, own) in enumerate(decoded) if own == rate]
        for i, text in zip(places, hear([decoded[i][0] for i in places], rate, asr), strict=True):
            texts[i] = text
    rates = [character_error_rate(sample.text, text) for sample, text in zip(samples, texts, strict=True)]
    return write_table(path, {"key": (pa.string(), [sample.key for sample in samples]),
                              "heard": (pa.string(), texts), "cer": (pa.float64(), rates)}, made_from)


def write_probes(path: Path, texts: ShardSet, labels: np.ndarray, rows: Iterable[int], spoken: ShardSet,
                 heard: dict[str, tuple[str, float]], measured: dict[str, dict[str, Any]],
                 made_from: dict[str, Any]) -> pa.Table:
    said = {spoken.entry(i).key: spoken.read(i).meta for i in range(len(spoken))}
    table: list[dict[str, Any]] = []
    for row in rows:
        sample = texts.read(int(row))
        meta, known = said.get(sample.key), measured.get(sample.key)
        rejected = "" if known else "cannot be measured" if meta else "cannot be spoken"
        table.append({"row": int(row), "key": sample.key, "cluster": int(labels[row]), "text": sample.text,
                      "heard": heard[sample.key][0] if meta else None, "cer": heard[sample.key][1] if meta else None,
                      "m": float(known["m"]) if known else None, "tokens": int(known["tokens"]) if known else 0,
                      "seconds": float(meta["duration"]) if meta else None, "voice": meta["voice"] if meta else None,
                      "rejected": rejected})
    kinds = {"row": pa.int64(), "key": pa.string(), "cluster": pa.int32(), "text": pa.string(), "heard": pa.string(),
             "cer": pa.float64(), "m": pa.float64(), "tokens": pa.int64(), "seconds": pa.float64(),
             "voice": pa.string(), "rejected": pa.string()}
    return write_table(path, {name: (kind, [row[name] for row in table]) for name, kind in kinds.items()}, made_from)
