"""CPU, memory, disk, network and GPUs of every node, beside the numbers of a stage.

The samples are MLflow's own (``mlflow.system_metrics``; GPUs with nvidia-ml-py). Its thread that sends them gives up
as soon as the server is away, so this one appends them to a journal instead: rank 0's is the stage's own; the first
rank of every other host has ``tracking-unsent.<node>.jsonl`` beside it, which rank 0 delivers. A metric's step is the
seconds since the run began, so that a resumed run goes on behind where it stopped.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable

from salad_ds.config import Recipe
from salad_ds.train.journal import Journal
from salad_ds.train.tracking_base import Tracker
from salad_ds.train.tracking_runs import Runs, attempt_digest

Report = Callable[[dict[str, float], float], None]
"""(values by metric, seconds since 1970)."""


class SystemMetrics:
    """A thread that samples every ``MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL`` seconds (10), and when it ends."""

    def __init__(self, report: Report, node: str = "") -> None:
        from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self.report, self.prefix = report, f"system/{node}/" if node else "system/"
        self.every = float(MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or 10.0)
        self.monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(Exception):  # no nvidia-ml-py, or no NVIDIA GPU: there is nothing to see
            self.monitors.append(GPUMonitor())
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.work, name="system metrics", daemon=True)
        self.thread.start()

    def work(self) -> None:
        ending = False
        while not ending:
            ending = self.over.wait(self.every)
            try:
                self.report(self.sample(), time.time())
            except Exception:  # a sensor that fails must not be heard of every ten seconds
                return

    def sample(self) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for monitor in self.monitors:
            monitor.collect_metrics()
            numbers |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        return {self.prefix + name: float(value) for name, value in numbers.items()}

    def finish(self) -> None:
        self.over.set()
        self.thread.join(5.0)


def wanted() -> bool:
    """MLflow's own switch says no, or nothing."""
    return os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() not in ("false", "0")


def node() -> str:
    """The name of this host among several, "" where there is one. Hosts may share a name: containers do."""
    ranks, here = os.environ.get("WORLD_SIZE", "1"), os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE")
    if not here or int(ranks) <= int(here):
        return ""
    host = re.sub(r"[^\w\-.]", "_", socket.gethostname())
    return f"{host}-rank{int(os.environ['RANK']) // int(here) * int(here)}"


class NodeTracker(Tracker):
    """On the first rank of a host that is not rank 0's: its system metrics, in a journal that rank 0 delivers."""

    def __init__(self, recipe: Recipe, stage: str) -> None:
        self.runs, self.stage = Runs(recipe, recipe.path(".").absolute()), stage
        self.digest = attempt_digest(recipe, stage)
        self.journal = Journal(self.runs.work / f"tracking-unsent.{node()}.jsonl")
        self.system = SystemMetrics(self.system_metrics, node())

    def system_metrics(self, values: dict[str, float], now: float) -> None:
        # Rank 0 may not have begun yet, or its file not have come here: then these are lost.
        if attempt := self.runs.running(self.stage, self.digest):
            self.journal.append({"kind": "metrics", "run": attempt, "values": values, "time": int(now * 1000),
                                 "step": self.runs.seconds(attempt, now)})  # fmt: skip

    def finish(self, status: str = "FINISHED") -> None:
        self.system.finish()


def leads_a_node() -> bool:
    """Whether this is the first rank of one of several hosts."""
    return os.environ.get("LOCAL_RANK") == "0" and node() != "" and wanted()
