"""Waiting until processes that a test did not start itself are gone."""

from __future__ import annotations

import time
from collections.abc import Collection

import psutil


def gone(pids: Collection[int], seconds: float = 60) -> bool:
    """Whether all have ended within so many seconds."""
    end = time.monotonic() + seconds
    while any(map(runs, pids)):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def runs(pid: int) -> bool:
    """A zombie does not: the first process of a container may never reap what falls to it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
