"""Being told to stop: a checkpoint within the grace time, and an exit code that asks to be started again.

Cluster managers send SIGTERM (preemption, node drain) or SIGUSR1 (SLURM's ``--signal``, before the time limit). Each
rank only notes it; before the next step the ranks agree (lockstep.py), write a checkpoint and raise Stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType


class StopRequests:
    """A context manager that notes SIGTERM, SIGUSR1 and those of ``more`` instead of dying of them. ``asked``: the name
    of the first one that came, "" as long as none did. A SIGINT behind another one raises KeyboardInterrupt: whoever
    presses Ctrl-C again does not want to wait. ``says``: to standard error, with its name. Only a process's main thread
    can listen; elsewhere nothing is noted."""

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, *more: signal.Signals, says: str = "stopping, with a checkpoint") -> None:
        self.signals, self.says = (*self.SIGNALS, *more), says
        self.asked = ""
        self.agreed = False
        """Whether all ranks know that they stop between the same two steps: some rank was asked, or has a fault."""
        self.before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.note) for number in self.signals}
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked = signal.Signals(number).name
            # Not print: the signal may have come while sys.stderr itself was being written to, which it refuses then.
            with contextlib.suppress(OSError):
                os.write(2, f"{self.asked}: {self.says}\n".encode())

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
