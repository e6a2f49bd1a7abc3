"""From MLflow runs to what can be compared: measured checkpoints, training curves, and runs that did not end.

Read are the names under which the stages log: ``measure/sets.py`` (QUANTITIES with ``_se``, ``items``, ``tokens``),
``evaluate/run.py`` (``evaluate.TASK.…``), ``train/course.py`` (``targets_seen``, ``probe_…``). A checkpoint's
measurements and answers belong together by its weights (tag ``salad.student``); its training is named by the tag
``lineage.from.student``. What a run that did not end has told stays beside its status, for the tables alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from salad_ds.analyze.stores import Tracked
from salad_ds.config import BOOKKEEPING
from salad_ds.errors import DataError
from salad_ds.files import digest_of
from salad_ds.measure.statistics import QUANTITIES

NAN = float("nan")
MEAN = "mean over tasks"
COMPARED = ("measure.items", "measure.seed", "data.text_words", "data.speech_words")
"""Settings that M depends on besides the student and the speech."""
AMOUNT = re.compile(r"stages\.[^.]+\.steps|corpora\.\d+\.limit|synthesize\.limit|select\.budget_\w+")
"""Settings that say how much data there is."""
BESIDE = re.compile("|".join((
    r"(name|workdir|threads)$", r"(tracking|storage|measure|evaluate)\.", r"model\.seed$",
    rf"stages\.[^.]+\.({'|'.join(sorted(BOOKKEEPING))}|seed)$",
    r"(data|teacher|corpora\.\d+|align|synth)\.(workers|prefetch|max_bad_share|store|placement|batch_tokens)$",
)))  # fmt: skip
"""Settings that may differ between runs that are called alike: where and how fast they ran, how they were measured, and
seeds."""


@dataclass(frozen=True)
class Answers:
    """One task of one checkpoint. ``text``, ``speech``: accuracies, NaN where there are none; ``items`` of ``of`` were
    answered. ``questions``: digest of what was asked. ``complete``: its run ended."""

    text: float
    speech: float
    items: int
    of: int
    questions: str
    complete: bool


@dataclass(frozen=True)
class Checkpoint:
    """A student that was measured or asked. ``trained``, ``measured``: the runs; ``evaluated``: that of every task.
    ``targets``, ``positions``: text targets and positions that it has been trained on, earlier stages included; NaN
    where MLflow does not know. ``alike``: digest of the settings but the amount of data."""

    name: str
    work: str
    student: str
    trained: Tracked | None
    measured: Tracked | None
    evaluated: dict[str, Tracked]
    tasks: dict[str, Answers]
    targets: float
    positions: float
    alike: str

    def metric(self, name: str) -> float:
        return NAN if self.measured is None else self.measured.metrics.get(name, NAN)

    @property
    def m(self) -> float:
        return self.metric(QUANTITIES[0])

    @property
    def f(self) -> float:
        return self.metric("forgetting")

    @property
    def usable(self) -> bool:
        """Whether its M and F are those of a measurement that ended."""
        return self.measured is not None and self.measured.finished and bool(np.isfinite([self.m, self.f]).all())

    @property
    def measured_on(self) -> str:
        """Digest of the speech and of how it is interleaved: M can be compared where this is the same."""
        if self.measured is None:
            return ""
        speech = self.measured.inputs.get(self.measured.params.get("measure.speech", ""), "")
        return digest_of([speech, *(self.measured.params.get(name) for name in COMPARED)])[:12]

    @property
    def label(self) -> str:
        return f"{self.work}/{self.name}"

    def setting(self, name: str) -> str:
        """A setting of its training stage, "" where it is not known."""
        return "" if self.trained is None else self.trained.params.get(f"stages.{self.trained.stage}.{name}", "")

    @property
    def sources(self) -> str:
        """``speech/natural × 1, text/plain × 0.5``."""
        parts, number = [], 0
        while path := self.setting(f"sources.{number}.path"):
            parts.append(f"{path} × {float(self.setting(f'sources.{number}.weight') or 1):g}")
            number += 1
        return ", ".join(parts)

    def answers(self, task: str) -> Answers | None:
        """Of one task, or MEAN: of the mean over its tasks, which are all complete or count as not."""
        if task != MEAN:
            return self.tasks.get(task)
        if not self.tasks:
            return None
        every = list(self.tasks.values())
        return Answers(float(np.mean([one.text for one in every])), float(np.mean([one.speech for one in every])),
                       sum(one.items for one in every), sum(one.of for one in every),
                       digest_of(sorted((name, one.questions) for name, one in self.tasks.items())),
                       all(one.complete for one in every))  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """M on a training run's probes: after ``data`` [n] text targets (earlier stages included), [n] ``m`` with standard
    errors ``errors``. ``items``: utterances."""

    run: Tracked
    data: np.ndarray
    m: np.ndarray
    errors: np.ndarray
    items: int

    @property
    def label(self) -> str:
        return f"{self.run.work}/{self.run.stage}"


@dataclass(frozen=True)
class Unfinished:
    """A run that did not end, and how far it came, in words."""

    run: Tracked
    told: str


def is_training(run: Tracked) -> bool:
    return f"stages.{run.stage}.steps" in run.params


def checkpoints(runs: list[Tracked]) -> list[Checkpoint]:
    """Every student, by work directory and age; the base LLM and other models that are no students are left out."""
    by_id = {run.id: run for run in runs}
    groups: dict[tuple[str, str, str], list[Tracked]] = {}
    for run in runs:
        kind, _, name = run.stage.partition("-")
        if not is_training(run) and name and kind in ("measure", "evaluate"):
            groups.setdefault((run.parent, name, run.tags.get("salad.student", "")), []).append(run)
    found = []
    for (_, name, student), own in groups.items():
        measurements = [run for run in own if run.stage.startswith("measure-")]
        measured = best(measurements, QUANTITIES[0]) if measurements else None
        trained = next((by_id.get(run.tags["lineage.from.student"]) for run in reversed(own)
                        if "lineage.from.student" in run.tags), None)  # fmt: skip
        if measured is None and trained is None and name != "init":
            continue
        evaluated = {task: best([run for run in own if f"evaluate.{task}.of" in run.metrics], f"evaluate.{task}.items")
                     for task in tasks_of(own)}  # fmt: skip
        targets, positions = (0.0, 0.0) if name == "init" else amounts(trained, by_id)
        found.append(Checkpoint(name, own[0].work, student, trained, measured, evaluated,
                                {task: answers(run, task) for task, run in evaluated.items()}, targets, positions,
                                alike(trained, by_id)))  # fmt: skip
    return found


def best(runs: list[Tracked], metric: str) -> Tracked:
    """Of runs (one at least) in their order the newest that ended with ``metric``, else the newest that has it, else
    the newest."""
    having = [run for run in runs if metric in run.metrics]
    return ([run for run in having if run.finished] or having or runs)[-1]


def tasks_of(runs: list[Tracked]) -> list[str]:
    found = [match[1] for run in runs for key in run.metrics if (match := re.fullmatch(r"evaluate\.(.+)\.of", key))]
    return list(dict.fromkeys(found))


def answers(run: Tracked, task: str) -> Answers:
    text, speech = (run.metrics.get(f"evaluate.{task}.{name}", NAN) for name in ("text_accuracy", "speech_accuracy"))
    items, of = (int(run.metrics.get(f"evaluate.{task}.{name}", 0)) for name in ("items", "of"))
    return Answers(text, speech, items, of, run.inputs.get(f"evaluate.{task}", ""), run.finished)


def earlier(run: Tracked, by_id: Mapping[str, Tracked]) -> Tracked | None:
    """The training that a training run starts from. Raises KeyError where it is not known."""
    if run.params.get(f"stages.{run.stage}.init_from", "null") in ("null", ""):
        return None
    return by_id[run.tags["lineage.from.init_from"]]


def amounts(run: Tracked | None, by_id: Mapping[str, Tracked]) -> tuple[float, float]:
    """(text targets, positions) of a training run and of those that it starts from; NaN where one is not known."""
    targets = positions = 0.0
    try:
        if run is None:
            return NAN, NAN
        while run is not None:
            targets += run.metrics["targets_seen"]
            positions += run.metrics["positions_seen"]
            run = earlier(run, by_id)
    except KeyError:
        return NAN, NAN
    return targets, positions


def alike(run: Tracked | None, by_id: Mapping[str, Tracked]) -> str:
    """Digest of the settings of a training run, and of those it starts from, without AMOUNT and BESIDE; "" where it is
    not known."""
    if run is None:
        return ""
    stages = [run.stage]
    try:
        before = earlier(run, by_id)
        while before is not None:
            stages.append(before.stage)
            before = earlier(before, by_id)
    except KeyError:
        return ""
    kept = {key: value for key, value in run.params.items()
            if not AMOUNT.fullmatch(key) and not BESIDE.match(key)
            and (not key.startswith("stages.") or key.split(".")[1] in stages)}  # fmt: skip
    return digest_of([stages, kept])[:12]


def curves(runs: list[Tracked]) -> list[Curve]:
    """Training runs with probes, also those that did not end. Probes before any data are left out."""
    by_id, found = {run.id: run for run in runs}, []
    for run in filter(is_training, runs):
        if "probe_targets_seen" not in run.metrics:
            continue
        seen, m = (run.history(f"probe_{name}") for name in ("targets_seen", QUANTITIES[0]))
        errors = run.history(f"probe_{QUANTITIES[0]}_se")
        try:
            start = earlier(run, by_id)
            before = amounts(start, by_id)[0] if start is not None else 0.0
        except KeyError:
            before = NAN
        steps = [step for step in m if step in seen and not seen[step] + before <= 0]
        columns = ([table.get(step, NAN) for step in steps] for table in (seen, m, errors))
        data, values, spread = (np.array(column, float) for column in columns)
        found.append(Curve(run, data + before, values, spread, int(run.metrics.get("probe_items", 0))))
    return found


def unfinished(runs: list[Tracked]) -> list[Unfinished]:
    """Runs whose newest state is not that they ended."""
    found = []
    for run in runs:
        if run.finished:
            continue
        if is_training(run):
            last = max(run.history("targets_seen"), default=0)
            told = f"{last:,} of {int(run.params[f'stages.{run.stage}.steps']):,} steps"
        elif tasks := tasks_of([run]):
            every = {task: answers(run, task) for task in tasks}
            told = ", ".join(f"{task}: {one.items:,} of {one.of:,} items" for task, one in every.items())
        else:
            items = run.metrics.get("items")
            told = "no numbers" if items is None else f"{int(items):,} utterances"
        found.append(Unfinished(run, told))
    return found


def measured_runs(runs: list[Tracked]) -> tuple[list[Checkpoint], list[Curve]]:
    """What there is to analyse. Raises DataError where nothing has been measured."""
    students, lines = checkpoints(runs), curves(runs)
    if not students and not lines:
        raise DataError(f"{len(runs)} runs are tracked, and none of them has measured a student",
                        "run salad-ds measure and evaluate, or train with stages.*.probe_every")
    return students, lines
