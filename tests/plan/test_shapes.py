"""Parameters and configurations that the plan counts with are those of real models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig

from salad_ds.config import load_recipe
from salad_ds.errors import RecipeError
from salad_ds.model.adapter import CausalAdapter
from salad_ds.model.encoder import build_encoder
from salad_ds.plan.shapes import TABLE, causal_lm, count, encoder_of, head_of, layers_of, llm_config, shapes_of, tied

RECIPES = Path(__file__).parents[2] / "salad_ds/recipes"
PUBLISHED = {"Qwen/Qwen2.5-0.5B": 0.49e9, "Qwen/Qwen2.5-1.5B": 1.54e9, "Qwen/Qwen2.5-3B": 3.09e9,
             "Qwen/Qwen2.5-7B": 7.61e9, "Qwen/Qwen2.5-14B": 14.7e9}  # fmt: skip
"""Numbers of parameters on the models' pages."""
WITHOUT_EMBEDDINGS = {"Qwen/Qwen2.5-0.5B": 0.36e9, "Qwen/Qwen2.5-1.5B": 1.31e9, "Qwen/Qwen2.5-3B": 2.77e9,
                      "Qwen/Qwen2.5-7B": 6.53e9, "Qwen/Qwen2.5-14B": 13.1e9}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_models_have_their_published_sizes(name):
    with torch.device("meta"):
        llm = causal_lm(llm_config(name))
    assert count(llm) == pytest.approx(PUBLISHED[name], rel=1e-2)
    assert layers_of(llm) == pytest.approx(WITHOUT_EMBEDDINGS[name], rel=1e-2)
    assert tied(llm) == TABLE["llms"][name]["tie_word_embeddings"]


@pytest.mark.assets
def test_a_packaged_llm_is_as_its_weights_say(smollm2_dir):
    recipe = load_recipe(RECIPES / "tiny.yaml")
    planned = shapes_of(recipe)
    stored = 0
    for file in smollm2_dir.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                size = 1
                for side in weights.get_slice(name).get_shape():
                    size *= side
                stored += size if name != "lm_head.weight" else 0
    assert tied(planned.body) and count(planned.body) == stored
    assert head_of(planned.body) == 49152 * 576
    real, told = AutoConfig.from_pretrained(smollm2_dir), TABLE["llms"]["packaged:smollm2-135m"]
    assert {key: getattr(real, key) for key in told} == told


@pytest.mark.assets
@pytest.mark.parametrize("name", ["whisper-tiny.en", "whisper-base"])
def test_a_packaged_encoder_is_as_its_weights_say(name):
    recipe = load_recipe(RECIPES / "tiny.yaml", [f"model.encoder.name=packaged:{name}"])
    real, planned = build_encoder(recipe.model.encoder, from_pretrained=False), encoder_of(recipe)
    assert count(planned) == count(real) and planned.hearing == real.hearing
    assert planned.hidden_size == real.hidden_size


def test_the_papers_adapter_has_its_122_million_parameters():
    assert count(CausalAdapter(512, 3584)) == pytest.approx(122e6, rel=2e-3)
    assert count(shapes_of(load_recipe(RECIPES / "salad-7b.yaml")).adapter) == count(CausalAdapter(512, 3584))


def test_a_directory_needs_no_weights(tmp_path, tiny_llm_dir):
    (tmp_path / "config.json").write_bytes((tiny_llm_dir / "config.json").read_bytes())
    recipe = load_recipe(RECIPES / "tiny.yaml", [f"model.llm={tmp_path}"])
    stored = sum(value.numel() for file in tiny_llm_dir.glob("*.safetensors") for value in load_file(file).values())
    assert count(shapes_of(recipe).body) == stored


def test_models_that_are_not_at_hand_say_what_would_do(tmp_path):
    recipe = load_recipe(RECIPES / "tiny.yaml", [f"model.llm={tmp_path / 'nothing'}"])
    with pytest.raises(RecipeError, match="not at hand") as told:
        shapes_of(recipe)
    assert "Qwen/Qwen2.5-3B" in told.value.mend and "config.json" in told.value.mend
    recipe = load_recipe(RECIPES / "tiny.yaml", ["model.encoder.kind=mimi"])
    with pytest.raises(RecipeError, match="is a whisper") as told:
        shapes_of(recipe)
    assert told.value.mend == "set model.encoder.kind=whisper"
