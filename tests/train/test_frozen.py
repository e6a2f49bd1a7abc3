"""What is frozen is in no checkpoint: whether it is still what it was is told by a digest."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from salad_ds.config import ModelConfig, Recipe, SourceConfig, TrainConfig
from salad_ds.errors import CheckpointError
from salad_ds.train.frozen import frozen_identity, frozen_parts, require_unchanged


def weights(directory, value):
    directory.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["A"], "hidden_size": 4, "num_hidden_layers": 1}
    (directory / "config.json").write_text(json.dumps(config))
    save_file({"w": torch.full((3,), value)}, directory / "model.safetensors")
    return str(directory)


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    """Of an LLM, a student elsewhere, and a stage that starts from the stage before."""
    weights(tmp_path / "work/first/model", 2.0)
    sources = [SourceConfig(kind="speech", path="s")]
    stages = {"first": TrainConfig(sources=sources), "behind": TrainConfig(sources=sources, init_from="first"),
              "elsewhere": TrainConfig(sources=sources, init_from=weights(tmp_path / "student", 3.0))}
    return Recipe(name="t", workdir=str(tmp_path / "work"), stages=stages,
                  model=ModelConfig(llm=weights(tmp_path / "llm", 1.0)))  # fmt: skip


def test_nothing_is_frozen_with_both_rates(recipe):
    assert frozen_parts(recipe.stages["first"]) == []
    assert [frozen_identity(recipe, name) for name in recipe.stages] == ["", "", ""]


BEGUN = [("first", "llm"), ("behind", "work/first/model"), ("elsewhere", "student")]


@pytest.mark.parametrize(("stage", "place"), BEGUN)
def test_other_weights_where_the_stage_began_are_noticed(recipe, tmp_path, stage, place):
    recipe.stages[stage].lr_llm = 0.0
    before = frozen_identity(recipe, stage)
    assert before and frozen_identity(recipe, stage) == before
    require_unchanged(tmp_path, {"frozen": before}, before)
    require_unchanged(tmp_path, {}, before)
    weights(tmp_path / place, 4.0)
    after = frozen_identity(recipe, stage)
    with pytest.raises(CheckpointError, match="frozen weights that are others now"):
        require_unchanged(tmp_path, {"frozen": before}, after)


def test_another_part_is_another_thing(recipe):
    stage = recipe.stages["elsewhere"]
    stage.lr_llm = 0.0
    llm = frozen_identity(recipe, "elsewhere")
    stage.lr_llm, stage.lr_adapter = 1e-4, 0.0
    assert frozen_parts(stage) == ["adapter"] and frozen_identity(recipe, "elsewhere") != llm


def test_a_student_that_is_gone_is_named(recipe, tmp_path):
    recipe.stages["elsewhere"].lr_llm = 0.0
    (tmp_path / "student/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="student has no weights"):
        frozen_identity(recipe, "elsewhere")
