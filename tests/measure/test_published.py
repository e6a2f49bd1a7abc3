"""The adapters that come with this package let their LLM hear: measured, not believed."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from salad_ds.config import AdapterConfig, EncoderConfig, ModelConfig, SourceConfig
from salad_ds.measure.divergences import divergences
from salad_ds.measure.sequences import held_out, planner_for
from salad_ds.model.adapter_weights import PUBLISHED, SHELF
from salad_ds.model.build import build_student
from salad_ds.teacher.forward import load_teacher
from salad_ds.teacher.live import LiveTeacher

pytestmark = [pytest.mark.slow, pytest.mark.assets]


@pytest.mark.parametrize("name", sorted(path.parent.name for path in SHELF.glob("*/config.json")))
def test_m_lies_far_below_both_controls(name, recipe, speech_dir):
    """Of a fresh student, on sentences of other words and spans of other lengths than the adapter was trained with."""
    told = json.loads((SHELF / name / "config.json").read_text())
    sizes = {field.name: told["adapter"][field.name] for field in fields(AdapterConfig)}
    encoder = EncoderConfig(kind=told["encoder"]["kind"], name=told["encoder"]["name"])
    model = ModelConfig("packaged:smollm2-135m", encoder=encoder, adapter=AdapterConfig(**sizes))
    recipe.data.span_encoding = "words"  # as its card says
    recipe.model = replace(model, adapter_weights=PUBLISHED + name)
    student, tokenizer = build_student(recipe.model)
    planner = planner_for(recipe, [SourceConfig(kind="speech", path=str(speech_dir))], student, tokenizer)
    found = divergences(student, LiveTeacher(load_teacher(recipe.model.llm, "cpu")), held_out(planner, 8, 0), 8)
    m, wrong, silence, forgotten = (sum(getattr(one, quantity) for one in found) for quantity in (
        "misalignment", "misalignment_wrong_speech", "misalignment_silence", "forgetting"))  # fmt: skip
    assert m < 0.7 * wrong and m < 0.7 * silence, (m, wrong, silence)
    assert forgotten < 1e-3 * m, "the LLM is the one it was"
