"""One launched job that leaves a checkpoint of every kind, each beside the student that training saved from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.export.job import SITUATIONS
from tests.model.listening import mimi_dir  # noqa: F401
from tests.train.launch import forked


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, tiny_llm_dir, mimi_dir) -> Path:  # noqa: F811
    """The recipe of the job, which has run on two ranks."""
    directory = tmp_path_factory.mktemp("checkpoints")
    stage = {"sources": [{"kind": "speech", "path": "speech/none"}], "steps": 1, "warmup_steps": 0, "lr_llm": 1e-2,
             "lr_adapter": 1e-2}  # fmt: skip
    recipe = {
        "name": "tiny",
        "workdir": str(directory),
        "model": {
            "llm": str(tiny_llm_dir),
            "encoder": {"kind": "mimi", "name": str(mimi_dir)},
            "adapter": {"layers": 2, "width": 32, "mlp": 48, "heads": 4, "kv_heads": 2, "stack": 3},
        },
        "stages": {name: stage | still(name) for name in SITUATIONS},
    }
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    forked(2, "tests.export.job", path, log=directory / "log", timeout=600)
    return path


def still(name: str) -> dict[str, float]:
    """The rates that are 0 in a situation of this name."""
    return {rate: 0.0 for rate, sign in (("lr_llm", "frozen"), ("lr_adapter", "alone")) if sign in name}
