"""The catalogue's own machinery: that it can see a loss, and two quick faults from end to end."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.faults.__main__ import inflict
from tests.faults.catalogue import CATALOGUE
from tests.faults.fault import Fault, NotAsPromised, Result, Told, TooLate
from tests.faults.losses import lost, lost_files
from tests.faults.room import Room
from tests.faults.table import page, summary, verdict
from tests.train.launch import REPOSITORY, environment


def made(work: Path, steps: int = 4) -> Path:
    """A work directory as a finished stage leaves it, as far as the comparison reads."""
    stage = work / "stage1"
    last = stage / f"checkpoints/step-{steps:08d}"
    last.mkdir(parents=True)
    (last / "complete.json").write_text(json.dumps({"stream": [[[steps, 3], [40, 0], [], 9, 0]]}))
    (stage / "model").mkdir()
    save_file({"w": torch.arange(6.0), "b": torch.ones(2)}, stage / "model/model.safetensors")
    (stage / "done.json").write_text(json.dumps({"skipped": {}}))
    rows = [{"step": n, "loss": 3 - n / 10, "kl": 1 / n, "nll": 2.0, "entropy": 1.0, "targets": 60.0 + n,
             "positions": 100.0, "padding": 0.0} for n in range(1, steps + 1)]  # fmt: skip
    (stage / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with sqlite3.connect(work / "mlflow.db") as ledger:
        ledger.execute("CREATE TABLE runs (run_uuid, name, status)")
        ledger.execute("CREATE TABLE metrics (run_uuid, key, step, value, is_nan)")
        ledger.execute("INSERT INTO runs VALUES ('r', 'stage1', 'FINISHED')")
        for row in rows:
            ledger.execute("INSERT INTO metrics VALUES ('r', 'loss', ?, ?, 0)", (row["step"], row["loss"]))
    return work


def line_changed(work: Path, change) -> None:  # noqa: ANN001
    log = work / "stage1/log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    change(rows)
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))


def weights_changed(work: Path) -> None:
    path = work / "stage1/model/model.safetensors"
    weights = load_file(path)
    weights["w"][3] += 1e-7 * 4
    save_file(weights, path)


def ledger_says(statement: str):  # noqa: ANN201
    def change(work: Path) -> None:
        with sqlite3.connect(work / "mlflow.db") as ledger:
            ledger.execute(statement)
    return change


def stream_elsewhere(work: Path) -> None:
    mark = next(work.rglob("complete.json"))
    mark.write_text(mark.read_text().replace("40", "41"))


LOSSES = {
    "step-dropped": (lambda work: line_changed(work, lambda rows: rows.pop(1)), "log.jsonl has the steps [1, 3, 4]"),
    "step-twice": (lambda work: line_changed(work, lambda rows: rows.insert(1, rows[1])), "[1, 2, 2, 3, 4]"),
    "other-loss": (lambda work: line_changed(work, lambda rows: rows[2].update(loss=2.70000001)), "step 3: loss"),
    "other-samples": (lambda work: line_changed(work, lambda rows: rows[3].update(targets=63.0)), "step 4: targets"),
    "other-weights": (weights_changed, "w differs by"),
    "stream-elsewhere": (stream_elsewhere, "stands elsewhere"),
    "sample-passed-over": (lambda work: (work / "stage1/done.json").write_text(
        '{"skipped": {"has no word times": {"count": 1, "examples": ["u1"]}}}'), "samples passed over"),
    "record-not-sent": (ledger_says("DELETE FROM metrics WHERE step = 2"), "MLflow holds the steps [1, 3, 4]"),
    "record-twice": (ledger_says("INSERT INTO metrics VALUES ('r', 'loss', 4, 2.6, 0)"), "[1, 2, 3, 4, 4]"),
    "record-of-another-loss": (ledger_says("UPDATE metrics SET value = 9 WHERE step = 3"), "MLflow has the loss 9"),
    "run-not-ended": (ledger_says("UPDATE runs SET status = 'RUNNING'"), "RUNNING"),
    "records-wait": (lambda work: (work / "tracking-unsent.jsonl").write_text("{}\n"), "wait unsent"),
    "half-a-file": (lambda work: (work / "stage1/checkpoints/step-00000005.part").mkdir(), "was left behind"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_kind_of_loss_is_seen_and_named(name, tmp_path):
    whole, work = made(tmp_path / "whole"), made(tmp_path / "work")
    assert lost(whole, work) == []
    damage, told = LOSSES[name]
    damage(work)
    found = lost(whole, work)
    assert any(told in one for one in found), found


def test_the_tolerance_is_for_other_sums_and_not_for_other_samples(tmp_path):
    whole, work = made(tmp_path / "whole"), made(tmp_path / "work")
    line_changed(work, lambda rows: rows[2].update(loss=2.7 * (1 + 5e-6)))
    ledger_says(f"UPDATE metrics SET value = {2.7 * (1 + 5e-6)!r} WHERE step = 3")(work)
    weights_changed(work)
    assert lost(whole, work, rtol=1e-5) == []
    assert len(lost(whole, work)) == 2
    line_changed(work, lambda rows: rows[2].update(targets=63.0001))
    assert lost(whole, work, rtol=1e-5) and lost(whole, work, rtol=1e-5, same_until=1)


def test_bytes_of_directories(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("1")
    assert lost_files(tmp_path / "a", tmp_path / "b") == []
    (tmp_path / "a/y").write_text("1")
    (tmp_path / "b/x").write_text("2")
    (tmp_path / "b/z").write_text("2")
    assert lost_files(tmp_path / "a", tmp_path / "b") == ["y is missing", "z is new", "x has other bytes"]


def test_the_table_says_what_was_lost_and_the_command_fails_for_it(tmp_path):
    def broken(_: Room) -> Told:
        raise NotAsPromised("no reason given")

    tries: list[int] = []

    def late(_: Room) -> Told:
        tries.append(1)
        raise TooLate("it was over")

    room = Room(tmp_path)
    results = [inflict(Fault(name, name, what), room) for name, what in (
        ("good", lambda room: Told("went on", [])), ("bad", lambda room: Told("went on", ["step 3 is missing"])),
        ("broken", broken), ("late", late))]  # fmt: skip
    results.append(inflict(Fault("absent", "absent", broken, lambda: "needs root"), room))
    assert [verdict(result) for result in results] == [
        "nothing", "LOST: step 3 is missing", "NOT AS PROMISED: no reason given",
        "NOT AS PROMISED: the fault came too late, 3 times: it was over", "(not inflicted)"]  # fmt: skip
    assert len(tries) == 3 and [result.passed for result in results] == [True, False, False, False, True]
    told = summary(results)
    assert "4 faults inflicted: nothing was lost in 1; look at bad, broken, late; not inflicted here: absent" in told
    assert "| `bad` | bad | went on | LOST: step 3 is missing |" in page(results)
    assert Result(**results[1].as_json()) == results[1]


def test_there_are_enough_of_them_and_the_list_names_all():
    assert len(CATALOGUE) >= 20
    done = subprocess.run([sys.executable, "-m", "tests.faults", "--list"], cwd=REPOSITORY, env=environment(),
                          capture_output=True, text=True, timeout=120, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(CATALOGUE)


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.timeout(900)
def test_two_faults_from_end_to_end_and_a_loss_that_is_one(tmp_path):
    """A flipped bit in a checkpoint, and a torn log, after a real stop. Then the very same outcome against a run that
    has read another sample: it is a loss, and named."""
    done = subprocess.run([sys.executable, "-m", "tests.faults", "--room", str(tmp_path), "--only",
                           "checkpoint-flipped", "log-torn"], cwd=REPOSITORY, env=environment(), capture_output=True,
                          text=True, timeout=800)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "2 faults inflicted: nothing was lost in 2" in done.stdout and "its checksum is another" in done.stdout
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2

    room = Room(tmp_path)
    compared = Fault("compared", "nothing more", lambda room: Told("compared again", room.lost()))
    assert inflict(compared, room).passed
    line_changed(room.whole(), lambda rows: rows[7].update(targets=rows[7]["targets"] + 1))
    result = inflict(compared, room)
    assert not result.passed and verdict(result).startswith("LOST: step 8: targets"), result
