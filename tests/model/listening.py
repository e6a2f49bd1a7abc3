"""A tiny student that hears while one speaks: a random Mimi, a random LLM, both loud enough to have opinions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import MimiConfig, MimiModel

from salad_ds.config import AdapterConfig, EncoderConfig, ModelConfig
from salad_ds.model.build import build_student
from salad_ds.model.processing import SaladProcessor
from tests.model.test_encoder import MIMI


@pytest.fixture(scope="session")
def mimi_dir(tmp_path_factory) -> Path:
    """A random Mimi whose attention looks back over 6 positions, a quarter of a second: a stream soon leaves it."""
    directory = tmp_path_factory.mktemp("mimi")
    torch.manual_seed(1)
    mimi = MimiModel(MimiConfig(**MIMI, sliding_window=6))
    for name, value in mimi.state_dict().items():
        if name.endswith("embed_sum"):
            value.normal_()
        elif value.dim() > 1:
            value.mul_(3.0)
    mimi.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def listener(tiny_untied_llm_dir, mimi_dir):
    """(student, processor); three frames make a position."""
    model, tokenizer = build_student(
        ModelConfig(
            llm=str(tiny_untied_llm_dir),
            encoder=EncoderConfig("mimi", str(mimi_dir)),
            adapter=AdapterConfig(layers=2, width=32, mlp=48, heads=4, kv_heads=2, stack=3),
        )
    )
    with torch.no_grad():
        for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight,
                       model.adapter.scale_out.weight):  # fmt: skip
            weight.mul_(15)
    return model.eval(), SaladProcessor.of(model, tokenizer)


@pytest.fixture(scope="session")
def listener_dir(listener, tmp_path_factory) -> Path:
    """The same, saved."""
    directory = tmp_path_factory.mktemp("listener")
    model, processor = listener
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory
