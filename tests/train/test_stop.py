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


def test_a_second_interrupt_does_not_wait(capfd):
    with pytest.raises(KeyboardInterrupt), StopRequests(signal.SIGINT, says="waiting") as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked == "SIGINT" and capfd.readouterr().err == "SIGINT: waiting\n"
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.timeout(1800)
def test_salad_ds_run_is_told_to_stop(prepared, whole, work, tmp_path):
    """By Ctrl-C, as a terminal does it, and by a batch system; with the real launcher. Checkpoints are far apart:
    without the one behind the signal all would be lost; it is written in the background, and waited for."""
    settings = [*LONGER, "stages.stage1.checkpoint_every=1000", "stages.stage1.async_checkpoints=true"]
    road = [sys.executable, "-m", "salad_ds", "run", str(prepared), f"workdir={work}", *settings]
    log, checkpoints = work / "stage1/log.jsonl", work / "stage1/checkpoints"

    def stopped(number: int, steps: int) -> tuple[int, str]:
        """Told when so many steps are done; the exit code and the output."""
        output = tmp_path / f"{steps}.log"
        with open(output, "w") as stream:
            job = subprocess.Popen(road, env=environment(), cwd=REPOSITORY, stdout=stream, stderr=subprocess.STDOUT,
                                   start_new_session=True)  # fmt: skip
        end = time.monotonic() + 900
        while not log.is_file() or log.read_text().count("\n") < steps:
            assert job.poll() is None and time.monotonic() < end, output.read_text()[-3000:]
            time.sleep(0.02)
        os.killpg(job.pid, number)  # a terminal's foreground group
        return job.wait(timeout=600), output.read_text()

    code, said = stopped(signal.SIGINT, 1)
    assert code == 130 and "interrupted; the same command goes on where it stopped" in said, said[-3000:]
    first = list(checkpoints.glob(STEP))
    assert len(first) == 1, "Ctrl-C costs no step"
    code, said = stopped(signal.SIGTERM, len(losses(work)) + 1)
    assert code == 85 and "was told to stop" in said and "the same command goes on" in said, said[-3000:]
    assert max(checkpoints.glob(STEP)).name > first[0].name
    said = forked(2, "salad_ds", "train", prepared, f"workdir={work}", *settings, log=tmp_path / "log")
    assert "continuing after step" in said
    assert losses(work) == losses(whole) and same_student(work, whole)
