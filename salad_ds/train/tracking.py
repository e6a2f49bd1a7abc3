"""MLflow tracking that can neither stop nor slow a stage.

One *parent* run per work directory, one *child* per stage. A stage only appends records to a file
(``tracking-unsent.jsonl``, see journal.py); a background thread (tracking_sender.py) carries them to MLflow and drops
them once MLflow has them. A server that is away or slow therefore costs the stage nothing: the file grows until the
server is back, or until the next stage or run in the same work directory sends it. Sending a record twice does no
harm: metrics at steps a run already holds, and parameters it already has, are left out.

``tracking.json`` remembers the runs: a stage that did not finish and whose recipe is unchanged continues its run; a
stage that finished, or whose recipe changed, starts another child. Only rank 0 tracks.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from salad_ds.config import Recipe, plain
from salad_ds.errors import SaladError
from salad_ds.train.tracking_base import Tracker
from salad_ds.train.tracking_runs import Runs, attempt_digest, public, store_uri
from salad_ds.train.tracking_sender import Sender, reason, say
from salad_ds.train.tracking_system import NodeTracker, SystemMetrics, leads_a_node, node, wanted
from salad_ds.train.tracking_will import Will

SETTINGS = {  # short, because a buffer takes what a server does not; the user's own values win
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def open_tracker(recipe: Recipe, stage: str, resume_id: str | None = None) -> Tracker:
    """The tracker of one stage; a context manager that marks a crash FAILED.

    ``resume_id`` names the MLflow run to continue; by default tracking.json knows it. Every recipe key and the recipe
    are recorded at once; ``start_stage`` adds what a training stage runs on. Never raises for MLflow's sake.
    """
    if not recipe.tracking.enabled or (rank() != 0 and not leads_a_node()):
        return Tracker()
    try:
        if rank() != 0:
            return NodeTracker(recipe, stage)
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent", "mlflow.pyfunc"):
            logging.getLogger(name).setLevel(logging.WARNING)  # migrations of a new SQLite store are no news
        # In this thread on purpose: an import racing with the stage's own may meet half-initialised modules.
        importlib.import_module("mlflow")
        tracker = MlflowTracker(recipe, stage, resume_id)
        tracker.describe(recipe)
    except Exception as error:
        say(f"off for {stage}: {reason(error)}")
        return Tracker()
    return tracker


def open_command(recipe: Recipe) -> str:
    """How to look at the runs: a shell command, or the server's address."""
    if recipe.tracking.uri and not recipe.tracking.uri.startswith("sqlite:"):
        return public(recipe.tracking.uri)
    return f"mlflow server --backend-store-uri {shlex.quote(store_uri(recipe))} --host 127.0.0.1 --port 5000"


class MlflowTracker(Tracker):
    """Appends records to the journal and owns the thread that sends them."""

    def __init__(self, recipe: Recipe, stage: str, resume_id: str | None = None) -> None:
        self.recipe = recipe
        work = recipe.path(".").absolute()
        work.mkdir(parents=True, exist_ok=True)
        self.runs = Runs(recipe, work)
        self.attempt = self.runs.begin(stage, attempt_digest(recipe, stage), resume_id)
        self.sender = Sender(self.runs)
        self.journal = self.sender.journal
        self.muted = self.done = False
        self.latest: dict[str, tuple[float, int, int | None]] = {}
        """Of each metric: value, time in ms, step."""
        self.written: list[dict[str, Any]] = []
        """Models that have no directory yet."""
        self.record("status", value="RUNNING")
        self.sender.start()
        self.will: Will | None = None
        with contextlib.suppress(OSError):  # no more processes here: then a kill stays unsaid
            self.will = Will(self.runs, self.attempt)
        self.system = SystemMetrics(self.system_metrics, node()) if wanted() else None

    @property
    def run_id(self) -> str | None:  # type: ignore[override]
        return self.runs.known(self.attempt)

    def describe(self, recipe: Recipe) -> None:
        """Record every key of the recipe, and the recipe."""
        settings = plain(recipe)
        settings["tracking"]["uri"] = public(recipe.tracking.uri)
        self.params(settings)
        self.dict_artifact(settings, "recipe.yaml")

    def start_stage(
        self, settings: Mapping[str, Any], deepspeed: Mapping[str, Any], datasets: Mapping[str, str]
    ) -> None:
        importlib.import_module("salad_ds.registry.packaging")  # here, as open_tracker does with mlflow
        self.dict_artifact(dict(settings), "stage.json")
        self.dict_artifact(dict(deepspeed), "deepspeed.json")
        for path, digest in datasets.items():
            self.dataset(path, digest, self.recipe.path(path))
        if settings.get("init_from") in self.recipe.stages:
            self.follows("init_from", str(settings["init_from"]))

    def params(self, values: Mapping[str, Any]) -> None:
        self.record("params", values=dict(flatten(values)))

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        numbers = {legal(key): float(value) for key, value in values.items() if isinstance(value, SupportsFloat)}
        now = int(time.time() * 1000)
        self.latest |= {key: (value, now, step) for key, value in numbers.items()}
        self.record("metrics", values=numbers, step=step, time=now)
        self.record_models()

    def system_metrics(self, values: dict[str, float], now: float) -> None:
        self.record("metrics", values=values, step=self.runs.seconds(self.attempt, now), time=int(now * 1000))

    def artifact(self, path: str | Path, folder: str = "") -> None:
        self.record("artifact", path=str(Path(path).absolute()), folder=folder)

    def dict_artifact(self, value: Any, name: str) -> None:
        self.record("dict", value=value, name=name)

    def text_artifact(self, text: str, name: str) -> None:
        self.record("text", value=text, name=name)

    def tags(self, values: Mapping[str, str]) -> None:
        self.record("tags", values={legal(key): str(value)[:5000] for key, value in values.items()})

    def dataset(self, name: str, digest: str, source: str | Path) -> None:
        self.record_dataset(name, digest, source, "input")
        self.link(name, self.runs.maker(digest))

    def made(self, name: str, digest: str, source: str | Path) -> None:
        self.record_dataset(name, digest, source, "output")
        with contextlib.suppress(OSError, SaladError):
            self.runs.made(self.attempt, name, digest)

    def follows(self, name: str, stage: str) -> None:
        self.link(name, self.runs.newest(stage), scores=name == "student")

    def model(self, kind: str, directory: Path, step: int, identity: str,
              sound: Callable[[], bytes | None] = lambda: None) -> None:
        example = ""
        with contextlib.suppress(SaladError, OSError):  # an example is not worth a stage
            if (recording := sound()) is not None:
                from salad_ds.registry.packaging import example_of

                example = example_of(recording)
        stage, settings = self.attempt.rpartition("#")[0], self.recipe.tracking
        name = stage if kind == "student" else f"{stage}-{directory.name}"
        record = {"type": kind, "name": re.sub(r"\W", "-", name), "path": str(directory.absolute()), "step": step,
                  "identity": identity, "example": example, "metrics": dict(self.latest),
                  "register": settings.register, "upload": settings.upload}  # fmt: skip
        self.written.append(record)
        self.record_models()

    def record_models(self) -> None:
        """A checkpoint may still be being written: it is told of once it has its name."""
        for record in [record for record in self.written if Path(record["path"]).is_dir()]:
            self.written.remove(record)
            self.record("model", **record)

    def record_dataset(self, name: str, digest: str, source: str | Path, context: str) -> None:
        place = public(str(source)) if "://" in str(source) else str(Path(source).absolute())
        self.record("dataset", name=name, digest=digest[:36], source=place, context=context)

    def link(self, name: str, maker: str | None, scores: bool = False) -> None:
        if maker is not None and maker != self.attempt:
            self.record("link", name=legal(name)[:200], maker=maker, scores=scores)

    def finish(self, status: str = "FINISHED") -> None:
        if self.done:
            return
        self.done = True
        self.record_models()
        if self.system is not None:
            self.system.finish()
        self.record("status", value=status)
        with contextlib.suppress(OSError, SaladError):
            self.runs.end(self.attempt, status)
        if self.will is not None:
            self.will.fulfil()
        self.sender.close()

    def record(self, kind: str, **content: Any) -> None:
        """Append one record; a disk that refuses it costs the record, not the stage."""
        try:
            self.journal.append({"kind": kind, "run": self.attempt, **content})
        except (OSError, TypeError, ValueError) as error:
            if not self.muted:
                say(f"cannot write {self.journal.path}: {reason(error)}; the stage goes on untracked")
            self.muted = True


def rank() -> int:
    """This process's rank, from torch.distributed if it runs, else from the launcher's environment."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return int(os.environ.get("RANK", "0"))


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and text values, as MLflow wants parameters (keys ≤ 250, values ≤ 6000 characters)."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from flatten(item, f"{prefix}.{index}")
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        yield legal(prefix), text if len(text) <= 6000 else text[:5999] + "…"


def legal(key: str) -> str:
    """``key`` with every character that MLflow refuses replaced."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]
