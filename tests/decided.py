"""A tiny LLM that has opinions, and a student of it: fixtures of the tests that compare what the two say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from salad_ds.config import AdapterConfig, EncoderConfig, ModelConfig
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
