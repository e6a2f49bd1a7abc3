"""Starting real DeepSpeed jobs from a test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.ports import held_port

if TYPE_CHECKING:  # it starts from here
    from tests.faults.forked import Forked

REPOSITORY = Path(__file__).parents[2]


def command(ranks: int, module: str, *arguments: object) -> list[str]:
    """The launcher's command line for ``ranks`` processes on this machine."""
    launcher = Path(sys.executable).with_name("deepspeed")
    return [
        sys.executable,
        str(launcher),
        "--num_gpus",
        str(ranks),
        "--master_port",
        str(held_port()),
        "--no_local_rank",
        "--module",
        module,
        *map(str, arguments),
    ]


def environment() -> dict[str, str]:
    return os.environ | {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }


def deepspeed(ranks: int, module: str, *arguments: object, timeout: float = 900) -> str:
    """Run to the end; returns the output. Fails the test with the output's end when the job fails."""
    done = subprocess.run(
        command(ranks, module, *arguments),
        env=environment(),
        cwd=REPOSITORY,
        timeout=timeout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def forked(ranks: int, module: str, *arguments: object, log: Path, fails: bool = False, timeout: float = 900) -> str:
    """The same without a launcher, in processes that need not import everything anew (a third of the CPU time); returns
    the output. Fails the test with the output's end when the job ends in another way than it should."""
    job = start(ranks, module, *arguments, log=log)
    end = time.monotonic() + timeout
    try:
        while job.poll() is None:
            assert time.monotonic() < end, f"after {timeout:.0f} s:\n{log.read_text()[-4000:]}"
            time.sleep(0.05)
    finally:
        stop(job)
    assert (job.returncode != 0) == fails, log.read_text()[-4000:]
    return log.read_text()


def start(ranks: int, module: str, *arguments: object, log: Path) -> Forked:
    """Such a job, begun. It leads a process group: ``stop`` it."""
    from tests.faults.forked import Forked

    log.write_text("")
    return Forked(ranks, module, *arguments).begin(log)


def stop(job: Forked) -> None:
    """Leave nothing of a job."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)
    job.wait()
