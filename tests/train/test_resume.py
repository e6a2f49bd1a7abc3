"""A training job that is killed goes on from its newest checkpoint, and ends where an uninterrupted one ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from salad_ds.config import load_recipe
from tests.train.launch import REPOSITORY, command, deepspeed, environment


@pytest.fixture
def work(prepared, tmp_path) -> Path:
    """A copy of the prepared work directory."""
    shutil.copytree(load_recipe(prepared).path("."), tmp_path / "work")
    return tmp_path / "work"


def losses(work: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (work / "stage1/log.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def kill_everything(job: subprocess.Popen[str]) -> None:
    """SIGKILL to the launcher and to every rank, as a power cut would."""
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()


def test_kill_9_and_go_on(prepared, work, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(work, whole)
    deepspeed(2, "salad_ds", "train", prepared, f"workdir={whole}")
    arguments = ("train", prepared, f"workdir={work}")
    with open(tmp_path / "killed.log", "w") as log:
        job = subprocess.Popen(
            command(2, "salad_ds", *arguments),
            env=environment(),
            cwd=REPOSITORY,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + 150
            while not (work / "stage1/checkpoints/step-00000002/complete.json").is_file():
                assert job.poll() is None and time.monotonic() < end, (tmp_path / "killed.log").read_text()[-3000:]
                time.sleep(0.02)
        finally:
            kill_everything(job)
    assert not (work / "stage1/done.json").exists(), "the job had finished: nothing was interrupted"
    (work / "stage1/checkpoints/step-00000099").mkdir()  # a half-written checkpoint is passed over, and named
    said = deepspeed(2, "salad_ds", *arguments)
    assert "continuing after step" in said and "passing over" in said and "step-00000099" in said
    assert losses(work) == losses(whole) and [step for step, _ in losses(work)] == [1, 2, 3, 4, 5, 6]
    ours, theirs = (load_file(path / "stage1/model/model.safetensors") for path in (work, whole))
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
    assert any(not (ours[name] == 0).all() for name in ours if name.startswith("adapter."))


def test_a_live_teacher_says_what_the_store_says(prepared, work):
    """One step on one rank in each mode: the stored targets estimate the live ones, from the same batches."""
    common = (
        "train",
        prepared,
        f"workdir={work}",
        "stages.stage1.steps=1",
        "stages.stage1.alpha=1.0",
        "teacher.samples=8",
    )
    deepspeed(1, "salad_ds", *common)
    stored = losses(work)
    shutil.rmtree(work / "stage1")
    deepspeed(1, "salad_ds", *common, "teacher.mode=live")
    assert losses(work)[0][1] == pytest.approx(stored[0][1], rel=0.05, abs=2e-3)
