"""Starting ranks from ``salad-ds run``: a job of this machine under the ``deepspeed`` launcher.

What the ranks make of the launcher's words is launched.py's; several machines are launchers/'.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from salad_ds.config import Recipe
from salad_ds.environment import PARENT, free_port
from salad_ds.errors import SaladError, Stopped
from salad_ds.train.stop import StopRequests


def launch(recipe: Recipe, ranks: int, what: str, *arguments: str) -> None:
    """``deepspeed --num_gpus RANKS --module salad_ds ARGUMENTS``; its output passes through.

    SIGTERM, SIGUSR1 or Ctrl-C to this process tells the ranks to stop, in training with a checkpoint; a second Ctrl-C
    ends them at once. Raises SaladError naming ``what`` when the job fails, Stopped when it or this process was told
    to stop, KeyboardInterrupt when it was by Ctrl-C.
    """
    launcher = Path(sys.executable).with_name("deepspeed")
    if not launcher.is_file():
        raise SaladError(
            f"there is no deepspeed launcher beside {sys.executable}",
            "install the package with its requirements: make setup",
        )
    command = [
        sys.executable,
        str(launcher),
        "--hostfile",
        os.devnull,  # a hostfile in DeepSpeed's default place must not take this run elsewhere
        "--num_gpus",
        str(ranks),
        "--master_port",
        str(free_port()),
        "--log_level",
        "error",
        "--no_local_rank",
        "--module",
        "salad_ds",
        *arguments,
    ]
    environment = dict(os.environ, PATH=f"{launcher.parent}{os.pathsep}{os.environ.get('PATH', '')}")
    environment[PARENT] = str(os.getpid())
    import torch

    if not torch.cuda.is_available():
        environment["DS_ACCELERATOR"] = "cpu"
    if recipe.threads:
        environment["OMP_NUM_THREADS"] = str(recipe.threads)
    # In a session of its own: Ctrl-C goes to the terminal's whole group, and DeepSpeed's launcher ends ranks unasked.
    job = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        with StopRequests(signal.SIGINT, says="telling the ranks; Ctrl-C ends them at once") as stop:
            while (code := waited(job)) is None:
                if stop.asked and not stop.agreed:
                    stop.agreed = tell_ranks(job.pid)
    except KeyboardInterrupt:  # the second Ctrl-C
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        raise
    if stop.asked == "SIGINT":
        raise KeyboardInterrupt
    if stop.asked or code == Stopped.code:
        raise Stopped(f"{what} was told to stop", "the same command goes on where it stopped")
    if code:
        raise SaladError(
            f"{what} ended with exit code {code}", "see its last lines above; the same command goes on where it stopped"
        )


def tell_ranks(launcher: int) -> bool:
    """SIGTERM to the ranks below a launcher, not to itself: they write a checkpoint and end, and it with them. Told
    itself, it would end at once, and take what time they need from them. Whether there was any yet."""
    told = False
    with contextlib.suppress(psutil.NoSuchProcess):  # the launcher has just ended
        for process in psutil.Process(launcher).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                parent = process.parent()
                if "RANK" in process.environ() and parent is not None and "RANK" not in parent.environ():
                    process.terminate()
                    told = True
    return told


def waited(job: subprocess.Popen[bytes]) -> int | None:
    """The exit code of ``job``, None if it does not end within half a second."""
    try:
        return job.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        return None
