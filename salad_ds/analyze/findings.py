"""What the runs say together, as rows: laws of M over data, and regressions of accuracy on M and F.

A row that cannot have numbers says why, in words, and has none. Only what ended takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from salad_ds.analyze.fit import Law, fit
from salad_ds.analyze.regress import Regression, regress
from salad_ds.analyze.runs import MEAN, Checkpoint, Curve
from salad_ds.errors import DataError

BOTH = ("log M", "F")
SPECIFICATIONS = (("speech", BOTH[:1]), ("speech", BOTH[1:]), ("speech", BOTH),
                  ("text", BOTH[1:]), ("text", BOTH[:1]), ("text", BOTH))  # fmt: skip
"""(accuracy, predictors) in the order of the tables; logarithms are natural."""
PAPER_LOO: dict[tuple[str, tuple[str, ...]], float] = {("speech", BOTH[:1]): 0.75, ("text", BOTH[1:]): 0.74}
PAPER_PARTIAL = {("speech", "log M"): 0.56, ("text", "F"): 0.32}
"""SALAD (arXiv 2510.13632): leave-one-out R² of the single predictors, partial R² given the other."""


@dataclass(frozen=True)
class Found:
    """A law, or ``why`` there is none. ``kind``: ``training curve`` (M on probes of one run) or ``runs`` (M of those
    that differ only in the amount of data, and in seeds). ``data`` [n] text targets, ``m``, ``errors``; ``ids``: of the
    runs; ``items``: utterances M rests on."""

    kind: str
    label: str
    ids: tuple[str, ...]
    items: int
    data: np.ndarray
    m: np.ndarray
    errors: np.ndarray
    law: Law | None
    why: str


@dataclass(frozen=True)
class Related:
    """One regression, or ``why`` there is none. ``accuracy``: ``speech`` or ``text``, of ``task``; ``names``: the
    predictors; ``runs``: those that take part; ``measured_on``, ``questions``: what they have in common."""

    task: str
    accuracy: str
    names: tuple[str, ...]
    measured_on: str
    questions: str
    runs: tuple[Checkpoint, ...]
    found: Regression | None
    why: str

    @property
    def paper_loo(self) -> float | None:
        return PAPER_LOO.get((self.accuracy, self.names))

    @property
    def paper_partial(self) -> dict[str, float]:
        """By predictor, where it is one of both."""
        return {name: value for (accuracy, name), value in PAPER_PARTIAL.items()
                if accuracy == self.accuracy and self.names == BOTH}  # fmt: skip


def laws(curves: Sequence[Curve], students: Sequence[Checkpoint]) -> list[Found]:
    """One per training curve, one per group of runs that differ only in the amount of data (two amounts at least)."""
    found = [law_of("training curve", one.label, (one.run.id,), one.items, one.data, one.m, one.errors, unfit(one))
             for one in curves]
    for group in groups(students):
        data, m, errors = (np.array([getter(one) for one in group], float)
                           for getter in (lambda one: one.targets, lambda one: one.m, error_of))  # fmt: skip
        label = f"{len(group)} runs such as {group[0].label}"
        ids = tuple(one.measured.id for one in group if one.measured is not None)
        found.append(law_of("runs", label, ids, int(min(one.metric("items") for one in group)), data, m,
                            errors, ""))
    return found


def unfit(curve: Curve) -> str:
    """Why a curve is left out, "" if it is not."""
    if not curve.run.finished:
        return f"its run did not end ({curve.run.status}): left out"
    return "MLflow does not know the data of the stage that it started from" if np.isnan(curve.data).any() else ""


def law_of(kind: str, label: str, ids: tuple[str, ...], items: int, data: np.ndarray, m: np.ndarray,
           errors: np.ndarray, why: str) -> Found:
    law = None
    if not why:
        try:
            law = fit(data, m, errors if np.isfinite(errors).any() else None)
        except DataError as error:
            why = error.what
    return Found(kind, label, ids, items, data, m, errors, law, why)


def error_of(one: Checkpoint) -> float:
    return one.metric("misalignment_se")


def groups(students: Sequence[Checkpoint]) -> list[list[Checkpoint]]:
    """Finished measurements whose settings differ in the amount of data alone, of two amounts or more."""
    table: dict[tuple[str, str, str], list[Checkpoint]] = {}
    for one in distinct(students):
        if one.usable and one.alike and one.targets > 0:
            table.setdefault((one.name, one.alike, one.measured_on), []).append(one)
    return [group for group in table.values() if len({one.targets for one in group}) > 1]


def distinct(students: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The same weights measured twice on the same speech are one point: the newest of a finished measurement."""
    table: dict[tuple[str, str], Checkpoint] = {}
    for number, one in enumerate(students):
        key = (one.student or f"unknown {number}", one.measured_on)
        if key not in table or one.usable >= table[key].usable:
            table[key] = one
    return list(table.values())


def regressions(students: Sequence[Checkpoint]) -> list[Related]:
    """Every task, and their mean where there are several, over trained students whose measurement and answers are
    complete; apart where they were not asked, or measured on, the same."""
    tasks = list(dict.fromkeys(task for one in students for task in one.tasks))
    found = []
    for task in [MEAN, *tasks] if len(tasks) > 1 else tasks:
        table: dict[tuple[str, str], list[Checkpoint]] = {}
        for one in distinct(students):
            answers = one.answers(task)
            if one.usable and one.name != "init" and answers is not None and answers.complete:
                table.setdefault((one.measured_on, answers.questions), []).append(one)
        alike = sorted(table.items(), key=lambda item: -len(item[1])) or [(("", ""), [])]
        found += [relation(task, accuracy, names, key, members)
                  for key, members in alike for accuracy, names in SPECIFICATIONS]
    return found


def relation(task: str, accuracy: str, names: tuple[str, ...], key: tuple[str, str],
             members: list[Checkpoint]) -> Related:
    chosen = [one for one in members if np.isfinite(accuracy_of(one, task, accuracy))]
    found, why = None, ""
    try:
        with np.errstate(divide="ignore"):
            predictors = {name: np.array([value_of(one, name) for one in chosen]) for name in names}
        found = regress(np.array([accuracy_of(one, task, accuracy) for one in chosen]), predictors)
    except DataError as error:
        why = f"{error.what}: {error.mend}"
    return Related(task, accuracy, names, *key, tuple(chosen), found, why)


def accuracy_of(one: Checkpoint, task: str, accuracy: str) -> float:
    answers = one.answers(task)
    return float("nan") if answers is None else answers.speech if accuracy == "speech" else answers.text


def value_of(one: Checkpoint, name: str) -> float:
    return float(np.log(one.m)) if name == "log M" else one.f
