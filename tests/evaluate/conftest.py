"""A small student that differs from its base LLM, and a small recipe with a real task in real synthetic speech."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from salad_ds.config import (
    EvaluateConfig,
    ModelConfig,
    Recipe,
    SynthConfig,
    TaskConfig,
    TrackingConfig,
)
from tests import decided

# Its fixtures, by their names.
decided_llm_dir, model_config = decided.decided_llm_dir, decided.model_config
student, student_dir = decided.student, decided.student_dir


def make_recipe(work: Path, model_config: ModelConfig, **evaluate) -> Recipe:
    tasks = [TaskConfig(name="wordnet", items=9, shots=0)]
    settings = {"tasks": tasks, "batch": 160, "asr": "packaged:whisper-tiny.en"}
    return Recipe(
        name="evaluate-test",
        workdir=str(work),
        model=copy.deepcopy(model_config),
        synth=SynthConfig(workers=1, asr=""),
        evaluate=EvaluateConfig(**(settings | evaluate)),
        tracking=TrackingConfig(enabled=False),
    )


@pytest.fixture
def recipe(tmp_path, model_config) -> Recipe:
    return make_recipe(tmp_path / "work", model_config)
