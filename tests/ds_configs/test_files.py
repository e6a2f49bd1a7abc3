"""Every shipped DeepSpeed config: what we read, what DeepSpeed's own parser reads, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import hjson
import pytest
import torch
from pydantic import ValidationError

from salad_ds.config import SourceConfig, TrainConfig
from salad_ds.errors import RecipeError
from salad_ds.train.engine import OURS, deepspeed_config
from tests.ds_configs.on_cpu import DIRECTORY, FILES

STAGE = TrainConfig(sources=[SourceConfig("text", "text")], micro_batch=2, global_batch=24, clip=0.5)


def needs_accelerator(path: Path) -> bool:
    return hjson.loads(path.read_text()).get("bf16", {}).get("enabled", False)


def test_the_directory_is_what_the_readme_lists():
    readme = (DIRECTORY / "README.md").read_text()
    assert {"zero2", "zero3", "zero3_offload", "zero3_nvme", "zeropp", "zero3_cpu"} == {path.stem for path in FILES}
    for path in FILES:
        assert f"| `{path.name}` | " in readme
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
    assert parsed.zero_config.stage == (2 if path.stem == "zero2" else 3)
    assert parsed.zero_config.stage < 3 or parsed.zero_config.gather_16bit_weights_on_model_save
    assert parsed.zero_config.offload_optimizer is None or not parsed.zero_force_ds_cpu_optimizer


def known_keys() -> set[str]:
    """What DeepSpeed looks up at the top of a config: its parser passes over every other key in silence."""
    from deepspeed.runtime import constants, precision_config
    from deepspeed.runtime.swap_tensor import constants as swapping
    from deepspeed.runtime.zero import config as zero

    modules = (constants, precision_config, swapping, zero)
    return {value for module in modules for name, value in vars(module).items() if name.isupper() and
            isinstance(value, str)}  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_is_one_that_deepspeed_knows(path):
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config
    from deepspeed.runtime.swap_tensor.aio_config import AIO_DEFAULT_DICT
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    config = hjson.loads(path.read_text())
    assert set(config) <= known_keys() and "zero_optimisation" not in known_keys()
    DeepSpeedZeroConfig(**config["zero_optimization"])
    DeepSpeedBF16Config(**config.get("bf16", {}))
    assert set(config.get("aio", {})) <= set(AIO_DEFAULT_DICT)
    for section in ("zero_optimization", "offload_optimizer"):
        inner = json.loads(json.dumps(config["zero_optimization"]))
        (inner if section == "zero_optimization" else inner.setdefault(section, {}))["stagee"] = 3
        with pytest.raises(ValidationError, match="stagee"):
            DeepSpeedZeroConfig(**inner)


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
