"""A training job that is killed goes on from its newest checkpoint, and ends where an uninterrupted one ends."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import pytest

from salad_ds.config import load_recipe
from salad_ds.teacher.precompute import precompute
from tests.train.conftest import LONGER, losses, same_student
from tests.train.launch import REPOSITORY, environment, forked


def test_kill_9_of_the_run_alone_and_go_on(prepared, whole, work, tmp_path):
    """SIGKILL to ``salad-ds run`` and nothing else, then the same command again at once: nothing is lost, and the
    orphaned ranks do not train on beside the new ones. The launcher is the real one."""
    road = [sys.executable, "-m", "salad_ds", "run", str(prepared), f"workdir={work}", "evaluate.tasks=[]", *LONGER]
    with open(tmp_path / "killed.log", "w") as log:
        job = subprocess.Popen(road, env=environment(), cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, text=True)
        end = time.monotonic() + 900
        while not (work / "stage1/checkpoints/step-00000003/complete.json").is_file():
            assert job.poll() is None and time.monotonic() < end, (tmp_path / "killed.log").read_text()[-3000:]
            time.sleep(0.02)
        job.kill()
        job.wait()
    assert not (work / "stage1/done.json").exists(), "the job had finished: nothing was interrupted"
    again = subprocess.run(road, env=environment(), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True, timeout=1500)  # fmt: skip
    assert again.returncode == 0, again.stdout[-3000:]
    assert "continuing after step" in again.stdout
    assert losses(work) == losses(whole) and [step for step, _ in losses(work)] == list(range(1, 10))
    assert same_student(work, whole)


def test_a_live_teacher_says_what_the_store_says(prepared, work, decided_teacher, tmp_path):
    """One step on one rank in each mode: the stored targets estimate the live ones, from the same batches. Two models
    in ZeRO-3 shards stand side by side."""
    settings = [f"workdir={work}", f"teacher.llm={decided_teacher}", "teacher.store=decided", "stages.stage1.steps=1"]
    settings += ["stages.stage1.alpha=1.0"]
    precompute(load_recipe(prepared, settings))
    forked(1, "salad_ds", "train", prepared, *settings, log=tmp_path / "log")
    stored = losses(work)
    shutil.rmtree(work / "stage1")
    forked(1, "salad_ds", "train", prepared, *settings, "teacher.mode=live", "teacher.placement=sharded",
           log=tmp_path / "log")  # fmt: skip
    assert stored[0][1] > 0.5
    assert losses(work)[0][1] == pytest.approx(stored[0][1], rel=0.02)
