"""What a real recogniser hears in the spoken questions: the first half of the cascade.

The transcripts of a task lie in ``evaluate/heard-TASK-DIGEST.parquet``, with the words that were said beside them; they
are made once per recogniser and speech, by all ranks, and resumed by block. What synthesis has heard already, with the
same recogniser, is taken over.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import jiwer
import pyarrow as pa

from salad_ds.asr import RATE, hear, identity
from salad_ds.audio import resample
from salad_ds.config import Recipe
from salad_ds.errors import DataError
from salad_ds.evaluate.results import Row, RowLog, logged
from salad_ds.evaluate.tasks import Item, Spoken, Task
from salad_ds.files import digest_of
from salad_ds.progress import Progress
from salad_ds.synth.normalize import plain
from salad_ds.table import read_made, write_table
from salad_ds.teacher.ranks import Ranks

BLOCK = 16
"""Clips that are heard before the transcripts are made safe."""


def transcripts(recipe: Recipe, task: Task, items: Sequence[Item], speech: Spoken, ranks: Ranks) -> list[Row]:
    """``{"id", "said", "heard"}`` of every item that has speech, in order. Raises AssetError for a recogniser that
    cannot be loaded."""
    asr, spoken = recipe.evaluate.asr, [item for item in items if item.id in speech]
    made_from = {"asr": identity(asr), "speech": speech.shards.identity(),
                 "items": digest_of([[item.id, item.asked] for item in spoken])}  # fmt: skip
    digest = digest_of(made_from)
    path = recipe.path(f"evaluate/heard-{task.name}-{digest[:8]}.parquet")
    table = read_made(path, made_from)
    if table is None:
        logs = path.with_suffix("")
        done = ranks.first(lambda: logged(logs, "heard", digest))
        todo = [item for item in spoken if item.id not in done]
        parts = [todo[i : i + BLOCK] for i in range(0, len(todo), BLOCK)][ranks.rank :: ranks.size]
        log = RowLog(logs, f"heard.{ranks.rank}", made_from)
        with Progress(f"hear {task.name}", sum(map(len, parts)), "clip", quiet=ranks.rank > 0) as progress:
            for part in parts:
                log.append(heard_block(part, speech, asr))
                progress.update(len(part))
        log.close()
        ranks.gather(None)
        if ranks.rank == 0:
            rows = logged(logs, "heard", digest)
            values = {name: [rows[item.id][name] for item in spoken] for name in ("id", "said", "heard")}
            write_table(path, {name: (pa.string(), column) for name, column in values.items()}, made_from)
            shutil.rmtree(logs)
        ranks.gather(None)
        table = read_made(path, made_from)
    if table is None:
        raise DataError(f"{path} has gone while it was used", "start salad-ds evaluate again")
    return table.to_pylist()


def heard_block(items: Sequence[Item], speech: Spoken, asr: str) -> list[Row]:
    """Transcripts of a few items, by ``hear``, or as synthesis heard them with the same recogniser."""
    rows: list[Row] = []
    fresh = []
    for item in items:
        meta = speech.shards.read(speech.places[item.id]).meta
        known = meta.get("heard") if meta.get("asr") == asr and "heard_words" not in meta else None
        rows.append({"id": item.id, "said": item.asked, "heard": known})
        if known is None:
            fresh.append(len(rows) - 1)
    clips = [speech[rows[i]["id"]] for i in fresh]
    texts = hear([resample(wave, rate, RATE) for wave, rate in clips], RATE, asr) if clips else []
    for i, text in zip(fresh, texts, strict=True):
        rows[i]["heard"] = text
    return rows


def error_rates(rows: Sequence[Row]) -> dict[str, Any]:
    """Word and character errors per word and character that was said, over all rows, both sides as they are spoken
    (``synth.normalize.plain``)."""
    pairs = [(plain(row["said"]), plain(row["heard"])) for row in rows]
    said, heard = [a for a, _ in pairs if a], [b for a, b in pairs if a]
    if not said:
        return {"clips": 0}
    return {"clips": len(said), "wer": float(jiwer.wer(said, heard)), "cer": float(jiwer.cer(said, heard))}
