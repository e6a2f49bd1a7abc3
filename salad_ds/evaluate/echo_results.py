"""Where what a student echoed lies, and what it amounts to (evaluate/echo.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jiwer
import numpy as np
import pyarrow as pa

from salad_ds.config import Recipe
from salad_ds.data.order import stable_seed
from salad_ds.errors import DataError
from salad_ds.evaluate.results import Row, logged
from salad_ds.evaluate.spoken_answers import Answer
from salad_ds.evaluate.statistics import RESAMPLES, interval
from salad_ds.files import digest_of, read_json
from salad_ds.synth.normalize import plain

SCHEMA = 1
GIVEN = ("reading", "hearing", "another")
QUESTIONS = (*(("echo", given) for given in GIVEN), ("continue", "hearing"))
"""(prompt, what is given with it) for every utterance."""
RATES = {"wer": ("word_errors", "words"), "cer": ("character_errors", "characters")}
COLUMNS = {"key": pa.string(), "prompt": pa.string(), "given": pa.string(), "heard": pa.string(),
           "reference": pa.string(), "generated": pa.string(), "wer": pa.float64(), "cer": pa.float64(),
           "word_errors": pa.int32(), "words": pa.int32(), "character_errors": pa.int32(), "characters": pa.int32(),
           "tokens": pa.int32(), "stopped": pa.string(), "error": pa.string()}  # fmt: skip
"""``heard``: the words of what was heard or read. ``reference``: the words that should have come; without one, error
rates and counts are null. ``stopped``: see spoken_answers.Answer. ``error``: why there is no answer, else empty."""


class Files:
    """``table``, ``summary``, and ``logs``: where the answers of every rank lie until all are there."""

    def __init__(self, recipe: Recipe, name: str, made_from: dict[str, Any]) -> None:
        self.table = recipe.path(f"evaluate/echo-{name}.parquet")
        self.summary, self.logs = self.table.with_suffix(".json"), self.table.with_suffix("")
        self.name, self.made_from = name, made_from

    def done(self) -> dict[str, Row]:
        return logged(self.logs, "answers", digest_of(self.made_from))


def scored(reference: str, answer: Answer) -> Row:
    """What an answer adds to its row."""
    row: Row = {"generated": answer.text, "tokens": answer.tokens, "stopped": answer.stopped}
    if reference:
        wanted, found = plain(reference), plain(answer.text)
        for kind, process, unit in (("word", jiwer.process_words, "words"),
                                    ("character", jiwer.process_characters, "characters")):  # fmt: skip
            out = process(wanted, found)
            row[f"{kind}_errors"] = out.substitutions + out.deletions + out.insertions
            row[unit] = out.hits + out.substitutions + out.deletions
        row |= {"wer": row["word_errors"] / row["words"], "cer": row["character_errors"] / row["characters"]}
    return row


def load_summary(recipe: Recipe, checkpoint: str) -> dict[str, Any] | None:
    """The summary of a checkpoint (by its name) for a report; of a run that did not end, that of the answers it left,
    with ``complete`` False. None where there is none. Raises DataError for a file that is no summary."""
    path = recipe.path(f"evaluate/echo-{checkpoint}.json")
    if not path.is_file():
        return None
    head = read_json(path)
    if not isinstance(head, dict) or head.get("schema") != SCHEMA or head.get("checkpoint") != checkpoint:
        raise DataError(f"{path} is no summary of schema {SCHEMA}", "delete it and run salad-ds evaluate again")
    if head["complete"]:
        return head
    return {**head, **summarise(list(Files(recipe, checkpoint, head["made_from"]).done().values()), head["seed"])}


def summarise(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """``items``: utterances that were answered in all of GIVEN. Of each of these, ``wer`` and ``cer`` {mean, ci}, the
    mean of its ``tokens``, and how many answers ``stopped`` for which reason. ``gain``: the error rates of ``another``
    minus those of ``hearing``. ``continue``: tokens and stops. ``left_out``: {why: utterances}."""
    own: dict[str, dict[tuple[str, str], Row]] = {}
    for row in rows:
        own.setdefault(row["key"], {})[row["prompt"], row["given"]] = row
    faults = {key: [row["error"] for row in one.values() if row["error"]] for key, one in own.items()}
    whole = [one for key, one in own.items() if len(one) == len(QUESTIONS) and not faults[key]]
    left = [why[0] for why in faults.values() if why]
    summary: dict[str, Any] = {"items": len(whole), "left_out": {why: left.count(why) for why in sorted(set(left))}}
    if not whole:
        return summary
    counts = np.array([[[[one["echo", given][name] for name in names] for names in RATES.values()] for given in GIVEN]
                       for one in whole], dtype=float)  # fmt: skip
    sums, drawn = counts.sum(0), resampled(counts, seed)
    rates, draws = sums[..., 0] / sums[..., 1], drawn[..., 0] / drawn[..., 1]  # [given, rate], [RESAMPLES, given, rate]
    for g, given in enumerate(GIVEN):
        summary[given] = told([one["echo", given] for one in whole])
        summary[given] |= {name: {"mean": float(rates[g, r]), "ci": interval(draws[:, g, r])}
                           for r, name in enumerate(RATES)}  # fmt: skip
    another, hearing = GIVEN.index("another"), GIVEN.index("hearing")
    summary["gain"] = {name: {"mean": float(rates[another, r] - rates[hearing, r]),
                              "ci": interval(draws[:, another, r] - draws[:, hearing, r])}
                       for r, name in enumerate(RATES)}  # fmt: skip
    return summary | {"continue": told([one["continue", "hearing"] for one in whole])}


def resampled(counts: np.ndarray, seed: int) -> np.ndarray:
    """[items, ...] → [RESAMPLES, ...] sums over as many items, drawn with replacement."""
    generator, n = np.random.default_rng(stable_seed("echo", seed)), len(counts)
    flat = counts.reshape(n, -1)
    parts = [generator.multinomial(n, np.full(n, 1 / n), RESAMPLES // 10) @ flat for _ in range(10)]
    return np.concatenate(parts).reshape(RESAMPLES, *counts.shape[1:])


def told(rows: Sequence[Row]) -> dict[str, Any]:
    stops = [row["stopped"] for row in rows]
    return {"tokens": float(np.mean([row["tokens"] for row in rows])),
            "stopped": {why: stops.count(why) for why in sorted(set(stops))}}  # fmt: skip


def metrics(summary: dict[str, Any]) -> dict[str, float]:
    """``echo.items``, ``echo.wer_hearing`` and so on, ``echo.wer_gain``."""
    found: dict[str, float] = {"echo.items": summary["items"]}
    for part in (*GIVEN, "gain"):
        found |= {f"echo.{rate}_{part}": summary[part][rate]["mean"] for rate in ("wer", "cer") if part in summary}
    return found


def shown(summary: dict[str, Any]) -> str:
    """The error rates in a line."""
    parts = [f"{part} {100 * wer['mean']:.1f} % [{100 * wer['ci'][0]:.1f}, {100 * wer['ci'][1]:.1f}]"
             for part in GIVEN if part in summary for wer in [summary[part]["wer"]]]  # fmt: skip
    of = "" if summary["items"] == summary["of"] else f" of {summary['of']}"
    return f"word errors {', '.join(parts) or '–'}  ({summary['items']}{of} utterances)"
