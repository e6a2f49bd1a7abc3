"""From finished cells to tables: a CSV of results and one of training curves per experiment, in ``docs/evidence``.

The page is made from these files alone, so that it can be made again where no run lies.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from salad_ds.errors import RecipeError
from salad_ds.evidence.cells import RESULT, Grid
from salad_ds.evidence.drawn import spread
from salad_ds.evidence.grid import Cell, Experiment
from salad_ds.evidence.paired import changes
from salad_ds.files import write_text

NOT_RUN = "not run"
DONE = "done"
QUANTITIES = {"m": "misalignment", "wrong": "misalignment_wrong_speech", "silence": "misalignment_silence",
              "f": "forgetting", "l": "distillation", "gain": "speech_gain_over_wrong",
              "sure_hearing": "overconfidence_hearing", "sure_reading": "overconfidence_reading"}  # fmt: skip
"""Column → quantity of ``measure``, each with its standard error in ``<column>_se``; nats per text token."""
WORDS = {"read": "reading", "heard": "right", "other": "wrong"}
"""Column → condition under which the words behind a span are predicted: shares of them that are the likeliest."""
SET = "_on_"
"""``m_on_<set>`` and ``wrong_on_<set>``: of the sets of ``measure.sets``, a set's groups being sets of their own."""
CHANGE = "change"
"""``change`` and ``change_on_<set>``: M less that of the cell that this one is held against (Experiment.against)."""
DRAWN = ("clusters", "effective", "largest")
"""Columns of runs that select: see drawn.spread."""
NUMBERS = ("steps", "targets", "positions", "seconds", "items", "tokens",
           *(f"{name}{ending}" for name in (*QUANTITIES, CHANGE, *WORDS) for ending in ("", "_se")))  # fmt: skip
NAMED = ("seed", "status", "speech", "machine", "run", "experiment", "setting")
"""Columns and keys of rows besides: no axis is called so."""
CURVES = {"step": "step", "targets": "targets_seen", "positions": "positions_seen", "m": "misalignment",
          "m_se": "misalignment_se", "wrong": "misalignment_wrong_speech", "f": "forgetting",
          "l": "distillation"}  # fmt: skip
"""Column → key of ``probes.jsonl``."""
Row = dict[str, Any]


def result_of(grid: Grid, cell: Cell, against: dict[str, str]) -> Row:
    """One line of the table: the cell's levels, seed and ``status``, and its numbers where it is done. ``against``: see
    Experiment."""
    row: Row = {**cell.levels, "seed": cell.seed, "status": status_of(grid, cell), **dict.fromkeys(NUMBERS, ""),
                "speech": grid.recipe_of(cell).measure.speech, "machine": "", "run": grid.place(cell).name}
    found = grid.result(cell)
    if found is None:
        return row
    steps, measured = steps_of(grid, cell), found["measured"]
    row |= {"steps": len(steps), "items": measured["items"], "tokens": measured["tokens"],
            "targets": round(sum(step["targets"] for step in steps)),
            "positions": round(sum(step["positions"] for step in steps)),
            "seconds": round(sum(step["seconds"] for step in steps))}  # fmt: skip
    row |= columns_of(measured, QUANTITIES) | columns_of(found["words"] or {}, WORDS)
    for name, one in found["sets"].items():
        for group, part in one["groups"].items():
            where = SET + "-".join(filter(None, [name, group]))
            row |= columns_of(part, {f"{column}{where}": QUANTITIES[column] for column in ("m", "wrong")})
    alike = (one for one in grid.cells if one.seed == cell.seed and one.levels == cell.levels | against)
    other = next(alike, cell)
    if other is not cell and grid.result(other) is not None:
        for name, told in changes(measured_in(grid, cell), measured_in(grid, other), list(found["sets"])):
            row |= columns_of({"m": told}, {f"{CHANGE}{SET}{name}" if name else CHANGE: "m"})
    own = spread(grid.place(cell) / grid.recipe_of(cell).select.out / "selection/clusters.parquet")
    row |= {name: number(value) for name, value in own.items()}
    about = found["machine"]
    return row | {"machine": f"{about['cpu']}, {about['cores']} cores, torch {about['torch']}"}


def measured_in(grid: Grid, cell: Cell) -> Path:
    return grid.place(cell) / "measure" / grid.stage(cell)


def status_of(grid: Grid, cell: Cell) -> str:
    """``done``, ``not run``, or how far it is."""
    if grid.result(cell) is not None:
        return DONE
    steps = len(steps_of(grid, cell))
    return f"at step {steps} of {grid.recipe_of(cell).stages[grid.stage(cell)].steps}" if steps else NOT_RUN


def steps_of(grid: Grid, cell: Cell) -> list[dict[str, Any]]:
    return lines_of(grid.place(cell) / grid.stage(cell) / "log.jsonl")


def columns_of(measured: dict[str, Any], names: dict[str, str]) -> Row:
    """Means and standard errors of ``names`` (column → quantity), of those that were measured."""
    return {with_ending(column, ending): number(measured[quantity][kind]) for column, quantity in names.items()
            if quantity in measured for ending, kind in (("", "mean"), ("_se", "se"))}  # fmt: skip


def with_ending(column: str, ending: str) -> str:
    """``m_on_new`` with ``_se``: ``m_se_on_new``."""
    name, on, where = column.partition(SET)
    return f"{name}{ending}{on}{where}"


def curve_of(grid: Grid, cell: Cell) -> list[Row]:
    """The cell's probes within training: a line for each, those of a run under way too."""
    own = {**cell.levels, "seed": cell.seed, "run": grid.place(cell).name}
    return [{**own, **{column: number(line[key]) for column, key in CURVES.items()}}
            for line in lines_of(grid.place(cell) / grid.stage(cell) / "probes.jsonl")]  # fmt: skip


def collect(grid: Grid, name: str, experiment: Experiment, out: Path) -> tuple[Path, Path]:
    """Write ``<name>.csv`` and ``<name>-curves.csv`` below ``out``; returns both.

    What the tables have of a run that is done, but does not lie here, stays: it was run on another machine.
    """
    axes = list(experiment.axes)
    if taken := sorted({*NUMBERS, *CURVES, *DRAWN, *NAMED} & set(axes)):
        raise RecipeError(f"experiment {name}: an axis is called {', '.join(taken)}, as a column of all tables is",
                          "call it something else")
    paths = out / f"{name}.csv", out / f"{name}-curves.csv"
    kept = {row["run"]: row for row in lines_in(paths[0]) if row.get("run") and row["status"] == DONE}
    kept_curves = grouped([row for row in lines_in(paths[1]) if row.get("run") in kept], ["run"])
    earlier = {own[0]["run"]: own for own in kept_curves}
    results, curves = [], []
    for cell in grid.cells:
        run = grid.place(cell).name
        if run in kept and not (grid.place(cell) / RESULT).is_file():
            results.append(kept[run] | cell.levels | {"seed": cell.seed})
            curves += [row | cell.levels | {"seed": cell.seed} for row in earlier.get(run, [])]
        else:
            results.append(result_of(grid, cell, experiment.against))
            curves += curve_of(grid, cell)
    sets = list(dict.fromkeys(column for row in results for column in row if SET in column or column in DRAWN))
    write_csv(paths[0], [*axes, "seed", "status", *NUMBERS, *sets, "speech", "machine", "run"], results)
    write_csv(paths[1], [*axes, "seed", *CURVES, "run"], curves)
    return paths


def number(value: float) -> str:
    """Five digits: more than any of these numbers is known to."""
    return f"{value:.5g}" if abs(value) < 1e5 else f"{value:.0f}"


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Of a log of JSON lines; one that a killed run left half written is passed over."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def write_csv(path: Path, columns: list[str], rows: Iterable[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[Row]:
    """The rows; numbers are floats, NaN where a cell was not run. No file: no rows."""
    numbers = {*NUMBERS, *CURVES, *DRAWN, "seed"}
    return [{key: (float(value) if value else float("nan")) if key in numbers or SET in key else value
             for key, value in row.items()} for row in lines_in(path)]  # fmt: skip


def lines_in(path: Path) -> list[Row]:
    """The rows as they are written."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def grouped(rows: list[Row], names: list[str]) -> list[list[Row]]:
    """Rows that agree in ``names``, in the order of their first."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(found.values())
