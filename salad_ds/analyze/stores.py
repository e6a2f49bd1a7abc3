"""The runs of our stages in MLflow: in several stores at once, each a server, a SQLite file, or a work directory."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salad_ds.errors import DataError
from salad_ds.train.tracking import SETTINGS
from salad_ds.train.tracking_runs import public
from salad_ds.train.tracking_sender import reason

PAGE = 1000
"""Runs of one request."""
GIVE = "give a tracking server's address or a work directory with an mlflow.db, and experiments' names beside them"


@dataclass(frozen=True)
class Tracked:
    """One MLflow run of a stage. ``stage``: what it did (``stage1``, ``measure-stage1``, ``evaluate-base``).
    ``work``: name of its work directory's run, ``parent`` its id. ``started``: ms since 1970. ``metrics``: the newest
    value of each. ``inputs``: digest of each dataset, by name. ``store``: where it is, without a password."""

    id: str
    stage: str
    status: str
    started: int
    work: str
    parent: str
    experiment: str
    store: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    inputs: dict[str, str]
    client: Any = field(repr=False, compare=False)

    @property
    def finished(self) -> bool:
        return self.status == "FINISHED"

    def history(self, metric: str) -> dict[int, float]:
        """{step: value} of a metric, in the order of the steps. Raises DataError where MLflow does not answer."""
        with asking(self.store):
            found = {one.step: one.value for one in self.client.get_metric_history(self.id, metric)}
        return dict(sorted(found.items()))


def tracked_runs(given: list[str]) -> list[Tracked]:
    """All runs of our stages in what is ``given``, each once, oldest first: tracking URIs, ``.db`` files, directories
    that hold an ``mlflow.db`` (or whose subdirectories do), and names of experiments, to which the others are narrowed.
    Names alone are looked up in ``MLFLOW_TRACKING_URI``.

    Raises DataError for a place that is none, a store that does not answer, and for nothing found.
    """
    found = [one for text in given for one in uris_of(text)]
    names = [text for text in given if not uris_of(text)]
    if not found and (usual := os.environ.get("MLFLOW_TRACKING_URI")):
        found = [usual]
    if not found:
        raise DataError(f"no tracking store is named by {', '.join(map(repr, given)) or 'nothing'}", GIVE)
    runs: dict[str, Tracked] = {}
    known: set[str] = set()
    for uri in dict.fromkeys(found):
        for run in read_store(uri, names, known):
            runs.setdefault(run.id, run)
    where = ", ".join(public(uri) for uri in dict.fromkeys(found))
    if unknown := [name for name in names if name not in known]:
        raise DataError(f"{where}: no experiment is called {', '.join(map(repr, unknown))}",
                        f"there are {', '.join(map(repr, sorted(known))) or 'none'}; a directory must exist")
    if not runs:
        raise DataError(f"{where}: no run of a stage is tracked there",
                        "train and measure first, with tracking.enabled=true")
    return sorted(runs.values(), key=lambda run: (run.started, run.id))


def uris_of(text: str) -> list[str]:
    """The stores that an argument names; none for the name of an experiment. Raises DataError for a file or directory
    that holds none: MLflow would make one."""
    if "://" in text or text.startswith("sqlite:"):
        path = Path(text.removeprefix("sqlite:///"))
        if text.startswith("sqlite:") and not path.is_file():
            raise DataError(f"{path} does not exist", GIVE)
        return [text]
    path = Path(text).expanduser()
    if path.is_file():
        return [f"sqlite:///{path.absolute()}"]
    if not path.is_dir():
        return []
    files = [path / "mlflow.db"] if (path / "mlflow.db").is_file() else sorted(path.glob("*/mlflow.db"))
    if not files:
        raise DataError(f"{path} holds no mlflow.db", "its runs may be on a server (tracking.uri): give its address")
    return [f"sqlite:///{file.absolute()}" for file in files]


def read_store(uri: str, names: list[str], known: set[str]) -> Iterator[Tracked]:
    """The runs of one store, of the experiments ``names`` (none: all). Adds to ``known`` what experiments there are."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with asking(public(uri)):
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        experiments = {one.experiment_id: one.name for one in pages(client.search_experiments)}
        known.update(experiments.values())
        wanted = [id for id, name in experiments.items() if not names or name in names]
        runs = list(pages(client.search_runs, experiment_ids=wanted)) if wanted else []
    titles = {run.info.run_id: run.info.run_name for run in runs}
    for run in runs:
        tags = run.data.tags
        if "salad.stage" not in tags:
            continue
        parent = tags.get("mlflow.parentRunId", "")
        inputs = {one.dataset.name: one.dataset.digest for one in run.inputs.dataset_inputs}
        yield Tracked(run.info.run_id, tags["salad.stage"], run.info.status, run.info.start_time,
                      titles.get(parent, parent), parent, experiments[run.info.experiment_id], public(uri), tags,
                      run.data.params, run.data.metrics, inputs, client)  # fmt: skip


def pages(search: Any, **settings: Any) -> Iterator[Any]:
    """Everything that a search finds, page by page."""
    token = None
    while True:
        page = search(**settings, max_results=PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return


@contextlib.contextmanager
def asking(store: str) -> Iterator[None]:
    """Whatever MLflow raises in here is a DataError that names the store."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{store} cannot be read: {reason(error)}",
                        "is the server up, and is this an MLflow store of this version?") from error
