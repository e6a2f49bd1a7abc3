"""The thread that carries tracking records from the journal to MLflow, whatever MLflow's state.

Each delivery takes the journal oldest first. A failure that means "away" leaves the rest in the journal and doubles
the pause; a record that MLflow refuses while it answers otherwise is named and given up: nothing waits behind it.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

from salad_ds.train.journal import Journal, locked
from salad_ds.train.tracking_kinds import KINDS, SCORES, OpenRun
from salad_ds.train.tracking_runs import Runs

EVERY = 2.0
"""Seconds between deliveries."""
LONGEST_PAUSE = 300.0
"""Seconds between attempts when MLflow stays away: the pause doubles up to this."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""By which MLflow's pages show training runs, not traces of agents."""
TRIES = 5
"""An artefact that MLflow refuses this often, while it answers otherwise, is given up by name."""


class Sender:
    """The thread between the journals of a work directory and MLflow. Its network calls delay nobody but itself."""

    def __init__(self, runs: Runs) -> None:
        self.runs, self.where = runs, runs.store
        self.journal, self.lock = Journal(unsent(runs.work)), runs.work / ".tracking.sender"
        self.patience = 15.0 if runs.uri.startswith("http") else 60.0
        self.client: Any = None
        self.open: dict[str, OpenRun] = {}
        self.again: list[dict[str, Any]] = []
        self.parent = ""
        self.away = False
        self.wake, self.closing = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.work, name="tracking", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def close(self) -> None:
        """Deliver what waits, for at most ``patience`` seconds; the rest stays in the journal."""
        self.closing.set()
        self.wake.set()
        self.thread.join(self.patience)
        if self.thread.is_alive() and not self.away:
            say(f"MLflow ({self.where}) is slow; unsent records wait in {self.journal.path}")

    def work(self) -> None:
        pause = 0.0
        while True:
            self.wake.wait(pause)
            closing = self.closing.is_set()
            try:
                with locked(self.lock, wait=False) as mine:
                    if mine is None:  # another process of this work directory sends our records too
                        time.sleep(0.2)
                        continue
                    for journal in (self.journal, *others(self.runs.work)):
                        self.deliver(journal)
                pause = EVERY
                if self.away:
                    say(f"MLflow ({self.where}) is back; the buffered records were sent")
                self.away = False
            except Exception as error:
                if not self.away:
                    say(
                        f"MLflow ({self.where}) is away ({reason(error)}); "
                        f"the stage goes on, its records wait in {self.journal.path}"
                    )
                self.away = True
                self.open.clear()
                pause = min(max(2 * pause, 5.0), LONGEST_PAUSE)
            if closing:
                return

    def deliver(self, journal: Journal) -> None:
        """Send a journal, oldest first. Raises when MLflow is away; what was sent is dropped from the journal."""
        try:
            while records := journal.read(1000):
                done, start = 0, 0
                try:
                    while start < len(records):
                        group = neighbours(records, start)
                        self.send(group)
                        start += len(group)
                        done = records[start - 1][1]
                finally:
                    if done:
                        journal.drop(done)
        finally:
            for record in self.again:
                self.journal.append(record)
            self.again.clear()

    def send(self, group: list[dict[str, Any]]) -> None:
        """Send neighbouring records of one kind; a record MLflow refuses for good is named and given up."""
        record = group[0]
        if record.get("kind") not in KINDS or not isinstance(record.get("run"), str):
            return
        run = self.run(record["run"])
        try:
            KINDS[record["kind"]](self, run, group)
        except Exception as error:
            self.client.get_run(run.id)  # raises when it is the server that is away
            tries = record.get("tries", 0) + 1
            if permanent(error) or tries >= TRIES:
                say(f"MLflow refuses {record['kind']} of {record['run']}: {reason(error)}")
            else:
                self.again += [{**other, "tries": tries} for other in group]

    def run(self, attempt: str) -> OpenRun:
        """The open MLflow run of an attempt: remembered, or made."""
        if attempt in self.open:
            return self.open[attempt]
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        if self.client is None:
            self.client = MlflowClient(tracking_uri=self.runs.uri)
        run = None
        if run_id := self.runs.known(attempt):
            try:
                run = self.client.get_run(run_id)
            except MlflowException as error:
                if not permanent(error):
                    raise  # else the store was removed: the run is made anew
        if run is None:
            stage, _, number = attempt.rpartition("#")
            name = stage if number == "1" else f"{stage} ({number})"
            experiment, parent = self.experiment()
            tags = {"mlflow.parentRunId": parent, "salad.stage": stage}
            run = self.client.create_run(experiment, run_name=name, tags=tags)
            with self.runs.change() as state:
                item = state["attempts"].setdefault(attempt, {"stage": stage, "digest": "", "status": "", "ids": {}})
                item["ids"][self.runs.store] = run.info.run_id
        self.parent = self.parent or run.data.tags.get("mlflow.parentRunId", "")
        # `data.metrics` has the values only
        last = {metric.key: (metric.step, metric.timestamp) for metric in run.data._metric_objs}
        self.open[attempt] = OpenRun(run.info.run_id, run.info.experiment_id, last, set(run.data.params),
                                     run.data.tags.get(SCORES))  # fmt: skip
        return self.open[attempt]

    def experiment(self) -> tuple[str, str]:
        """Ids of the experiment and of the work directory's parent run; both are made when missing."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.runs.experiment)
        if found is None:
            local = self.runs.uri.startswith("sqlite:")  # a server places artefacts itself
            place = (self.runs.work / "mlartifacts").as_uri() if local else None
            experiment = self.client.create_experiment(self.runs.experiment, place, KIND)
        else:
            experiment = found.experiment_id
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(experiment)
        parent = self.runs.load()["parents"].get(self.runs.store)
        if parent:
            try:
                self.client.get_run(parent)
            except MlflowException as error:
                if not permanent(error):
                    raise
                parent = None
        if not parent:
            tags = {"salad.workdir": str(self.runs.work)}
            parent = self.client.create_run(experiment, run_name=self.runs.name, tags=tags).info.run_id
            with self.runs.change() as state:
                state["parents"][self.runs.store] = parent
        return experiment, parent


def unsent(work: Path) -> Path:
    """The journal of a work directory."""
    return work / "tracking-unsent.jsonl"


def others(work: Path) -> list[Journal]:
    """The journals of its other hosts (tracking_system.py). What one of them holds just now waits for the next turn."""
    return [Journal(path, wait=False) for path in sorted(work.glob("tracking-unsent.*.jsonl"))]


def neighbours(records: list[tuple[dict[str, Any], int]], start: int) -> list[dict[str, Any]]:
    """The records that travel in one request: metrics of one run that follow each other, else a single record."""
    group = [records[start][0]]
    if group[0].get("kind") == "metrics":
        for record, _ in records[start + 1 :]:
            if (record.get("kind"), record.get("run")) != ("metrics", group[0].get("run")):
                break
            group.append(record)
    return group


def permanent(error: Exception) -> bool:
    """Would sending the same again fail the same way? Refusals of the content, files that are gone."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.get_http_status_code() in (400, 404, 409, 413)
    return isinstance(error, (FileNotFoundError, KeyError, TypeError, ValueError))


def reason(error: Exception) -> str:
    """The first line of an error, at most 160 characters, without passwords in addresses."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    text = re.sub(r"://[^/@\s]+@", "://", text)
    return text if len(text) <= 160 else text[:159] + "…"


def say(text: str) -> None:
    print(f"tracking: {text}", file=sys.stderr, flush=True)
