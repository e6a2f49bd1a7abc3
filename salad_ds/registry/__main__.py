"""``python -m salad_ds.registry STUDENT NAME``: a student's directory as a version of a registered model, by hand. A
training stage does it itself where ``tracking.register`` names the model."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from salad_ds.errors import CheckpointError, SaladError
from salad_ds.measure.divergences import weights_identity
from salad_ds.train.tracking_models import PLACE, register, upload

EXPERIMENT = "registered by hand"


def register_directory(directory: Path, name: str, uri: str, copy: bool = False) -> str:
    """The new version of ``name`` on the MLflow server at ``uri``. ``copy``: the weights go along; else the version
    names the directory. Raises CheckpointError for a directory that holds no student."""
    from mlflow import MlflowClient

    if not (directory / "config.json").is_file():
        raise CheckpointError(f"{directory} holds no student", "give a directory such as WORKDIR/stage1/model")
    place = str(directory.absolute())
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    experiment = found.experiment_id if found is not None else client.create_experiment(EXPERIMENT)
    tags = {PLACE: place, "salad.identity": weights_identity(directory)}
    model = client.create_logged_model(experiment, "student", None, tags, {"kind": "student"}, "student")
    upload(client, model, {"path": place, "type": "student", "example": "", "upload": copy})
    client.finalize_logged_model(model.model_id, "READY")
    return register(client, name, model)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m salad_ds.registry", description=__doc__)
    parser.add_argument("student", type=Path, help="directory of a saved student")
    parser.add_argument("name", help="of the registered model")
    parser.add_argument("--uri", default=os.environ.get("MLFLOW_TRACKING_URI"), help="default: MLFLOW_TRACKING_URI")
    parser.add_argument("--upload", action="store_true", help="copy the weights to the server's artefacts")
    chosen = parser.parse_args(arguments)
    try:
        if not chosen.uri:
            raise SaladError("no MLflow server is named", "give --uri, or set MLFLOW_TRACKING_URI")
        version = register_directory(chosen.student, chosen.name, chosen.uri, chosen.upload)
    except SaladError as error:
        print(f"salad_ds.registry: {error}", file=sys.stderr)
        return error.code
    print(f"models:/{chosen.name}/{version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
