"""A job that is told to stop writes a checkpoint first, says so in its exit code, and goes on from there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from salad_ds.config import load_recipe
from salad_ds.train.stop import StopRequests
from tests.train.launch import REPOSITORY, deepspeed, environment


def test_signals_are_noted_and_handed_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequests() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked == "SIGUSR1"  # the first one counts
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
@pytest.mark.assets
def test_term_to_salad_ds_run(prepared, tmp_path):
    """As a batch system does it. Checkpoints are far apart: without the one behind the signal all would be lost."""
    whole, work = tmp_path / "whole", tmp_path / "work"
    for directory in (whole, work):
        shutil.copytree(load_recipe(prepared).path("."), directory)
    settings = ["stages.stage1.steps=40", "stages.stage1.checkpoint_every=1000"]
    deepspeed(2, "salad_ds", "train", prepared, f"workdir={whole}", *settings)
    road = [sys.executable, "-m", "salad_ds", "run", str(prepared), f"workdir={work}", *settings]
    output = tmp_path / "stopped.log"
    with open(output, "w") as log:
        job = subprocess.Popen(road, env=environment(), cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT)
        end = time.monotonic() + 150
        while not (work / "stage1/log.jsonl").is_file() or not (work / "stage1/log.jsonl").read_text().count("\n"):
            assert job.poll() is None and time.monotonic() < end, output.read_text()[-3000:]
            time.sleep(0.02)
        job.terminate()
        assert job.wait(timeout=60) == 85, output.read_text()[-3000:]
    assert "was told to stop" in output.read_text() and "the same command goes on" in output.read_text()
    assert len(list((work / "stage1/checkpoints").glob("step-????????"))) == 1
    again = subprocess.run(road, env=environment(), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True, timeout=240)  # fmt: skip
    assert again.returncode == 0 and "continuing after step" in again.stdout, again.stdout[-3000:]
    rows = [[json.loads(line)["loss"] for line in (path / "stage1/log.jsonl").read_text().splitlines()]
            for path in (whole, work)]  # fmt: skip
    assert rows[0] == rows[1]
    ours, theirs = (load_file(path / "stage1/model/model.safetensors") for path in (work, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
