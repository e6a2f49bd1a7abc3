"""A small student that differs from its small teacher, and a little real speech."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from salad_ds.config import (
    DataConfig,
    MeasureConfig,
    Recipe,
    SourceConfig,
    SynthConfig,
    TrackingConfig,
)
from salad_ds.measure.sequences import Item, held_out, planner_for
from salad_ds.synth.synthesize import synthesize_shards
from salad_ds.teacher.forward import load_teacher
from salad_ds.teacher.live import LiveTeacher
from tests import decided

# Its fixtures, by their names.
decided_llm_dir, model_config = decided.decided_llm_dir, decided.model_config
student, student_dir = decided.student, decided.student_dir

SENTENCES = [
    "the committee met on a monday and nobody from the bakery came to see them",
    "a small boat drifted slowly across the quiet lake before the sun came up",
    "people who live near the river often talk about the great flood of that year",
    "the teacher asked the children to open their books and read the first page",
    "she put the red cup on the table and walked back into the kitchen",
    "stop",
]


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
        model=copy.deepcopy(model_config),
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
