"""Processes that need not import everything anew: forked from one that has imported torch, DeepSpeed and transformers.

Half of what a short job on a CPU costs is imports, and the catalogue starts some seventy. A forked rank runs the same
module with the same arguments in the same environment as one that the launcher starts, through ``runpy``; what the
launcher adds (it ends the ranks beside one that has failed) is done here in its way. Faults that concern the launcher
use the real one.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.ports import held_port
from tests.train.launch import REPOSITORY, environment

IMPORTED = ["salad_ds.cli", "salad_ds.train.loop", "salad_ds.data.prepare", "salad_ds.align.run",
            "salad_ds.teacher.precompute", "salad_ds.evaluate.run", "deepspeed", "transformers", "mlflow"]
GRACE = 20.0
"""Seconds that the other ranks may take to end by themselves when one has failed."""


class Forked:
    """``ranks`` processes of ``python -m MODULE ARGUMENTS``; 0 for one that belongs to no group. Once begun, it has
    what the tests use of subprocess.Popen."""

    def __init__(self, ranks: int, module: str, *arguments: object) -> None:
        self.ranks, self.words = ranks, [module, *map(str, arguments)]
        self.inner: ForkServerProcess

    def begin(self, log: Path) -> Forked:
        wanted, before = environment(), dict(os.environ)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        self.inner = context.Process(target=supervise, args=(self.ranks, self.words, str(log), wanted))
        os.environ.update(wanted)  # the server, which starts with the first job, imports in it
        try:
            self.inner.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        while not os.path.exists(f"/proc/{self.pid}") or os.getpgid(self.pid) != self.pid:  # it leads a group by then
            if self.poll() is not None:
                break
            time.sleep(0.005)
        return self

    @property
    def pid(self) -> int:
        return int(self.inner.pid or 0)

    @property
    def returncode(self) -> int | None:
        return self.inner.exitcode

    def poll(self) -> int | None:
        return self.inner.exitcode

    def wait(self) -> int | None:
        self.inner.join()
        return self.inner.exitcode

    def kill(self) -> None:
        self.inner.kill()


def supervise(ranks: int, words: Sequence[str], log: str, variables: dict[str, str]) -> None:
    """In a process of its own: start the ranks in a new session, with one log, and end as they end."""
    os.setsid()
    os.environ.update(variables)
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    os.chdir(REPOSITORY)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    if not ranks:
        os._exit(module(words))
    group = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": held_port()}
    living = {}
    for rank in range(ranks):
        pid = os.fork()
        if not pid:
            own = group | {"RANK": rank, "LOCAL_RANK": rank}
            os.environ.update({name: str(value) for name, value in own.items()})
            os._exit(module(words))
        print(f"process {pid} spawned: rank {rank}", flush=True)
        living[pid] = rank
    failed, end = 0, float("inf")
    while living:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in living:
            del living[pid]
            if code := os.waitstatus_to_exitcode(status):
                failed, end = failed or code, min(end, time.monotonic() + GRACE)
        elif time.monotonic() > end:
            for other in living:
                os.kill(other, signal.SIGKILL)
        else:
            time.sleep(0.02)
    os._exit(failed if failed >= 0 else 1)


def module(words: Sequence[str]) -> int:
    """``python -m`` of these words, in this process; its exit code."""
    sys.argv = list(words)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code
