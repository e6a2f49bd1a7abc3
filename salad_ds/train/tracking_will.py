"""A process that says FAILED for one that can no longer say it: killed, out of memory, ended by the watchdog.

It waits at the end of a pipe, in a few megabytes and without a library, for the stage's word that it has ended. Where
the pipe closes without it, the run is marked FAILED, in the journal first: if MLflow is away, whoever delivers next
tells it. It stands outside the job's process tree, which launchers kill as a whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from salad_ds.train.tracking_runs import Runs

DONE = b"done"
PATIENCE = 600.0
"""Seconds for the delivery: nobody waits for it."""
START = "from salad_ds.train.tracking_will import wait; wait()"


class Will:
    """``fulfil`` it, or it is carried out when this process is gone."""

    def __init__(self, runs: Runs, attempt: str) -> None:
        # stderr too: whoever reads this process's output would wait for the end of the other
        child = subprocess.Popen([sys.executable, "-c", START], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        assert child.stdin is not None
        self.pipe = child.stdin
        said = {"work": str(runs.work), "name": runs.name, "experiment": runs.experiment, "uri": runs.given,
                "attempt": attempt}  # fmt: skip
        self.tell(json.dumps(said).encode() + b"\n")  # in the pipe, for an address may hold a password
        child.wait()  # it has left a child of its own behind

    def tell(self, said: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.pipe.write(said)
            self.pipe.flush()

    def fulfil(self) -> None:
        self.tell(DONE)
        with contextlib.suppress(OSError):
            self.pipe.close()


def wait() -> None:
    """What the other process does."""
    if os.fork():
        os._exit(0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    said = json.loads(sys.stdin.buffer.readline())
    if sys.stdin.buffer.read() != DONE:
        carry_out(**said)


def carry_out(work: str, name: str, experiment: str, uri: str, attempt: str) -> None:
    """Mark the attempt FAILED in tracking.json and in MLflow, or in the journal where MLflow is away."""
    from salad_ds.config import Recipe, TrackingConfig
    from salad_ds.train.tracking_runs import Runs
    from salad_ds.train.tracking_sender import Sender

    recipe = Recipe(name=name, workdir=work, tracking=TrackingConfig(uri=uri, experiment=experiment))
    runs = Runs(recipe, Path(work))
    sender = Sender(runs)
    sender.journal.append({"kind": "status", "run": attempt, "value": "FAILED"})
    runs.end(attempt, "FAILED")
    sender.start()
    end = time.monotonic() + PATIENCE
    while sender.journal.path.exists() and time.monotonic() < end:
        time.sleep(0.2)
    sender.close()
