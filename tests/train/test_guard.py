"""Which steps are discarded, and when a stage goes back; the whole of it in real training with broken losses."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.errors import SaladError
from salad_ds.train.guard import LEAST, Guard, RollBack


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
                guard.require_progress()
            return
        guard.require_progress()


def test_a_bad_step_that_was_taken_all_the_same_is_an_error():
    guard = Guard(spike=0.0, bad_steps=3)
    assert not guard.takes(math.nan)
    with pytest.raises(SaladError, match="changed the weights"):
        guard.saw(True)
    assert guard.takes(1.0) and not guard.saw(False) and guard.last == "its gradient is not finite"


@pytest.mark.slow
@pytest.mark.assets
def test_bad_steps_are_discarded_and_the_stage_goes_back(prepared, tmp_path):
    """Real ZeRO-3 on two ranks. One NaN: that step is passed over. Three in a row: back to the checkpoint, and on with
    the data behind them; all steps are done."""
    from tests.train.faulty import run

    one = run(prepared, tmp_path / "one", bad="5")
    rows = [json.loads(line) for line in (tmp_path / "one/stage1/log.jsonl").read_text().splitlines()]
    assert [row["discarded"] for row in rows] == [0, 0, 0, 0, 1, 0, 0, 0] and math.isnan(rows[4]["loss"])
    assert "1 steps were discarded" in one

    three = run(prepared, tmp_path / "three", bad="5,6,7")
    assert "3 bad steps in a row (its loss is nan): back to step 4, with the data behind them" in three
    rows = [json.loads(line) for line in (tmp_path / "three/stage1/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9)) and all(math.isfinite(row["loss"]) for row in rows)
    plain = run(prepared, tmp_path / "plain", bad="")
    whole = [json.loads(line) for line in (tmp_path / "plain/stage1/log.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows[:4]] == [row["loss"] for row in whole[:4]]
    assert rows[4]["targets"] == whole[7]["targets"]  # the data of the bad steps were passed over
    assert "steps were discarded" not in plain

    never = run(prepared, tmp_path / "never", bad=",".join(str(n) for n in range(3, 99)), succeeds=False)
    assert "went back 3 times, and still its loss is nan" in never and "mend:" in never
