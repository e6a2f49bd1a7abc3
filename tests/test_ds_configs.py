"""Every shipped DeepSpeed config: what we read, what DeepSpeed's own parser reads, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import hjson
import pytest
import torch

from salad_ds.config import SourceConfig, TrainConfig
from salad_ds.errors import RecipeError
from salad_ds.train.engine import OURS, deepspeed_config

DIRECTORY = Path(__file__).parents[1] / "ds_configs"
FILES = sorted(DIRECTORY.glob("*.json"))
STAGE = TrainConfig(sources=[SourceConfig("text", "text")], micro_batch=2, global_batch=24, clip=0.5)


def needs_accelerator(path: Path) -> bool:
    return hjson.loads(path.read_text()).get("bf16", {}).get("enabled", False)


def test_the_directory_is_what_the_readme_lists():
    readme = (DIRECTORY / "README.md").read_text()
    assert len(FILES) >= 4
    for path in FILES:
        assert f"| `{path.name}` |" in readme
        assert path.read_text().startswith("// "), "a config says what it is for"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_batch_sizes_and_clipping_come_from_the_recipe(path):
    if needs_accelerator(path) and not torch.cuda.is_available():
        with pytest.raises(RecipeError, match=r"16-bit.*no accelerator.*zero3_cpu\.json"):
            deepspeed_config(str(path), STAGE, 3)
        return
    config = deepspeed_config(str(path), STAGE, 3)
    assert config["train_micro_batch_size_per_gpu"] == 2
    assert config["gradient_accumulation_steps"] == 4
    assert config["gradient_clipping"] == 0.5


def test_a_machine_without_an_accelerator_has_a_config():
    assert [path.name for path in FILES if not needs_accelerator(path)] == ["zero3_cpu.json"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_deepspeed_reads_them_and_can_offload_our_optimizer(path):
    """DeepSpeed's parser refuses unknown keys of zero_optimization; its engine refuses torch's AdamW under offload
    unless zero_force_ds_cpu_optimizer is off."""
    from deepspeed.runtime.config import DeepSpeedConfig

    parsed = DeepSpeedConfig(
        {**hjson.loads(path.read_text()), "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 4}
    )
    assert parsed.zero_config.stage == int(path.stem[4])
    assert parsed.zero_config.stage < 3 or parsed.zero_config.gather_16bit_weights_on_model_save
    assert parsed.zero_config.offload_optimizer is None or not parsed.zero_force_ds_cpu_optimizer


@pytest.mark.parametrize("key", OURS)
def test_a_key_that_the_recipe_decides_is_refused_by_name(key, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, key: 1}))
    with pytest.raises(RecipeError, match=f"mine.json sets {key}, which the recipe decides"):
        deepspeed_config(str(path), STAGE, 1)


def test_missing_and_malformed_files_are_named(tmp_path):
    with pytest.raises(RecipeError, match="nowhere.json does not exist.*ds_configs/"):
        deepspeed_config("nowhere.json", STAGE, 1)
    path = tmp_path / "mine.json"
    path.write_text('{"zero_optimization": {"stage": 2}')
    with pytest.raises(RecipeError, match="mine.json"):
        deepspeed_config(str(path), STAGE, 1)


def test_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert deepspeed_config("ds_configs/zero3_cpu.json", STAGE, 1)["zero_optimization"]["stage"] == 3


def test_a_global_batch_that_does_not_divide_names_its_numbers():
    with pytest.raises(RecipeError, match="global_batch 24 is not a multiple of micro_batch 2 × 5 ranks"):
        deepspeed_config(str(DIRECTORY / "zero3_cpu.json"), STAGE, 5)
