"""From finished cells to tables: a CSV of results and one of training curves per experiment, in ``docs/evidence``.

The page is made from these files alone, so that it can be made again where no run lies.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from salad_ds.evidence.cells import STAGE, Grid
from salad_ds.evidence.grid import Cell
from salad_ds.files import write_text

NOT_RUN = "not run"
DONE = "done"
QUANTITIES = {"m": "misalignment", "wrong": "misalignment_wrong_speech", "silence": "misalignment_silence",
              "f": "forgetting", "l": "distillation", "gain": "speech_gain_over_wrong"}  # fmt: skip
"""Column → quantity of ``measure``, each with its standard error in ``<column>_se``; nats per text token."""
WORDS = {"read": "reading", "heard": "right", "other": "wrong"}
"""Column → condition under which the words behind a span are predicted: shares of them that are the likeliest."""
NUMBERS = ("steps", "targets", "positions", "seconds", "items", "tokens",
           *(f"{name}{ending}" for name in (*QUANTITIES, *WORDS) for ending in ("", "_se")))  # fmt: skip
CURVES = {"step": "step", "targets": "targets_seen", "positions": "positions_seen", "m": "misalignment",
          "m_se": "misalignment_se", "wrong": "misalignment_wrong_speech", "f": "forgetting",
          "l": "distillation"}  # fmt: skip
"""Column → key of ``probes.jsonl``."""

Row = dict[str, Any]


def result_of(grid: Grid, cell: Cell) -> Row:
    """One line of the table: the cell's levels, seed and ``status``, and its numbers where it is done."""
    row: Row = {**cell.levels, "seed": cell.seed, "status": NOT_RUN, **dict.fromkeys(NUMBERS, ""),
                "speech": grid.recipe_of(cell).measure.speech, "machine": ""}
    found = grid.result(cell)
    if found is None:
        return row
    steps, measured = lines_of(grid.place(cell) / STAGE / "log.jsonl"), found["measured"]
    row |= {"status": DONE, "steps": len(steps), "items": measured["items"], "tokens": measured["tokens"],
            "targets": round(sum(step["targets"] for step in steps)),
            "positions": round(sum(step["positions"] for step in steps)),
            "seconds": round(sum(step["seconds"] for step in steps))}  # fmt: skip
    for name, quantity in QUANTITIES.items():
        row |= {name: number(measured[quantity]["mean"]), f"{name}_se": number(measured[quantity]["se"])}
    for name, condition in WORDS.items() if found["words"] else ():
        row |= {name: number(found["words"][condition]["mean"]), f"{name}_se": number(found["words"][condition]["se"])}
    about = found["machine"]
    return row | {"machine": f"{about['processor']}, {about['cores']} cores, torch {about['torch']}"}


def curve_of(grid: Grid, cell: Cell) -> list[Row]:
    """The cell's probes within training: a line for each, those of a run under way too."""
    own = {**cell.levels, "seed": cell.seed}
    return [{**own, **{column: number(line[key]) for column, key in CURVES.items()}}
            for line in lines_of(grid.place(cell) / STAGE / "probes.jsonl")]  # fmt: skip


def collect(grid: Grid, name: str, out: Path) -> tuple[Path, Path]:
    """Write ``<name>.csv`` and ``<name>-curves.csv`` below ``out``; returns both."""
    results = [result_of(grid, cell) for cell in grid.cells]
    curves = [row for cell in grid.cells for row in curve_of(grid, cell)]
    axes = list(grid.cells[0].levels) if grid.cells else []
    paths = out / f"{name}.csv", out / f"{name}-curves.csv"
    write_csv(paths[0], [*axes, "seed", "status", *NUMBERS, "speech", "machine"], results)
    write_csv(paths[1], [*axes, "seed", *CURVES], curves)
    return paths


def number(value: float) -> str:
    """Five digits: more than any of these numbers is known to."""
    return f"{value:.5g}" if abs(value) < 1e5 else f"{value:.0f}"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def write_csv(path: Path, columns: list[str], rows: Iterable[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[Row]:
    """The rows; numbers are floats, NaN where a cell was not run. No file: no rows."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {*NUMBERS, *CURVES, "seed"}
    return [{key: (float(value) if value else float("nan")) if key in numbers else value for key, value in row.items()}
            for row in rows]
