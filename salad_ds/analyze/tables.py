"""The tables of the analyses: as Parquet, whose columns these are, and as lines on a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from salad_ds.analyze.findings import BOTH, Found, Related
from salad_ds.analyze.runs import Checkpoint, Unfinished
from salad_ds.measure.statistics import QUANTITIES
from salad_ds.table import write_table

TEXT, NUMBER, COUNT = pa.string(), pa.float64(), pa.int64()
Columns = dict[str, tuple[pa.DataType, list[Any]]]


def write_tables(out: Path, students: Sequence[Checkpoint], found: Sequence[Found], related: Sequence[Related],
                 stopped: Sequence[Unfinished], made_from: dict[str, Any]) -> dict[str, pa.Table]:
    """Write ``runs``, ``laws``, ``points``, ``regressions`` and ``unfinished`` as Parquet; returns them by name."""
    parts = {"runs": of_runs(students), "laws": of_laws(found), "points": of_points(found),
             "regressions": of_regressions(related), "unfinished": of_unfinished(stopped)}  # fmt: skip
    return {name: write_table(out / f"{name}.parquet", columns, made_from) for name, columns in parts.items()}


def of_runs(students: Sequence[Checkpoint]) -> Columns:
    """One row per checkpoint; ``number`` is its label in the figures. ``trained``, ``measured`` and per task
    ``TASK_status`` are the states of the MLflow runs, "" where there is none."""
    def column(kind: pa.DataType, get: Any) -> tuple[pa.DataType, list[Any]]:
        return kind, [known(get(one)) for one in students]

    def setting(one: Checkpoint, name: str) -> float | None:
        return float(value) if (value := one.setting(name)) else None

    table: Columns = {"number": (COUNT, list(range(1, len(students) + 1)))}
    table["work"] = column(TEXT, lambda one: one.work)
    table["checkpoint"] = column(TEXT, lambda one: one.name)
    for name in ("trained", "measured"):
        table[name] = column(TEXT, lambda one, name=name: run.status if (run := getattr(one, name)) else "")
    for name in QUANTITIES:
        table[name] = column(NUMBER, lambda one, name=name: one.metric(name))
        table[f"{name}_se"] = column(NUMBER, lambda one, name=name: one.metric(f"{name}_se"))
    for name in ("items", "tokens", "passed_over"):
        table[name] = column(COUNT, lambda one, name=name: one.metric(name))
    table["targets_seen"] = column(NUMBER, lambda one: one.targets)
    table["positions_seen"] = column(NUMBER, lambda one: one.positions)
    for name in ("alpha", "steps", "seed"):
        table[name] = column(NUMBER, lambda one, name=name: setting(one, name))
    table["sources"] = column(TEXT, lambda one: one.sources)
    for task in dict.fromkeys(task for one in students for task in one.tasks):
        for name, kind in (("text", NUMBER), ("speech", NUMBER), ("items", COUNT), ("of", COUNT), ("questions", TEXT)):
            table[f"{task}_{name}"] = column(
                kind, lambda one, task=task, name=name: getattr(one.tasks[task], name) if task in one.tasks else None)
        table[f"{task}_status"] = column(
            TEXT, lambda one, task=task: one.evaluated[task].status if task in one.evaluated else "")
    for name in ("trained", "measured"):
        table[f"{name}_id"] = column(TEXT, lambda one, name=name: run.id if (run := getattr(one, name)) else "")
    table["student"] = column(TEXT, lambda one: one.student)
    table["measured_on"] = column(TEXT, lambda one: one.measured_on)
    table["alike"] = column(TEXT, lambda one: one.alike)
    return table


def known(value: Any) -> Any:
    """None for a number that is none; whole numbers stay whole."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def of_laws(found: Sequence[Found]) -> Columns:
    """One row per law or lack of one. M(D) = e + b · (D / unit)^(−beta), D in text targets."""
    def of(get: Any) -> list[Any]:
        return [None if one.law is None else known(get(one.law)) for one in found]

    table: Columns = {"kind": (TEXT, [one.kind for one in found]), "label": (TEXT, [one.label for one in found]),
                      "points": (COUNT, [len(one.data) for one in found]),
                      "items": (COUNT, [one.items for one in found])}  # fmt: skip
    for number, name in enumerate(("e", "b", "beta")):
        table[name] = NUMBER, of(lambda law, name=name: getattr(law, name))
        for end in ("low", "high"):
            table[f"{name}_{end}"] = NUMBER, of(lambda law, end=end, number=number: getattr(law, end)[number])
    table["unit"] = NUMBER, of(lambda law: law.unit)
    table["r2"] = NUMBER, of(lambda law: law.r2)
    table["why"] = TEXT, [one.why for one in found]
    table["runs"] = pa.list_(TEXT), [list(one.ids) for one in found]
    return table


def of_points(found: Sequence[Found]) -> Columns:
    """What the laws were fitted to, and what had too little for one."""
    rows = [(one.kind, one.label, float(data), known(float(m)), known(float(error)))
            for one in found for data, m, error in zip(one.data, one.m, one.errors, strict=True)]  # fmt: skip
    names = {"kind": TEXT, "label": TEXT, "targets_seen": NUMBER, "misalignment": NUMBER, "misalignment_se": NUMBER}
    return {name: (kind, [row[i] for row in rows]) for i, (name, kind) in enumerate(names.items())}


def of_regressions(related: Sequence[Related]) -> Columns:
    """One row per task, accuracy and set of predictors. ``paper_…``: of SALAD's own runs."""
    def of(get: Any) -> list[Any]:
        return [None if one.found is None else known(get(one.found)) for one in related]

    table: Columns = {
        "task": (TEXT, [one.task for one in related]),
        "accuracy": (TEXT, [one.accuracy for one in related]),
        "predictors": (TEXT, [", ".join(one.names) for one in related]),
        "runs": (COUNT, [len(one.runs) for one in related]),
        "loo_r2": (NUMBER, of(lambda found: found.loo_r2)),
        "r2": (NUMBER, of(lambda found: found.r2)),
        "paper_loo_r2": (NUMBER, [one.paper_loo for one in related]),
        "intercept": (NUMBER, of(lambda found: found.coefficients[0])),
    }
    for predictor in BOTH:
        name = re.sub(r"\W", "_", predictor).lower()
        for part, value in (("", "coefficients"), ("_se", "errors"), ("_p", "p")):
            table[name + part] = NUMBER, of(
                lambda found, value=value, predictor=predictor: getattr(found, value)[found.names.index(predictor) + 1]
                if predictor in found.names else None)
        table[f"partial_r2_{name}"] = NUMBER, of(
            lambda found, predictor=predictor: found.partial_r2.get(predictor) if len(found.names) > 1 else None)
        table[f"paper_partial_r2_{name}"] = NUMBER, [one.paper_partial.get(predictor) for one in related]
    table["why"] = TEXT, [one.why for one in related]
    table["measured_on"] = TEXT, [one.measured_on for one in related]
    table["questions"] = TEXT, [one.questions for one in related]
    return table


def of_unfinished(stopped: Sequence[Unfinished]) -> Columns:
    return {"work": (TEXT, [one.run.work for one in stopped]), "stage": (TEXT, [one.run.stage for one in stopped]),
            "status": (TEXT, [one.run.status for one in stopped]), "told": (TEXT, [one.told for one in stopped]),
            "id": (TEXT, [one.run.id for one in stopped])}  # fmt: skip


# ---- for people: the same cells on the terminal and on the page


def shown_runs(students: Sequence[Checkpoint]) -> tuple[list[str], list[list[str]]]:
    """(heads, rows): every number with its count, and with the state of its run where that did not end."""
    tasks = list(dict.fromkeys(task for one in students for task in one.tasks))
    heads = ["", "checkpoint", "text targets", "M", "F", "utterances", *(f"{task}, spoken / written" for task in tasks)]
    rows = []
    for number, one in enumerate(students, 1):
        state = "" if one.measured is None or one.measured.finished else f", {one.measured.status}"
        items = one.metric("items")
        counts = "not measured" if one.measured is None else ("?" if math.isnan(items) else f"{items:,.0f}") + state
        rows.append([str(number), one.label, big(one.targets), spread(one, QUANTITIES[0]), spread(one, "forgetting"),
                     counts, *(answered(one, task) for task in tasks)])  # fmt: skip
    return heads, rows


def answered(one: Checkpoint, task: str) -> str:
    if (found := one.tasks.get(task)) is None:
        return "not asked"
    state = "" if found.complete else f", {one.evaluated[task].status}"
    return f"{share(found.speech)} / {share(found.text)} of {found.items:,}" + (
        f" of {found.of:,}" if found.of != found.items else "") + state


def spread(one: Checkpoint, name: str) -> str:
    value, error = one.metric(name), one.metric(f"{name}_se")
    return decimal(value, 4) + (f" ± {error:.4f}" if math.isfinite(error) else "")


def share(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{100 * value:.1f} %"


def big(value: float) -> str:
    return "unknown" if not math.isfinite(value) else f"{value:,.0f}"


def decimal(value: float | None, digits: int = 3) -> str:
    """A number with a real minus; very small and very large ones with an exponent."""
    if value is None or not math.isfinite(value):
        return "–"
    value = 0.0 if abs(value) < 1e-9 else value
    plain = value == 0 or 10**-digits <= abs(value) < 1e6
    return (f"{value:.{digits}f}" if plain else f"{value:.2e}").replace("-", "−")


def shown_laws(found: Sequence[Found]) -> tuple[list[str], list[list[str]]]:
    heads = ["", "points", "E", "B", "β", "R²", "unit of D"]
    rows = []
    for one in found:
        cells = [one.why, *[""] * 4]
        if (law := one.law) is not None:
            ends = zip((law.e, law.b, law.beta), law.low, law.high, strict=True)
            cells = [*(f"{decimal(value)} [{decimal(low)}, {decimal(high)}]" for value, low, high in ends),
                     decimal(law.r2), big(law.unit)]  # fmt: skip
        rows.append([f"{one.label} ({one.kind})", str(len(one.data)), *cells])
    return heads, rows


def shown_regressions(related: Sequence[Related]) -> tuple[list[str], list[list[str]]]:
    heads = ["", "runs", "leave-one-out R²", "the paper's", "partial R²", "the paper's", "slopes ± s.e."]
    rows = []
    for one in related:
        title = f"{one.task}, {'spoken' if one.accuracy == 'speech' else 'written'}, on {' and '.join(one.names)}"
        cells = [one.why, "", "", "", ""]
        if (found := one.found) is not None:
            slopes = ", ".join(f"{name}: {decimal(value)} ± {decimal(error)}" for name, value, error
                               in zip(found.names, found.coefficients[1:], found.errors[1:], strict=True))  # fmt: skip
            partial = ", ".join(f"{name}: {decimal(value, 2)}" for name, value in found.partial_r2.items())
            theirs = ", ".join(f"{name}: {value:.2f}" for name, value in one.paper_partial.items())
            cells = [decimal(found.loo_r2, 2), "" if one.paper_loo is None else f"{one.paper_loo:.2f}",
                     partial if len(found.names) > 1 else "", theirs, slopes]  # fmt: skip
        rows.append([title, str(len(one.runs)), *cells])
    return heads, rows


def shown_unfinished(stopped: Sequence[Unfinished]) -> tuple[list[str], list[list[str]]]:
    return ["", "state", "how far"], [[f"{one.run.work}/{one.run.stage}", one.run.status, one.told] for one in stopped]


def lines(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for the terminal. A last cell that is followed by empty ones may be as long as it likes."""
    cells = [list(head), *map(list, rows)]
    while_full = [[cell for i, cell in enumerate(row) if any(row[i:])] for row in cells]
    widths = [max((len(row[i]) for row in while_full if len(row) > i + 1), default=0) for i in range(len(head))]
    shown = ["  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip() for row in while_full]
    return "\n  ".join([title, *shown])
