"""What the report reads: the artefacts that one run left below its work directory, and nothing else.

Missing pieces and pieces that cannot be read are kept by name, so that the report can name them instead of showing
numbers. Nothing here computes a result.
"""

from __future__ import annotations

import json
import math
import os
import platform
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from salad_ds.config import Recipe
from salad_ds.data.shards import ShardSet
from salad_ds.environment import cores
from salad_ds.errors import SaladError
from salad_ds.evaluate.results import load, model_name, overall
from salad_ds.evaluate.shown import counted
from salad_ds.files import read_json, sha256_file
from salad_ds.teacher.shard import open_shard

COLUMNS = {"clusters": {"cluster", "size", "words", "m", "m_error", "cer", "probes", "set_aside", "p_web", "p_target",
                        "drawn"},
           "probes": {"key"}, "selected": {"key", "cluster"}}
"""Columns of the selection's tables that the report needs."""


@dataclass
class StageLog:
    """One training stage: ``rows`` of its log.jsonl in step order, ``planned`` steps, whether it ended."""

    rows: list[dict[str, float]]
    planned: int
    finished: bool
    skipped: list[str] = field(default_factory=list)
    """What was left out of its batches, in words: how often, why, which."""
    probes: list[dict[str, float]] = field(default_factory=list)
    """Rows of its probes.jsonl in step order."""

    @property
    def steps(self) -> int:
        return int(self.rows[-1]["step"]) if self.rows else 0


@dataclass
class Corpus:
    """One directory of shards, from its manifest and the heads of its sidecars."""

    path: str
    kind: str
    source: str
    samples: int
    seconds: float
    shards: int
    rejected: dict[str, int]
    left_out: dict[str, int]
    aligned: int | None
    """Samples with word times; None where no sidecar lies."""


@dataclass
class Run:
    """Everything the report shows. Dictionaries are the files' own content (schemas: the stages that write them)."""

    recipe: Recipe
    checkpoints: list[str]
    measure: dict[str, dict[str, Any]] = field(default_factory=dict)
    words: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Word prediction, by checkpoint."""
    sets: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """The further corpora that were measured: set → checkpoint → result."""
    evaluate: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Multiple choice, by model (evaluate/results.py, ``overall``); the summary of each task below ``tasks``."""
    models: list[str] = field(default_factory=list)
    """Those that the recipe evaluates, in the order in which they are shown."""
    logs: dict[str, StageLog] = field(default_factory=dict)
    clusters: list[dict[str, Any]] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)
    selected: list[dict[str, Any]] = field(default_factory=list)
    corpora: list[Corpus] = field(default_factory=list)
    teacher: dict[str, Any] | None = None
    durations: list[dict[str, Any]] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    """(file below the work directory, what it would have told)."""
    problems: list[str] = field(default_factory=list)
    """Files that are there and cannot be used, one sentence each."""
    made_from: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every file read, by its path below the work directory."""

    def steps_until(self, checkpoint: str) -> int:
        """Optimizer steps that led to a checkpoint, over the stages before and including it."""
        names = self.checkpoints[1:self.checkpoints.index(checkpoint) + 1]
        return sum(self.logs[name].steps for name in names if name in self.logs)


def read_run(recipe: Recipe) -> Run:
    """Read what is there. Never raises for a missing or damaged artefact."""
    run = Run(recipe, ["init", *recipe.stages])
    for checkpoint in run.checkpoints:
        read_result(run, run.measure, f"measure/{checkpoint}.json", checkpoint, "M, its controls, F and L_DIST",
                    ("misalignment", "forgetting", "distillation"))
        if recipe.measure.words:
            read_detail(run, run.words, f"measure/{checkpoint}/words.json", checkpoint, "the words predicted by")
        for one in recipe.measure.sets:
            results = run.sets.setdefault(one.name, {})
            read_detail(run, results, f"measure/{checkpoint}/{one.name}.json", checkpoint, f"M and F on {one.name} of")
    read_evaluations(run)
    for name, stage in recipe.stages.items():
        read_log(run, name, stage.steps)
    if recipe.select.text:
        for table in ("clusters", "probes", "selected"):
            read_table(run, table)
    read_corpora(run)
    if recipe.teacher.mode == "store":
        read_teacher(run)
    read_durations(run)
    return run


def take(run: Run, name: str, told: str) -> Path | None:
    """The path of an artefact if it exists; its digest is noted. Else it is noted as missing."""
    path = run.recipe.path(name)
    if not path.is_file():
        run.missing.append((name, told))
        return None
    run.made_from[name] = sha256_file(path)
    return path


def read_result(run: Run, into: dict[str, dict[str, Any]], name: str, checkpoint: str, told: str,
                parts: tuple[str, ...]) -> None:
    """A measure file: refused by name if it is about another checkpoint or a number is not finite."""
    path = take(run, name, f"{told} of {checkpoint}")
    if path is None:
        return
    try:
        result = read_json(path)
        if result["schema"] != 1 or result["checkpoint"] != checkpoint or result["items"] < 1:
            raise ValueError(f"it is about checkpoint {result['checkpoint']!r} with {result['items']} items")
        for part in parts:
            value = result[part].get("mean", result[part].get("accuracy"))
            if not math.isfinite(value):  # a standard error may be NaN: one utterance has none
                raise ValueError(f"{part} is {value}")
        into[checkpoint] = result
    except (SaladError, KeyError, TypeError, ValueError) as error:
        run.problems.append(f"{name} cannot be used: {error!s}")


def read_evaluations(run: Run) -> None:
    """Every model's answers to every task of the recipe; what is not finished is a problem with its count."""
    settings = run.recipe.evaluate
    if not settings.tasks:
        return
    others = [model_name(entry) for entry in settings.models if entry != "student"]
    references = [name for name in others if name in ("base", "cascade")]
    students = run.checkpoints if "student" in settings.models else []
    run.models = [*references, *students, *(name for name in others if name not in references)]
    for model in run.models:
        found = {}
        for task in settings.tasks:
            name = f"evaluate/{model}/{task.name}.json"
            path = take(run, name, f"the accuracy of {model} on {task.name}")
            if path is None:
                continue
            try:
                one = load(path)
                if one["model"] != model or one["task"] != task.name:
                    raise ValueError(f"it is about {one['model']!r} on {one['task']!r}")
                if not one["complete"]:
                    run.problems.append(f"{model} on {task.name}: {counted(one)}")
                found[task.name] = one
            except (SaladError, KeyError, TypeError, ValueError) as error:
                run.problems.append(f"{name} cannot be used: {error!s}")
        if any(one["items"] for one in found.values()):
            run.evaluate[model] = overall(found, settings.seed)


def read_detail(run: Run, into: dict[str, dict[str, Any]], name: str, checkpoint: str, told: str) -> None:
    """A file of measure/<checkpoint>/: refused by name if it is about another checkpoint or holds nothing."""
    path = take(run, name, f"{told} {checkpoint}")
    if path is None:
        return
    try:
        result = read_json(path)
        if result["schema"] != 1 or result["checkpoint"] != checkpoint or not isinstance(result["overall"], dict):
            raise ValueError(f"it is about checkpoint {result['checkpoint']!r}")
        into[checkpoint] = result
    except (SaladError, KeyError, TypeError, ValueError) as error:
        run.problems.append(f"{name} cannot be used: {error!s}")


def read_steps(run: Run, name: str, path: Path) -> list[dict[str, float]]:
    """The numbers of a file with a line per step, in their order; lines that cannot be read are counted."""
    rows: dict[int, dict[str, float]] = {}
    torn = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            rows[int(row["step"])] = {key: float(value) for key, value in row.items()
                                      if isinstance(value, (int, float))}
        except (ValueError, KeyError, TypeError):
            torn += 1
    if torn:
        run.problems.append(f"{name}: {torn} line(s) cannot be read and are left out")
    return [rows[step] for step in sorted(rows)]


def read_log(run: Run, stage: str, planned: int) -> None:
    path = take(run, f"{stage}/log.jsonl", f"the training curves of {stage}")
    if path is None:
        return
    ordered = read_steps(run, f"{stage}/log.jsonl", path)
    if ordered:
        run.logs[stage] = StageLog(ordered, planned, ordered[-1]["step"] >= planned)
        if run.recipe.stages[stage].probe_every:
            probes = take(run, f"{stage}/probes.jsonl", f"M and F during {stage}")
            run.logs[stage].probes = read_steps(run, f"{stage}/probes.jsonl", probes) if probes is not None else []
        if ordered[-1]["step"] < planned:
            run.problems.append(f"{stage} stopped after step {int(ordered[-1]['step'])} of {planned}")
        done = path.with_name("done.json")
        if done.is_file():
            for reason, entry in read_json(done).get("skipped", {}).items():
                names = ", ".join(dict.fromkeys(entry["examples"]))
                run.logs[stage].skipped.append(f"left out {entry['count']} times: {names} {reason}")


def read_table(run: Run, table: str) -> None:
    name = f"{run.recipe.select.out}/selection/{table}.parquet"
    path = take(run, name, {"clusters": "the clusters of Stage II", "probes": "their probes",
                            "selected": "the texts drawn"}[table])
    if path is None:
        return
    try:
        rows = pq.read_table(path)
        if lacking := COLUMNS[table] - set(rows.column_names):
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
        setattr(run, table, rows.to_pylist())
    except (OSError, ValueError) as error:
        run.problems.append(f"{name} cannot be read: {str(error).splitlines()[0]}")


def read_corpora(run: Run) -> None:
    work = run.recipe.path(".")
    names = {corpus.out for corpus in run.recipe.corpora} | {source.path for stage in run.recipe.stages.values()
                                                             for source in stage.sources}
    if run.recipe.synthesize.text:
        names.add(run.recipe.synthesize.out)
    areas = ("speech", "text", "evaluate", run.recipe.select.out)
    inside = {str(path.parent.relative_to(work)) for area in areas for path in (work / area).rglob("manifest.json")}
    inside |= {name for name in names if not os.path.isabs(name) and "://" not in name}
    for name in sorted(inside):
        path = take(run, f"{name}/manifest.json", f"the shards of {name}")
        if path is None:
            continue
        try:
            content = read_json(path)
            if content.get("kind") not in ("speech", "text"):
                continue
            rejected, left_out = ({reason: int(row["count"]) for reason, row in content.get(part, {}).items()}
                                  for part in ("rejected", "left_out"))
            sidecars = sorted(path.parent.glob("*.words.jsonl"))
            aligned = sum(max(0, sum(1 for _ in open(sidecar, "rb")) - 1) for sidecar in sidecars) if sidecars else None
            run.corpora.append(Corpus(name, content["kind"], str(content.get("source", "")), int(content["samples"]),
                                      float(content.get("seconds") or 0.0), len(content["shards"]), rejected,
                                      left_out, aligned))
        except (SaladError, KeyError, TypeError, ValueError, AttributeError) as error:
            run.problems.append(f"{name}/manifest.json cannot be used: {error!s}")


def read_teacher(run: Run) -> None:
    name = f"{run.recipe.teacher.store}/store.json"
    path = take(run, name, "the teacher store")
    if path is None:
        return
    try:
        run.teacher = dict(read_json(path), shards=0, texts=0, rows=0, bytes=0)
        for shard in sorted(path.parent.glob("*.safetensors")):
            header = open_shard(shard).header
            for key, amount in (("shards", 1), ("texts", header["records"]), ("rows", header["rows"]),
                                ("bytes", shard.stat().st_size)):
                run.teacher[key] += amount
    except (SaladError, KeyError, TypeError, ValueError) as error:
        run.teacher = None
        run.problems.append(f"{name} cannot be used: {error!s}")


def read_durations(run: Run) -> None:
    path = take(run, "run.json", "how long each stage took")
    if path is None:
        return
    try:
        content = read_json(path)
        for row in content["stages"] if isinstance(content, dict) else content:
            run.durations.append({"stage": str(row["stage"]), "seconds": float(row["seconds"]),
                                  "skipped": bool(row.get("skipped", False))})
    except (SaladError, KeyError, TypeError, ValueError) as error:
        run.durations.clear()
        run.problems.append(f"run.json cannot be used: {error!s}")


def machine() -> dict[str, str | int | bool]:
    """The machine that writes the report."""
    model = ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        pass
    versions = {name: version(name) for name in ("torch", "deepspeed", "transformers")}
    gpu = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
    return {"cpu": model or platform.processor() or platform.machine(), "cores": cores(),
            "gpu": gpu and "+cpu" not in versions["torch"], "python": platform.python_version(), **versions}


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def open_speech(recipe: Recipe) -> ShardSet | None:
    """The speech of the selected texts, None where there is none."""
    try:
        shards = ShardSet.open(recipe.path(recipe.select.out) / "speech")
    except SaladError:
        return None
    return shards if shards.kind == "speech" and len(shards) else None
