"""A stage goes on with another number of ranks: optimizer, schedule and stream with it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from salad_ds.config import load_recipe
from tests.train.faulty import SETTINGS
from tests.train.launch import deepspeed

pytestmark = [pytest.mark.slow, pytest.mark.assets]
ROWS = "stages.stage1.global_batch=4"
STEPS = "stages.stage1.steps=9"


def losses(work: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (work / "stage1/log.jsonl").read_text().splitlines()]


def test_two_ranks_then_one_then_four_train_as_two_throughout(prepared, tmp_path):
    """Stopped after steps 3 and 6, with AdamW's moments and a falling rate: the losses agree to 1e-5."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for work in (whole, parts):
        shutil.copytree(load_recipe(prepared).path("."), work)
    recipe = [prepared, ROWS, STEPS, "stages.stage1.checkpoint_every=3"]
    deepspeed(2, "salad_ds", "train", *recipe, f"workdir={whole}")
    said = ""
    for ranks, until in ((2, 3), (1, 6), (4, 9)):
        said = deepspeed(ranks, "tests.train.until", until, *recipe, f"workdir={parts}", timeout=300)
        assert ("making it universal" in said) == (ranks != 2)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    assert len(losses(parts)) == 9 and (parts / "stage1/model/model.safetensors").is_file()
    names = sorted(path.name for path in (parts / "stage1/checkpoints").glob("step-*"))
    assert names == ["step-00000006", "step-00000009"], "universal copies go when they have served"


def test_a_stage_goes_back_to_what_other_ranks_have_left(prepared, tmp_path):
    """Bad steps before the first checkpoint of the new number of ranks: the universal copy is loaded a second time."""
    work = tmp_path / "work"
    shutil.copytree(load_recipe(prepared).path("."), work)
    deepspeed(2, "tests.train.until", 2, prepared, f"workdir={work}", *SETTINGS)
    said = deepspeed(1, "tests.train.faulty", prepared, work, "1,2,3,4,5,6")
    assert "continuing after step 2" in said and "3 bad steps in a row (its loss is nan): back to step 2" in said
    assert len(losses(work)) == 8 and all(math.isfinite(loss) for loss in losses(work))
