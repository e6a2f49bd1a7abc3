"""A stage goes on with another number of ranks: optimizer, schedule and stream with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from salad_ds.config import load_recipe
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
