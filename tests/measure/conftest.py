"""A small student that differs from its small teacher, and a little real speech."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from salad_ds.config import (
    AdapterConfig,
    DataConfig,
    EncoderConfig,
    MeasureConfig,
    ModelConfig,
    Recipe,
    SourceConfig,
    SynthConfig,
    TrackingConfig,
)
from salad_ds.measure.sequences import Item, held_out, planner_for
from salad_ds.model.build import build_student
from salad_ds.synth.synthesize import synthesize_shards
from salad_ds.teacher.forward import load_teacher
from salad_ds.teacher.live import LiveTeacher

SENTENCES = [
    "the committee met on a monday and nobody from the bakery came to see them",
    "a small boat drifted slowly across the quiet lake before the sun came up",
    "people who live near the river often talk about the great flood of that year",
    "the teacher asked the children to open their books and read the first page",
    "she put the red cup on the table and walked back into the kitchen",
    "stop",
]


@pytest.fixture(scope="session")
def decided_llm_dir(tiny_llm_dir, tmp_path_factory) -> Path:
    """The tiny LLM with louder embeddings: it has opinions, so that divergences are far above rounding."""
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
    """(student, tokenizer): an LLM that has moved away from its teacher behind an adapter that knows nothing."""
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


@pytest.fixture(scope="session")
def speech_dir(tmp_path_factory) -> Path:
    """Six sentences, spoken, with word times; the last is too short to be measured."""
    directory = tmp_path_factory.mktemp("spoken")
    texts = [(f"u{i}", sentence, {}) for i, sentence in enumerate(SENTENCES)]
    synthesize_shards(texts, directory / "speech", SynthConfig(workers=1, asr=""), made_from={}, quiet=True)
    return directory / "speech"


@pytest.fixture
def recipe(tmp_path, model_config, speech_dir) -> Recipe:
    return Recipe(
        name="measure-test",
        workdir=str(tmp_path / "work"),
        model=model_config,
        data=DataConfig(context=128, text_words=[2, 4], speech_words=[2, 4]),
        measure=MeasureConfig(speech=str(speech_dir), items=8, batch=2),
        synth=SynthConfig(workers=1, asr=""),
        tracking=TrackingConfig(enabled=False),
    )


@pytest.fixture(scope="session")
def teacher(decided_llm_dir) -> LiveTeacher:
    return LiveTeacher(load_teacher(str(decided_llm_dir), "cpu"))


@pytest.fixture
def items(recipe, student, speech_dir) -> list[Item]:
    """What is measured of the speech, all of it."""
    planner = planner_for(recipe, [SourceConfig(kind="speech", path=str(speech_dir))], *student)
    return held_out(planner, 8, 0)
