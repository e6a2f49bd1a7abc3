"""Checkpoints that are written beside the steps: as good as those that are waited for, whatever happens meanwhile."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from salad_ds.config import TrainConfig
from salad_ds.errors import RecipeError
from salad_ds.files import read_json
from salad_ds.train.checkpoint import MARK, STEP, has_its_sizes, name_of
from salad_ds.train.engine import deepspeed_config
from salad_ds.train.saver import Shards
from tests.train.conftest import LONGER, losses, same_student
from tests.train.launch import forked

LATER = [*LONGER, "stages.stage1.async_checkpoints=true", "stages.stage1.checkpoint_every=4"]


def state_of(value: float) -> dict:
    """Something like what DeepSpeed saves."""
    weights = torch.full((3, 5), value)
    return {"module": OrderedDict(weight=weights[1], shape=weights.shape), "groups": [{"lr": value, "on": (weights,)}],
            "none": None}  # fmt: skip


def test_what_is_written_later_is_what_it_was_when_it_was_saved(tmp_path):
    now, later = (Shards(TorchCheckpointEngine(), later) for later in (False, True))
    for step in (1.0, 2.0):  # the second time into the same host memory
        state = state_of(step)
        for shards in (now, later):
            shards.begin()
            shards.save(state, str(tmp_path / f"{shards.later}.pt"))
        state["module"]["weight"].fill_(-1)
        state["groups"][0]["lr"] = -1
        later.require()
        ours, theirs = (torch.load(tmp_path / f"{name}.pt", weights_only=False) for name in (True, False))
        for read in (ours, theirs):
            assert torch.equal(read["module"]["weight"], torch.full((5,), step)) and read["none"] is None
            assert torch.equal(read["groups"][0]["on"][0], torch.full((3, 5), step))
            assert read["groups"][0]["lr"] == step and read["module"]["shape"] == torch.Size([3, 5])
    assert len(later.host) == 2 and not now.host


def test_a_file_that_cannot_be_written_is_an_error_only_when_it_is_asked_for(tmp_path):
    for later in (False, True):
        shards = Shards(TorchCheckpointEngine(), later)
        shards.begin()
        shards.save(state_of(1.0), str(tmp_path / "nowhere/x.pt"))
        with pytest.raises((OSError, RuntimeError)):
            shards.require()
        shards.begin()
        shards.require()


@pytest.mark.parametrize("text", ['"checkpoint": {"writer": {"decoupled": true}}', '"datastates_ckpt": {}'])
def test_deepspeeds_own_writers_are_refused(tmp_path, text):
    (tmp_path / "mine.json").write_text(f"{{{text}}}")
    with pytest.raises(RecipeError, match="mine.json sets .*neither be checked nor read again") as error:
        deepspeed_config(str(tmp_path / "mine.json"), TrainConfig(), 1)
    assert "async_checkpoints" in error.value.mend


@pytest.mark.slow
@pytest.mark.assets
def test_training_goes_on_beside_the_writer_and_nothing_is_lost(prepared, whole, work, tmp_path):
    """A rank finds no room for the checkpoint of step 4, behind step 5: all ranks stop with its reason, behind a
    checkpoint of the step they have reached. Then a rank is killed while that of step 8 is written: the one before
    counts, and the stage ends as one that nobody has touched."""
    stage, log = work / "stage1/checkpoints", tmp_path / "log"
    said = forked(2, "tests.train.hurt_writer", "full", 4, prepared, f"workdir={work}", *LATER, log=log, fails=True)
    assert "checkpoint of step 4 cannot be written: rank 1: [Errno 28] No space left on device" in said, said[-3000:]
    assert f"make room in {stage}" in said
    (reached,) = sorted(path.name for path in stage.glob("step-*"))
    assert reached in (name_of(5), name_of(6), name_of(7))

    said = forked(2, "tests.train.hurt_writer", "killed", 8, prepared, f"workdir={work}", *LATER, log=log, fails=True)
    assert f"continuing after step {int(reached[-8:])}" in said
    assert sorted(path.name for path in stage.glob("step-*")) == [reached, f"{name_of(8)}.part"]

    said = forked(2, "salad_ds", "train", prepared, f"workdir={work}", *LATER, log=log)
    assert f"passing over {stage / name_of(8)}.part: it was not finished" in said
    assert f"continuing after step {int(reached[-8:])}" in said
    assert losses(work) == losses(whole) and same_student(work, whole)
    there = sorted(stage.glob(STEP))
    assert [path.name for path in there] == [name_of(8), name_of(9)] and all(map(has_its_sizes, there))
    marks = [read_json(place / "stage1/checkpoints" / name_of(9) / MARK) for place in (work, whole)]
    assert marks[0]["files"].keys() == marks[1]["files"].keys() and marks[0]["stream"] == marks[1]["stream"]
