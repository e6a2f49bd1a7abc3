"""Checkpoints and students as MLflow's logged models, the registry, and the words that lead from run to run.

A logged model has a signature, a reference to its weights (registry/packaging.py), the step it is from and the numbers
of that step. Each is looked for by its name and run before it is made: one that was half delivered is completed.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

    from salad_ds.train.tracking_kinds import OpenRun
    from salad_ds.train.tracking_sender import Sender

PLACE, GONE = "salad.path", "salad.gone"
"""Tags of a logged model: the directory of its weights; that retention has removed it."""
VERSIONS = "mlflow.modelVersions"
"""MLflow's own, by which its pages show a logged model as registered."""
NOTE, MARK = "mlflow.note.content", "**Lineage**"


def send_model(sender: Sender, run: OpenRun, group: list[dict[str, Any]]) -> None:
    from mlflow.entities import LoggedModelOutput, Metric

    record, client = group[0], sender.client
    known = models_of(client, run)
    for one in known:
        place = one.tags.get(PLACE, "")
        if one.model_type == "checkpoint" and GONE not in one.tags and place and not Path(place).is_dir():
            client.set_logged_model_tags(one.model_id, {GONE: "removed: newer ones were kept"})
    model = next((one for one in known if one.name == record["name"]), None)
    if model is None:
        model = client.create_logged_model(
            run.experiment, record["name"], run.id, {PLACE: record["path"], "salad.identity": record["identity"]},
            {"step": str(record["step"]), "kind": record["type"]}, record["type"])  # fmt: skip
    if str(model.status) != "READY":
        upload(client, model, record)
        outputs = client.get_run(run.id).outputs
        if model.model_id not in [one.model_id for one in (outputs.model_outputs if outputs else [])]:
            client.log_outputs(run.id, [LoggedModelOutput(model.model_id, record["step"])])
        numbers = [Metric(key, value, time_of(client, run, key, time, step), step or 0, model_id=model.model_id,
                          run_id=run.id) for key, (value, time, step) in record["metrics"].items()]  # fmt: skip
        if numbers:
            client.log_batch(run.id, metrics=numbers)
        client.finalize_logged_model(model.model_id, "READY")
    if record["type"] == "student":
        sender.runs.made_model(record["run"], model.model_id)
        if record["register"]:
            register(client, record["register"], model, record["run"].rpartition("#")[0])


def time_of(client: MlflowClient, run: OpenRun, key: str, time: int, step: int | None) -> int:
    """When the run was told of this metric at this step, in ms: with another ``time``, that of a step that was trained
    again, the curve of the run would get a second point there."""
    last, told = run.last.get(key, (-1, time))
    if step is None or step > last:
        return time
    if step == last:
        return told
    return next((one.timestamp for one in client.get_metric_history(run.id, key) if one.step == step), time)


def models_of(client: MlflowClient, run: OpenRun) -> list[LoggedModel]:
    """The logged models that a run has made."""
    return list(client.search_logged_models([run.experiment], f"source_run_id = '{run.id}'"))


def upload(client: MlflowClient, model: LoggedModel, record: dict[str, Any]) -> None:
    """The MLmodel, and the weights where the recipe wants them there."""
    from mlflow.models import Model

    from salad_ds.registry.packaging import DATA, packaged

    head = Model(artifact_path=model.artifact_location, model_uuid=model.model_id, run_id=model.source_run_id,
                 model_id=model.model_id)  # fmt: skip
    with packaged(record["path"], record["type"], record["example"], head) as directory:
        client.log_model_artifacts(model.model_id, str(directory))
    if record["upload"] and record["type"] == "student":
        client.log_model_artifacts(model.model_id, record["path"], f"data/{DATA}")


def register(client: MlflowClient, name: str, model: LoggedModel, stage: str = "") -> str:
    """A version of the registered model ``name``; ``models:/NAME@STAGE`` is the newest one of a stage. Returns it."""
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException):
        client.create_registered_model(name)
    known = client.search_model_versions(f"name = '{name}'")
    version = next((one for one in known if one.model_id == model.model_id), None)
    if version is None:
        version = client.create_model_version(
            name, model.artifact_location, model.source_run_id, {"stage": stage} if stage else {},
            await_creation_for=0, model_id=model.model_id)  # fmt: skip
        told = json.loads(model.tags.get(VERSIONS, "[]"))
        client.set_logged_model_tags(
            model.model_id, {VERSIONS: json.dumps([*told, {"name": name, "version": version.version}])})  # fmt: skip
    if stage:
        client.set_registered_model_alias(name, stage, version.version)
    return str(version.version)


def input_model(client: MlflowClient, run_id: str, model_id: str) -> None:
    """The run works on this model."""
    from mlflow.entities import LoggedModelInput

    inputs = client.get_run(run_id).inputs
    if model_id not in [one.model_id for one in (inputs.model_inputs if inputs else [])]:
        client.log_inputs(run_id, models=[LoggedModelInput(model_id)])


def write_note(client: MlflowClient, run_id: str) -> None:
    """The run's description, unless somebody has written one: where it comes from and what came of it, as links."""
    run = client.get_run(run_id)
    tags = run.data.tags
    if not tags.get(NOTE, MARK).startswith(MARK):
        return
    lines = [MARK, ""]
    for direction, word in (("lineage.from.", "made from"), ("lineage.to.", "became part of")):
        for key, other in sorted(tags.items()):
            if key.startswith(direction):
                with contextlib.suppress(Exception):  # a run that was deleted is no link
                    found = client.get_run(other)
                    place = f"#/experiments/{found.info.experiment_id}/runs/{other}"
                    lines.append(f"- {word} **{key.removeprefix(direction)}**: [{found.info.run_name}]({place})")
    client.set_tag(run_id, NOTE, "\n".join(lines))
