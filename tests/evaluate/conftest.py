"""A small student that differs from its base LLM, and a small recipe with a real task in real synthetic speech."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from salad_ds.config import (
    AdapterConfig,
    EncoderConfig,
    EvaluateConfig,
    ModelConfig,
    Recipe,
    SynthConfig,
    TaskConfig,
    TrackingConfig,
)
from salad_ds.model.build import build_student


@pytest.fixture(scope="session")
def decided_llm_dir(tiny_llm_dir, tmp_path_factory) -> Path:
    """The tiny LLM with louder embeddings: it has opinions, so that scores differ by far more than rounding."""
    directory = tmp_path_factory.mktemp("decided-llm")
    llm = AutoModelForCausalLM.from_pretrained(tiny_llm_dir)
    with torch.no_grad():
        llm.get_input_embeddings().weight.mul_(15)
    llm.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_llm_dir).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def model_config(decided_llm_dir) -> ModelConfig:
    return ModelConfig(
        llm=str(decided_llm_dir),
        encoder=EncoderConfig("whisper", "packaged:whisper-tiny.en"),
        adapter=AdapterConfig(layers=2, width=32, mlp=48, heads=4, kv_heads=2, stack=4),
    )


@pytest.fixture(scope="session")
def student(model_config):
    """(student, tokenizer): an LLM that has moved away from the base behind an adapter that knows nothing."""
    model, tokenizer = build_student(model_config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.llm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2 * parameter.std())
    return model.eval(), tokenizer


@pytest.fixture(scope="session")
def student_dir(student, tmp_path_factory) -> Path:
    """The same, saved as training saves it."""
    directory = tmp_path_factory.mktemp("student")
    model, tokenizer = student
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_recipe(work: Path, model_config: ModelConfig, **evaluate) -> Recipe:
    tasks = [TaskConfig(name="wordnet", items=9, shots=0)]
    settings = {"tasks": tasks, "batch": 160, "asr": "packaged:whisper-tiny.en"}
    return Recipe(
        name="evaluate-test",
        workdir=str(work),
        model=model_config,
        synth=SynthConfig(workers=1, asr=""),
        evaluate=EvaluateConfig(**(settings | evaluate)),
        tracking=TrackingConfig(enabled=False),
    )


@pytest.fixture
def recipe(tmp_path, model_config) -> Recipe:
    return make_recipe(tmp_path / "work", model_config)
