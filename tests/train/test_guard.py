"""Which steps are discarded, and when a stage goes back; the whole of it in real training with broken losses."""

from __future__ import annotations

import json
import math

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.errors import SaladError
from salad_ds.files import read_json
from salad_ds.train.checkpoint import MARK, STEP
from salad_ds.train.guard import LEAST, Guard, RollBack
from tests.train.conftest import LONGER, log_rows
from tests.train.launch import forked


def judged(guard: Guard, losses: list[float]) -> list[bool]:
    taken = []
    for loss in losses:
        takes = guard.takes(loss)
        taken.append(guard.saw(takes))
    return taken


def test_what_is_not_finite_is_discarded_and_the_rest_is_not():
    guard = Guard(spike=0.0, bad_steps=3)
    assert judged(guard, [1.0, math.nan, 2.0, math.inf, 900.0]) == [True, False, True, False, True]
    assert guard.discarded == 2 and guard.in_a_row == 0 and guard.last == "its loss is inf"


def test_a_spike_is_measured_against_the_latest_losses_once_there_are_enough():
    guard = Guard(spike=4.0, bad_steps=3)
    assert judged(guard, [1.0] * (LEAST - 1) + [50.0]) == [True] * LEAST  # too early to know
    assert judged(guard, [3.9, 4.1, 1.0]) == [True, False, True]
    assert "4.1 times" in guard.last


@given(st.lists(st.sampled_from([1.0, 1.1, math.nan, 100.0]), max_size=60), st.integers(1, 6))
def test_a_roll_back_comes_exactly_with_the_nth_bad_step_in_a_row(losses, most):
    guard, row = Guard(spike=10.0, bad_steps=most), 0
    for loss in losses:
        row = 0 if guard.saw(guard.takes(loss)) else row + 1
        assert guard.in_a_row == row
        if row >= most:
            with pytest.raises(RollBack):
                guard.require_progress(1)
            return
        guard.require_progress(1)


def test_a_bad_step_that_was_taken_all_the_same_is_an_error():
    guard = Guard(spike=0.0, bad_steps=3)
    assert not guard.takes(math.nan)
    with pytest.raises(SaladError, match="changed the weights"):
        guard.saw(True)
    assert guard.takes(1.0) and not guard.saw(False) and guard.last == "its gradient is not finite"


@pytest.mark.slow
@pytest.mark.assets
def test_bad_steps_are_discarded_and_the_stage_goes_back(prepared, whole, work, tmp_path):
    """Real ZeRO-3 on two ranks, two micro-batches a step. One NaN: that step is passed over. Three steps in a row: back
    to the checkpoint, and on with the data behind them; all steps are done, log and MLflow tell one history, and what
    was given up lies beside it. A process that goes on from a checkpoint knows of it."""
    said = forked(2, "tests.train.faulty", "3,7,9,12", prepared, f"workdir={work}", *LONGER,
                  "stages.stage1.bad_steps=3", "tracking.enabled=true", log=tmp_path / "log")
    assert "3 bad steps in a row (its loss is nan): back to step 3, with the data behind them" in said
    assert "4 steps were discarded" in said
    rows, plain = log_rows(work), log_rows(whole)
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert [row["discarded"] for row in rows] == [0, 1, 0, 0, 0, 0, 0, 0, 0] and math.isnan(rows[1]["loss"])
    assert rows[0]["loss"] == plain[0]["loss"]
    data = [(row["targets"], row["positions"]) for row in plain]
    assert [(row["targets"], row["positions"]) for row in rows[:6]] == data[:3] + data[6:]  # 4 to 6 were passed over
    # The rate is that of the step's number, whatever was discarded or done again.
    assert [row["lr_llm"] for row in rows] == [row["lr_llm"] for row in plain]
    given_up = [json.loads(line) for line in (work / "stage1/rolled-back.jsonl").read_text().splitlines()]
    assert [(row["rollback"], row["step"], row["discarded"]) for row in given_up] == [(1, 4, 1), (1, 5, 1), (1, 6, 1)]
    event = [{"from": 6, "to": 3, "why": "its loss is nan"}]
    assert read_json(work / "stage1/done.json")["rolled_back"] == event
    (attempt,) = read_json(work / "tracking.json")["attempts"].values()
    (run,), client = attempt["ids"].values(), mlflow.MlflowClient(f"sqlite:///{work / 'mlflow.db'}")
    told = client.get_metric_history(run, "loss")
    assert [metric.step for metric in told] == list(range(1, 10)), "a step twice, or one of those given up"
    assert [metric.value for metric in told] == pytest.approx([row["loss"] for row in rows], nan_ok=True)
    assert client.get_run(run).data.tags["rolled_back.1"] == "step 6 to 3: its loss is nan"
    assert "rolled-back.jsonl" in {item.path for item in client.list_artifacts(run)}
    marks = [read_json(path / MARK) for path in sorted((work / "stage1/checkpoints").glob(STEP))]
    assert [mark["step"] for mark in marks] == [6, 9] and all(mark["rolled_back"] == event for mark in marks)
