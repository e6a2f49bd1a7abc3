"""A job that is told to stop writes a checkpoint first, says so in its exit code, and goes on from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from salad_ds.train.checkpoint import STEP
from salad_ds.train.stop import StopRequests
from tests.train.conftest import LONGER, losses, same_student
from tests.train.launch import REPOSITORY, environment, forked


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
def test_term_to_salad_ds_run(prepared, whole, work, tmp_path):
    """As a batch system does it, with the real launcher. Checkpoints are far apart: without the one behind the signal
    all would be lost; it is written in the background, and waited for."""
    settings = [*LONGER, "stages.stage1.checkpoint_every=1000", "stages.stage1.async_checkpoints=true"]
    road = [sys.executable, "-m", "salad_ds", "run", str(prepared), f"workdir={work}", *settings]
    output = tmp_path / "stopped.log"
    with open(output, "w") as log:
        job = subprocess.Popen(road, env=environment(), cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT)
        end = time.monotonic() + 240
        while not (work / "stage1/log.jsonl").is_file() or not (work / "stage1/log.jsonl").read_text().count("\n"):
            assert job.poll() is None and time.monotonic() < end, output.read_text()[-3000:]
            time.sleep(0.02)
        job.terminate()
        assert job.wait(timeout=120) == 85, output.read_text()[-3000:]
    assert "was told to stop" in output.read_text() and "the same command goes on" in output.read_text()
    assert len(list((work / "stage1/checkpoints").glob(STEP))) == 1
    said = forked(2, "salad_ds", "train", prepared, f"workdir={work}", *settings, log=tmp_path / "log")
    assert "continuing after step" in said
    assert losses(work) == losses(whole) and same_student(work, whole)
