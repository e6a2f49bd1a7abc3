"""A small work directory with real speech, word times, text and a teacher store, for the training tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from salad_ds.align.run import align
from salad_ds.config import load_recipe
from salad_ds.data.prepare import prepare
from salad_ds.teacher.precompute import precompute
from tests.train.launch import forked

ADAPTER = {"layers": 2, "width": 32, "mlp": 48, "heads": 4, "kv_heads": 2, "stack": 4}
SOURCES = [{"kind": "speech", "path": "speech/natural"}, {"kind": "text", "path": "text/plain"}]


def write_recipe(path: Path, llm: Path, workdir: Path) -> Path:
    """A recipe of seconds: real recordings, a random two-layer LLM, ZeRO-3 on two ranks."""
    stage = {
        "sources": SOURCES,
        "steps": 6,
        "ranks": 2,
        "micro_batch": 1,
        "global_batch": 2,
        "alpha": 0.9,
        "warmup_steps": 2,
    }
    stage |= {
        "lr_adapter": 1e-3,
        "lr_llm": 1e-3,
        "deepspeed": "ds_configs/zero3_cpu.json",
        "checkpoint_every": 2,
        "keep": 2,
    }
    recipe = {
        "name": "small",
        "workdir": str(workdir),
        "model": {
            "llm": str(llm),
            "encoder": {"kind": "whisper", "name": "packaged:whisper-tiny.en"},
            "adapter": ADAPTER,
        },
        "corpora": [
            {
                "kind": "asterisk",
                "source": "packaged:asterisk",
                "out": "speech/natural",
                "limit": 14,
                "join_seconds": 12.0,
            },
            {"kind": "wordnet", "source": "packaged:wordnet", "out": "text/plain", "limit": 8},
        ],
        "data": {
            "context": 128,
            "text_words": [4, 10],
            "speech_words": [3, 8],
            "max_bad_share": 0.2,
            "workers": 0,
        },
        "teacher": {"top_k": 16, "samples": 8},
        "stages": {"stage1": stage},
        "tracking": {"enabled": False},
        "threads": 1,
    }
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, tiny_llm_dir) -> Path:
    """A recipe whose shards, word times and teacher store are made."""
    directory = tmp_path_factory.mktemp("prepared")
    path = write_recipe(directory / "recipe.yaml", tiny_llm_dir, directory / "work")
    recipe = load_recipe(path)
    prepare(recipe)
    align(recipe)
    precompute(recipe)
    return path


LONGER = ["stages.stage1.steps=9", "stages.stage1.global_batch=4", "stages.stage1.checkpoint_every=3"]
"""Settings of the stage that is hurt, stopped and spread over other ranks in several tests, and of ``whole``."""


@pytest.fixture(scope="session")
def whole(prepared, tmp_path_factory) -> Path:
    """The work directory of a stage of nine steps on two ranks, with nothing amiss: what others are compared with."""
    directory = tmp_path_factory.mktemp("whole")
    shutil.copytree(load_recipe(prepared).path("."), directory / "work")
    forked(2, "salad_ds", "train", prepared, f"workdir={directory / 'work'}", *LONGER, log=directory / "log")
    return directory / "work"


@pytest.fixture
def work(prepared, tmp_path) -> Path:
    """A copy of the prepared work directory."""
    shutil.copytree(load_recipe(prepared).path("."), tmp_path / "work")
    return tmp_path / "work"


def log_rows(work: Path) -> list[dict[str, float]]:
    """What each step of the stage has told."""
    return [json.loads(line) for line in (work / "stage1/log.jsonl").read_text().splitlines()]


def losses(work: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in log_rows(work)]


def same_student(one: Path, other: Path) -> bool:
    """Whether two work directories hold the same student, bit by bit."""
    ours, theirs = (load_file(path / "stage1/model/model.safetensors") for path in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="session")
def decided_teacher(tiny_untied_llm_dir, tmp_path_factory) -> Path:
    """A teacher with an opinion: of a random LLM every distribution is flat, and all teachers are the same."""
    directory = Path(shutil.copytree(tiny_untied_llm_dir, tmp_path_factory.mktemp("decided") / "llm"))
    weights = load_file(directory / "model.safetensors")
    weights["lm_head.weight"] *= 15
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return directory
