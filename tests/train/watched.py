"""Ranks under a watchdog, one of which goes wrong: what test_watchdog.py starts.

Run as a module: ``python -m tests.train.watched CASE SILENCE HANG``.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import torch
import torch.distributed as dist

from salad_ds.train import watchdog
from salad_ds.train.watchdog import Watchdog

CULPRIT = 1


def wait_for_a_file_system_that_never_answers() -> None:
    time.sleep(600)


def steps(case: str, watched: Watchdog) -> None:
    """Twenty short steps, or whatever comes between."""
    for number in range(20):
        if number == 5 and case == "silent-first-and-fails":  # as NCCL does of a peer that is off, before any verdict
            if dist.get_rank() == 0:
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(5 * watchdog.BEAT)
            raise ZeroDivisionError("the defect itself")
        if number == 5 and (dist.get_rank() == CULPRIT or case == "silent-first" and dist.get_rank() == 0):
            if case in ("silent", "silent-first") and dist.get_rank() == (0 if case == "silent-first" else CULPRIT):
                os.kill(os.getpid(), signal.SIGSTOP)
            if case == "dead":
                os.kill(os.getpid(), signal.SIGKILL)
            if case == "hang":
                wait_for_a_file_system_that_never_answers()
            if case == "fails":
                raise ZeroDivisionError("the defect itself")
        dist.all_reduce(torch.ones(1))
        watched.step_ended()
        time.sleep(0.05)


if __name__ == "__main__":
    watchdog.BEAT = 0.3
    dist.init_process_group("gloo")
    with Watchdog(float(sys.argv[2]), float(sys.argv[3])) as watched:
        steps(sys.argv[1], watched)
    print(f"rank {dist.get_rank()} is through")
    dist.destroy_process_group()
