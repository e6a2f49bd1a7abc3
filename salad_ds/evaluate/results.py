"""Where the answers of a model lie, and what a summary of them says.

Below ``evaluate/MODEL/`` (``init``, ``stage1``, ``base``, ``cascade``, ``hf-NAME``), for each task:

- ``TASK.json``: the summary (``summarise``), ``complete`` or not. It is written before the first answer, so that a
  run that dies leaves one that says so.
- ``TASK.parquet``: one row per item (``COLUMNS``, and per condition ``_logprob`` and ``_tokens`` of every option and
  the ``_choice`` by length-normalised log-probability). Whole, or not there.
- ``TASK/CONDITION.RANK.jsonl``: answers while they are being given, a block at a time, synced; removed in the end. A
  run that is started again, on any number of ranks, goes on behind the last whole block.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from salad_ds.errors import DataError
from salad_ds.evaluate.statistics import Pairs, accuracy, gap
from salad_ds.files import digest_of, read_json, sync_directory, write_json
from salad_ds.table import write_table

SCHEMA = 2
CONDITIONS = ("text", "speech")
COLUMNS = {"id": pa.string(), "domain": pa.string(), "answer": pa.int32(), "shots": pa.int32(),
           "characters": pa.list_(pa.int32()), "error": pa.string()}  # fmt: skip
"""``characters``: of each option, without its leading space. ``error``: why the item was left out, else empty."""
NORMALISATIONS = ("tokens", "characters", "nothing")
"""By what a log-probability is divided: its option's tokens (SALAD's, and the headline), its characters (acc_norm of
lm-evaluation-harness), or nothing (its acc)."""

Row = dict[str, Any]


def model_name(entry: str) -> str:
    """The directory of an entry of ``evaluate.models`` (``student`` is called after its checkpoint)."""
    name, _, reference = entry.partition(":")
    return f"{name}-" + re.sub(r"[^\w.-]+", "-", "-".join(reference.strip("/").split("/")[-2:])) if reference else name


class RowLog:
    """Rows of one rank, appended in blocks: a block is on disk before the next begins, and a torn one is dropped."""

    def __init__(self, directory: Path, name: str, made_from: dict[str, Any]) -> None:
        """Opens ``NAME.jsonl``; one that was made from something else is begun anew."""
        self.path, self.digest = directory / f"{name}.jsonl", digest_of(made_from)
        directory.mkdir(parents=True, exist_ok=True)
        kept = whole(self.path, self.digest)
        self.file = open(self.path, "r+b" if kept else "wb")
        if kept:
            self.file.truncate(kept)
            self.file.seek(kept)
        else:
            self._write([{"schema": SCHEMA, "made_from": self.digest}])
            sync_directory(directory)

    def append(self, rows: Sequence[Row]) -> None:
        self._write([*rows, {"block": len(rows)}])

    def _write(self, lines: Sequence[Row]) -> None:
        self.file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


def blocks(path: Path, digest: str) -> tuple[list[Row], int]:
    """Rows of the whole blocks of a log made from ``digest``, and the bytes up to their end (0: not such a log)."""
    rows: list[Row] = []
    block: list[Row] = []
    at = kept = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file):
                at += len(line)
                row = json.loads(line) if line.endswith(b"\n") else None
                if not isinstance(row, dict) or (number == 0 and row != {"schema": SCHEMA, "made_from": digest}):
                    break
                if number == 0 or "block" in row:
                    if number and row["block"] != len(block):
                        break
                    rows.extend(block)
                    block, kept = [], at
                else:
                    block.append(row)
    except (FileNotFoundError, ValueError):
        pass
    return rows, kept


def whole(path: Path, digest: str) -> int:
    return blocks(path, digest)[1]


def logged(directory: Path, prefix: str, made_from_digest: str) -> dict[str, Row]:
    """``{id: row}`` of all ranks' logs that begin with ``prefix``."""
    found: dict[str, Row] = {}
    for path in sorted(directory.glob(f"{prefix}.*.jsonl")):
        found |= {row["id"]: row for row in blocks(path, made_from_digest)[0]}
    return found


class Result:
    """The files of one model's answers to one task."""

    def __init__(self, directory: Path, task: str, made_from: dict[str, Any]) -> None:
        self.path, self.made_from = directory / f"{task}.json", made_from
        self.table, self.logs = self.path.with_suffix(".parquet"), self.path.with_suffix("")

    def begin(self, head: dict[str, Any]) -> None:
        """Say that answers are being given. ``head``: of the summary."""
        write_json(self.path, {**head, "complete": False, "made_from": self.made_from})

    def log(self, condition: str, rank: int) -> RowLog:
        return RowLog(self.logs, f"{condition}.{rank}", self.made_from)

    def done(self, condition: str) -> dict[str, Row]:
        return logged(self.logs, condition, digest_of(self.made_from))

    def finish(self, rows: list[Row], conditions: Sequence[str]) -> list[Row]:
        """Write all rows; returns them as they are read back."""
        columns = dict(COLUMNS)
        for condition in conditions:
            columns |= {f"{condition}_logprob": pa.list_(pa.float64()), f"{condition}_tokens": pa.list_(pa.int32()),
                        f"{condition}_choice": pa.int32()}  # fmt: skip
        values = {name: (kind, [row.get(name) for row in rows]) for name, kind in columns.items()}
        return write_table(self.table, values, self.made_from).to_pylist()

    def close(self, summary: dict[str, Any]) -> None:
        """Write the summary of whole rows, if it says anything new, and drop the logs."""
        complete = {**summary, "complete": True, "made_from": self.made_from}
        if not self.path.is_file() or read_json(self.path) != json.loads(json.dumps(complete)):
            write_json(self.path, complete)
        shutil.rmtree(self.logs, ignore_errors=True)


def joined(ids: Sequence[str], parts: dict[str, dict[str, Row]]) -> list[Row]:
    """One row per item from its rows of each condition, in the order of ``ids``; an item that could not be asked in
    one condition counts in none."""
    rows = []
    for key in ids:
        own = [part[key] for part in parts.values() if key in part]
        row: Row = {name: own[0][name] for name in ("id", "domain", "answer", "shots")} if own else {}
        row["error"] = next((one["error"] for one in own if one.get("error")), "")
        for condition, part in parts.items():
            if key in part and part[key].get("logprob"):
                row["characters"] = part[key]["characters"]
                row |= {f"{condition}_{name}": part[key][name] for name in ("logprob", "tokens")}
                row[f"{condition}_choice"] = choose(row, condition)
        if len(own) == len(parts):
            rows.append(row)
    return rows


def choose(row: Row, condition: str, by: str = "tokens") -> int:
    """Index of the option with the highest log-probability, normalised by one of NORMALISATIONS."""
    scores = np.array(row[f"{condition}_logprob"])
    lengths = {"tokens": row[f"{condition}_tokens"], "characters": row["characters"], "nothing": [1] * len(scores)}[by]
    return int(np.argmax(scores / np.array(lengths)))


def right(rows: Sequence[Row], condition: str, by: str = "tokens") -> list[bool]:
    return [choose(row, condition, by) == row["answer"] for row in rows]


def summarise(head: dict[str, Any], rows: Sequence[Row], base: Sequence[Row] | None = None) -> dict[str, Any]:
    """The numbers of one model on one task, from the rows there are.

    ``head``: what is known beforehand (``heading``). Of each condition: ``correct``, ``accuracy``, its 95 % interval
    ``ci`` (paired bootstrap over items), and the accuracies by the other normalisations. ``gap``: written minus spoken
    accuracy of this model, paired. ``base_gap``: written accuracy of the base LLM (``base``: its rows) minus the spoken
    one of this model, which is the text-speech understanding gap of SALAD (arXiv 2510.13632). ``domains``: the same
    per domain. ``items`` of ``of`` items were answered in all conditions; ``left_out`` says why others could not be.
    """
    conditions, seed = head["conditions"], head["seed"]
    scored = [row for row in rows if not row["error"] and all(f"{c}_logprob" in row for c in conditions)]
    left: dict[str, Any] = {}
    for row in rows:
        if row["error"]:
            entry = left.setdefault(row["error"], {"count": 0, "examples": []})
            entry["count"] += 1
            entry["examples"] = [*entry["examples"], row["id"]][:3]
    summary = {**head, "items": len(scored), "left_out": left}
    if not scored:
        return summary
    summary["chance"] = float(np.mean([1 / len(row["characters"]) for row in scored]))
    shots = [row["shots"] for row in scored]
    summary["shots"] = {"most": head["shots"]["most"], "mean": float(np.mean(shots)), "least": min(shots)}
    answers = {c: right(scored, c) for c in conditions}
    summary |= numbers(answers, seed)
    for condition in conditions:
        summary[condition] |= {f"accuracy_by_{by}": float(np.mean(right(scored, condition, by)))
                               for by in NORMALISATIONS[1:]}  # fmt: skip
    if base is not None and "speech" in conditions:
        written = {row["id"]: choose(row, "text") == row["answer"] for row in base if not row["error"]}
        pairs = [(written[row["id"]], heard) for row, heard in zip(scored, answers["speech"], strict=True)
                 if row["id"] in written]  # fmt: skip
        if pairs:
            summary["base_gap"] = gap([Pairs.of(*zip(*pairs, strict=True))], seed)
    domains: dict[str, list[int]] = {}
    for i, row in enumerate(scored):
        domains.setdefault(row["domain"], []).append(i)
    summary["domains"] = {
        name: {"items": len(members), **numbers({c: [answers[c][i] for i in members] for c in conditions}, seed)}
        for name, members in sorted(domains.items())
    } if set(domains) != {""} else {}
    return summary


def numbers(answers: dict[str, list[bool]], seed: int) -> dict[str, Any]:
    """Accuracy per condition, and the gap where there are both."""
    conditions = list(answers)
    pairs = Pairs.of(answers[conditions[0]], answers[conditions[-1]])
    found: dict[str, Any] = {c: accuracy([pairs], i, seed) for i, c in enumerate(conditions)}
    if len(conditions) == 2:
        found["gap"] = gap([pairs], seed)
    return found


def load(path: Path) -> dict[str, Any]:
    """A summary from disk; of a run that did not end, that of the answers it left. Raises DataError for a file that is
    none."""
    head = read_json(path)
    if not isinstance(head, dict) or head.get("schema") != SCHEMA or "complete" not in head:
        raise DataError(f"{path} is no summary of schema {SCHEMA}", "delete it and run salad-ds evaluate again")
    if head["complete"]:
        return head
    own = [c for c in head["conditions"] if c not in head.get("borrowed", ())]
    parts = {c: logged(path.with_suffix(""), c, digest_of(head["made_from"])) for c in own}
    ids = list(dict.fromkeys(key for part in parts.values() for key in part))
    return summarise({**head, "conditions": own}, joined(ids, parts))


def overall(tasks: dict[str, dict[str, Any]], seed: int) -> dict[str, Any]:
    """One model over its tasks: of one, its own summary; of several, the means over them (SALAD's mean gap), intervals
    by resampling the items of each. ``task`` names what it is about, ``tasks`` holds the summaries."""
    scored = {name: summary for name, summary in tasks.items() if summary["items"]}
    everything = {
        "tasks": tasks,
        "complete": bool(tasks) and all(s["complete"] for s in tasks.values()),
        "items": sum(s["items"] for s in tasks.values()),
        "of": sum(s["of"] for s in tasks.values()),
    }
    if len(scored) == 1:
        (only,) = scored.values()
        return {**only, **everything}
    everything["task"] = f"mean of {len(scored)} tasks"
    if not scored:
        return everything
    everything["chance"] = float(np.mean([s["chance"] for s in scored.values()]))
    for condition in CONDITIONS:
        if all(condition in s for s in scored.values()):
            counts = [(s[condition]["correct"], s["items"]) for s in scored.values()]
            everything[condition] = accuracy([Pairs(right, 0, 0, of - right) for right, of in counts], 0, seed)
    for name in ("gap", "base_gap"):
        if all(name in s for s in scored.values()):
            everything[name] = gap([Pairs.read(s[name]) for s in scored.values()], seed)
    return everything
