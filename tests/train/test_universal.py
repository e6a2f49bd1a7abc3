"""A stage goes on with another number of ranks: optimizer, schedule and stream with it."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from salad_ds.config import load_recipe
from salad_ds.files import read_json, write_json
from salad_ds.train.checkpoint import MARK
from tests.train.conftest import LONGER, log_rows
from tests.train.launch import forked

pytestmark = [pytest.mark.slow, pytest.mark.assets]


def losses(work) -> list[float]:  # noqa: ANN001
    return [row["loss"] for row in log_rows(work)]


def test_two_ranks_then_one_then_four_train_as_two_throughout(prepared, whole, tmp_path):
    """Stopped after steps 3 and 6, with AdamW's moments and a falling rate: the losses agree to 1e-5. In between, on
    one rank, all steps are bad before that number of ranks has a checkpoint: the universal copy is loaded again, three
    times, then the stage gives up; and started again it misses nothing."""
    work = tmp_path / "work"
    shutil.copytree(load_recipe(prepared).path("."), work)
    recipe, log = [prepared, *LONGER, "stages.stage1.bad_steps=1", f"workdir={work}"], tmp_path / "log"
    assert "making it universal" not in forked(2, "tests.train.until", 3, *recipe, log=log)
    bad = ",".join(map(str, range(1, 99)))
    said = forked(1, "tests.train.faulty", bad, *recipe, log=log, fails=True)
    assert "making it universal" in said and "mend:" in said
    assert said.count("1 bad steps in a row (its loss is nan): back to step 3") == 3
    assert "went back 3 times, and still its loss is nan" in said
    assert read_json(work / "stage1/checkpoints/step-00000003" / MARK)["rolled_back"] == []
    said = forked(1, "tests.train.until", 6, *recipe, log=log)
    assert "continuing after step 3" in said
    assert "making it universal" in forked(4, "salad_ds", "train", *recipe, log=log, timeout=300)
    assert losses(work) == pytest.approx(losses(whole), rel=1e-5)
    assert len(losses(work)) == 9 and (work / "stage1/model/model.safetensors").is_file()
    names = sorted(path.name for path in (work / "stage1/checkpoints").glob("step-*"))
    assert names == ["step-00000006", "step-00000009"], "universal copies go when they have served"


def test_with_a_frozen_llm_too(prepared, work, tmp_path):
    """Which is in no checkpoint: one rank goes on from two ranks' one, and the same rank from its own."""
    recipe, log = [prepared, f"workdir={work}", "stages.stage1.lr_llm=0"], tmp_path / "log"
    forked(2, "salad_ds", "train", *recipe, log=log)
    straight, weights = losses(work), load_file(work / "stage1/model/model.safetensors")
    shutil.rmtree(work / "stage1")
    forked(2, "tests.train.until", 2, *recipe, log=log)
    assert "making it universal" in forked(1, "tests.train.until", 4, *recipe, log=log)
    mark = work / "stage1/checkpoints/step-00000004" / MARK
    told = mark.read_text()
    write_json(mark, read_json(mark) | {"frozen": "of another LLM"})
    assert "frozen weights that are others now" in forked(1, "salad_ds", "train", *recipe, log=log, fails=True)
    mark.write_text(told)
    assert "continuing after step 4" in forked(1, "salad_ds", "train", *recipe, log=log)
    assert losses(work) == pytest.approx(straight, rel=1e-5)
    again = load_file(work / "stage1/model/model.safetensors")
    assert all(torch.allclose(value, weights[name], atol=1e-4) for name, value in again.items())
    assert all(torch.equal(value, weights[name]) for name, value in again.items() if name.startswith("llm."))
