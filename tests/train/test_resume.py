"""A training job that is killed goes on from its newest checkpoint, and ends where an uninterrupted one ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from salad_ds.config import load_recipe
from salad_ds.teacher.precompute import precompute
from tests.train.launch import REPOSITORY, deepspeed, environment


@pytest.fixture
def work(prepared, tmp_path) -> Path:
    """A copy of the prepared work directory."""
    shutil.copytree(load_recipe(prepared).path("."), tmp_path / "work")
    return tmp_path / "work"


def losses(work: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (work / "stage1/log.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def test_kill_9_of_the_run_alone_and_go_on(prepared, work, tmp_path):
    """SIGKILL to ``salad-ds run`` and nothing else, then the same command again at once: nothing is lost, and the
    orphaned ranks do not train on beside the new ones."""
    whole = tmp_path / "whole"
    shutil.copytree(work, whole)
    deepspeed(2, "salad_ds", "train", prepared, f"workdir={whole}")
    road = [sys.executable, "-m", "salad_ds", "run", str(prepared), f"workdir={work}", "evaluate.tasks=[]"]
    with open(tmp_path / "killed.log", "w") as log:
        job = subprocess.Popen(road, env=environment(), cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, text=True)
        end = time.monotonic() + 150
        while not (work / "stage1/checkpoints/step-00000002/complete.json").is_file():
            assert job.poll() is None and time.monotonic() < end, (tmp_path / "killed.log").read_text()[-3000:]
            time.sleep(0.02)
        job.kill()
        job.wait()
    assert not (work / "stage1/done.json").exists(), "the job had finished: nothing was interrupted"
    again = subprocess.run(
        road,
        env=environment(),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert again.returncode == 0, again.stdout[-3000:]
    assert "continuing after step" in again.stdout
    assert losses(work) == losses(whole) and [step for step, _ in losses(work)] == [1, 2, 3, 4, 5, 6]
    ours, theirs = (load_file(path / "stage1/model/model.safetensors") for path in (work, whole))
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)


def test_a_live_teacher_says_what_the_store_says(prepared, work, decided_teacher):
    """One step on one rank in each mode: the stored targets estimate the live ones, from the same batches. Two models
    in ZeRO-3 shards stand side by side."""
    settings = [f"workdir={work}", f"teacher.llm={decided_teacher}", "teacher.store=decided", "stages.stage1.steps=1"]
    settings += ["stages.stage1.alpha=1.0"]
    precompute(load_recipe(prepared, settings))
    deepspeed(1, "salad_ds", "train", prepared, *settings)
    stored = losses(work)
    shutil.rmtree(work / "stage1")
    deepspeed(1, "salad_ds", "train", prepared, *settings, "teacher.mode=live", "teacher.placement=sharded")
    assert stored[0][1] > 0.5
    assert losses(work)[0][1] == pytest.approx(stored[0][1], rel=0.02)
