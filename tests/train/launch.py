"""Starting real DeepSpeed jobs from a test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from salad_ds.environment import free_port

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
        str(free_port()),
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


def deepspeed(ranks: int, module: str, *arguments: object, timeout: float = 240) -> str:
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
