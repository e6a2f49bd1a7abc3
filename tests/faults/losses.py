"""What a stage that was hurt has lost, against the same stage left alone: every check names what it finds."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from salad_ds.files import read_json

STAGE = "stage1"
DATA = ("targets", "positions", "padding")
"""What the log of a step says of the samples that it read."""
RESULT = ("loss", "kl", "nll", "entropy")


def lost(whole: Path, work: Path, rtol: float = 0.0, same_until: int | None = None, ledger: Path | None = None,
         ) -> list[str]:
    """``whole``, ``work``: work directories. ``rtol``: relative tolerance of losses and weights, 0 for bit-identical.

    ``same_until``: the last step whose losses must agree, where a fault changes later ones on purpose (a discarded
    step); the data of all steps must agree all the same. ``ledger``: MLflow's SQLite file, by default the work
    directory's own.
    """
    found = lost_steps(whole, work, rtol, same_until) + lost_samples(whole, work)
    if same_until is None:
        found += lost_weights(whole, work, rtol)
    return found + lost_records(work, ledger or work / "mlflow.db") + leftovers(work)


def rows(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / STAGE / "log.jsonl").read_text().splitlines()]


def lost_steps(whole: Path, work: Path, rtol: float, same_until: int | None) -> list[str]:
    """Every step once and in order in log.jsonl, with the same samples and the same losses."""
    wanted, there = rows(whole), rows(work)
    if [row["step"] for row in there] != [row["step"] for row in wanted]:
        return [f"log.jsonl has the steps {[row['step'] for row in there]}"]
    found = []
    for want, have in zip(wanted, there, strict=True):
        for key in DATA + (RESULT if same_until is None or want["step"] <= same_until else ()):
            if not math.isclose(want[key], have[key], rel_tol=rtol if key in RESULT else 0.0, abs_tol=rtol):
                found.append(f"step {want['step']}: {key} {have[key]!r}, not {want[key]!r}")
    return found[:3]


def lost_samples(whole: Path, work: Path) -> list[str]:
    """The stream stands where the other stands, and has passed over what the other has: no sample twice, none left
    out."""
    marks = [sorted((path / STAGE / "checkpoints").glob("step-????????"))[-1] / "complete.json"
             for path in (whole, work)]
    found = []
    if read_json(marks[0])["stream"] != read_json(marks[1])["stream"]:
        found.append(f"the stream of {marks[1].parent.name} stands elsewhere than that of {marks[0].parent.name}")
    passed = [read_json(path / STAGE / "done.json")["skipped"] for path in (whole, work)]
    if passed[0] != passed[1]:
        found.append(f"samples passed over: {passed[1]}")
    return found


def lost_weights(whole: Path, work: Path, rtol: float) -> list[str]:
    wanted, there = (load_file(path / STAGE / "model/model.safetensors") for path in (whole, work))
    if wanted.keys() != there.keys():
        return [f"the student has other parameters: {sorted(wanted.keys() ^ there.keys())[:3]}"]
    found = []
    for name, want in wanted.items():
        same = torch.equal(want, there[name]) if not rtol else bool(
            (want - there[name]).norm() <= rtol * want.norm() + 1e-12)
        if not same:
            found.append(f"{name} differs by {(want - there[name]).abs().max():.1e}")
    return found[:3]


def lost_records(work: Path, ledger: Path) -> list[str]:
    """MLflow holds the loss of every step of log.jsonl exactly once, the stage's run is finished, and nothing waits."""
    found = []
    if (work / "tracking-unsent.jsonl").exists():
        found.append("records wait unsent in tracking-unsent.jsonl")
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as database:
        held = database.execute("SELECT step, value, is_nan FROM metrics JOIN runs USING (run_uuid) "
                                "WHERE key = 'loss' AND name = ? ORDER BY step", (STAGE,)).fetchall()
        ends = database.execute("SELECT name, status FROM runs").fetchall()
    wanted = [(row["step"], row["loss"]) for row in rows(work)]
    if [step for step, *_ in held] != [step for step, _ in wanted]:
        found.append(f"MLflow holds the steps {[step for step, *_ in held]}")
    else:
        for (step, value, is_nan), (_, loss) in zip(held, wanted, strict=True):
            if value != loss and not (is_nan and math.isnan(loss)):
                found.append(f"step {step}: MLflow has the loss {value}, log.jsonl {loss}")
    if any(status != "FINISHED" for _, status in ends):
        found.append(f"MLflow's runs: {ends}")
    return found[:3]


def leftovers(work: Path) -> list[str]:
    """Half-written things that nobody would clear away."""
    return [f"{path.relative_to(work)} was left behind" for path in sorted(work.rglob("*.part"))]


def lost_files(whole: Path, work: Path) -> list[str]:
    """Every file of one directory is in the other, byte for byte; locks aside."""
    def below(directory: Path) -> dict[str, bytes]:
        return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*"))
                if path.is_file() and not path.name.endswith(".lock")}

    wanted, there = below(whole), below(work)
    found = [f"{name} is missing" for name in wanted.keys() - there.keys()]
    found += [f"{name} is new" for name in there.keys() - wanted.keys()]
    return found + [f"{name} has other bytes" for name in wanted.keys() & there.keys() if wanted[name] != there[name]]
