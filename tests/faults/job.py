"""A real job of several processes that is watched, hurt and ended from outside."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.faults.fault import NotAsPromised, TooLate, short
from tests.faults.forked import Forked
from tests.train.launch import REPOSITORY, environment

PATIENCE = 900.0
"""Seconds that a job may take on a machine that has other work: no fault depends on how fast anything is."""


class Job:
    """A context manager around a process group of its own; at the end nothing of it is left, stopped processes
    included."""

    def __init__(self, words: list[str] | Forked, log: Path) -> None:
        """``words``: a command line, or processes that are forked instead."""
        self.log = log
        self.began = time.monotonic()
        if isinstance(words, Forked):
            log.write_text("")
            self.process: subprocess.Popen[bytes] | Forked = words.begin(log)
            return
        with open(log, "w") as file:
            self.process = subprocess.Popen(words, env=environment(), cwd=REPOSITORY, stdout=file,
                                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.gone()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def alive(self) -> list[psutil.Process]:
        """Every process of the group that has not ended."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getpgid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def until(self, reached: Callable[[], bool], what: str) -> None:
        """Wait for a state of the job. Raises TooLate when it has ended without, or behind it."""
        while not reached():
            if self.process.poll() is not None and not reached():  # it may have come there on its last way
                raise TooLate(f"the job ended before {what}: {short(self.said[-600:], 600)}")
            self.in_time(what)
            time.sleep(0.01)

    def in_time(self, what: str) -> None:
        if time.monotonic() - self.began > PATIENCE:
            raise NotAsPromised(f"{PATIENCE:.0f} s, and not yet {what}: {short(self.said[-600:], 600)}")

    def ranks(self) -> list[psutil.Process]:
        """The process of each rank, as whoever started them has said it."""
        return [psutil.Process(int(pid)) for pid in re.findall(r"process (\d+) spawned", self.said)]

    def send(self, number: signal.Signals, *, to: psutil.Process | subprocess.Popen[bytes] | Forked) -> None:
        """Raises TooLate where the receiver has ended."""
        try:
            os.kill(to.pid, number)
        except ProcessLookupError:
            raise TooLate("the process had ended before the signal came") from None

    def ends(self) -> int:
        """Wait for the command itself; its exit code."""
        while self.process.poll() is None:
            self.in_time("the end")
            time.sleep(0.05)
        return int(self.process.returncode)

    def gone(self) -> None:
        """Wait until no process of the group is left."""
        while self.alive:
            self.in_time("the end of every process")
            time.sleep(0.1)

    def must_fail(self, *words: str) -> str:
        """It ends, not with success, and says all of ``words``; returns the line of the first."""
        if self.ends() == 0:
            raise TooLate("the job ended well")
        return self.must_say(*words)

    def must_say(self, *words: str) -> str:
        for word in words:
            if word not in self.said:
                raise NotAsPromised(f"it does not say {word!r} (exit code {self.process.poll()}): "
                                    f"{short(self.said[-1200:], 1200)}")
        return next(line.strip() for line in self.said.splitlines() if words[0] in line) if words else ""
