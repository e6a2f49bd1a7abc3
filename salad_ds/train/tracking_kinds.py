"""How each kind of record is told to MLflow. Told twice, a record does no harm."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salad_ds.train.tracking_models import input_model, send_model, write_note

if TYPE_CHECKING:
    from salad_ds.train.tracking_sender import Sender

SCORES = "salad.scores"
"""Tag of a run that measures a student: the logged model that its numbers belong to."""


@dataclass
class OpenRun:
    """What the sender knows of a run it writes to."""

    id: str
    experiment: str
    last: dict[str, tuple[int, int]]
    """The newest step of each metric, and its time in ms."""
    params: set[str]
    scores: str | None = None
    """The logged model that its numbers without a step are about."""


def send_metrics(sender: Sender, run: OpenRun, group: list[dict[str, Any]]) -> None:
    from mlflow.entities import Metric

    rows, steps = [], dict[str, tuple[int, int]]()
    for record in group:
        step = record["step"]
        for key, value in record["values"].items():
            if step is not None:
                if step <= steps.get(key, run.last.get(key, (-1, 0)))[0]:
                    continue
                steps[key] = step, record["time"]
            rows.append(Metric(key, value, record["time"], step or 0, model_id=run.scores if step is None else None))
    for start in range(0, len(rows), 1000):
        sender.client.log_batch(run.id, metrics=rows[start : start + 1000])
    run.last.update(steps)


def send_params(sender: Sender, run: OpenRun, group: list[dict[str, Any]]) -> None:
    from mlflow.entities import Param

    fresh = [Param(key, value) for key, value in group[0]["values"].items() if key not in run.params]
    for start in range(0, len(fresh), 100):
        sender.client.log_batch(run.id, params=fresh[start : start + 100])
    run.params.update(param.key for param in fresh)


def send_artifact(sender: Sender, run: OpenRun, group: list[dict[str, Any]]) -> None:
    path, folder = Path(group[0]["path"]), group[0]["folder"] or None
    if path.is_dir():
        sender.client.log_artifacts(run.id, str(path), folder or path.name)
    else:
        sender.client.log_artifact(run.id, str(path), folder)


def send_dict(sender: Sender, run: OpenRun, group: list[dict[str, Any]]) -> None:
    sender.client.log_dict(run.id, group[0]["value"], group[0]["name"])


def send_text(sender: Sender, run: OpenRun, group: list[dict[str, Any]]) -> None:
    sender.client.log_text(run.id, group[0]["value"], group[0]["name"])


def send_dataset(sender: Sender, run: OpenRun, group: list[dict[str, Any]]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    record = group[0]
    source = record["source"]
    kind = source.partition("://")[0] if "://" in source else "local"
    dataset = Dataset(record["name"], record["digest"], kind, json.dumps({"uri": source}))
    context = InputTag("mlflow.data.context", record.get("context", "input"))
    sender.client.log_inputs(run.id, [DatasetInput(dataset, tags=[context])])


def send_tags(sender: Sender, run: OpenRun, group: list[dict[str, Any]]) -> None:
    for key, value in group[0]["values"].items():
        sender.client.set_tag(run.id, key, value)


def send_link(sender: Sender, run: OpenRun, group: list[dict[str, Any]]) -> None:
    """Both runs name the other, in tags and in words that can be clicked; and the student of the one is an input of the
    other, whose numbers are about it where it ``scores`` that student."""
    record = group[0]
    maker = sender.run(record["maker"])
    sender.client.set_tag(run.id, f"lineage.from.{record['name']}", maker.id)
    sender.client.set_tag(maker.id, f"lineage.to.{record['run'].rpartition('#')[0]}", run.id)
    if model := sender.runs.model(record["maker"]):
        input_model(sender.client, run.id, model)
        if record.get("scores"):
            run.scores = model
            sender.client.set_tag(run.id, SCORES, model)
    for one in (run.id, maker.id):
        write_note(sender.client, one)


def send_status(sender: Sender, run: OpenRun, group: list[dict[str, Any]]) -> None:
    status = group[0]["value"]
    for one in filter(None, (run.id, sender.parent)):  # the parent shows how its newest stage fares
        if status == "RUNNING":
            sender.client.update_run(one, status=status)
        else:
            sender.client.set_terminated(one, status)


KINDS: dict[str, Callable[[Sender, OpenRun, list[dict[str, Any]]], None]] = {
    "metrics": send_metrics,
    "params": send_params,
    "status": send_status,
    "artifact": send_artifact,
    "dict": send_dict,
    "text": send_text,
    "dataset": send_dataset,
    "tags": send_tags,
    "link": send_link,
    "model": send_model,
}
