"""What is logged of a student or a checkpoint: an MLmodel with signature and example, and a reference to the weights.

They stay where they are; only with ``upload`` they are copied to the artefacts as well, straight from their directory.
"""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
import soundfile
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from salad_ds import __version__
from salad_ds.audio import decode
from salad_ds.files import write_json

FLAVOUR = "salad_ds.registry.flavour"
REFERENCE = "student.json"
"""Beside the weights, or instead of them: where they lie, and whether they are a ``student`` or a ``checkpoint``."""
DATA = "student"
"""Directory of both, below the MLmodel's ``data/``."""
SECONDS = 2.0
"""Of the clip in an example."""
MAX_NEW_TOKENS, TEMPERATURE = 40, 0.0

SIGNATURE = ModelSignature(
    inputs=Schema([
        ColSpec(DataType.binary, "audio", required=False),
        ColSpec(DataType.string, "path", required=False),
        ColSpec(DataType.string, "text", required=False),
    ]),
    outputs=Schema([ColSpec(DataType.string)]),
    params=ParamSchema([
        ParamSpec("max_new_tokens", DataType.long, MAX_NEW_TOKENS),
        ParamSpec("temperature", DataType.double, TEMPERATURE),
    ]),
)  # fmt: skip


def example_of(sound: bytes) -> str:
    """The first seconds of a recording as FLAC in base64, for ``packaged``."""
    wave, rate = decode(sound, duration=SECONDS)
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="FLAC")
    return base64.b64encode(file.getvalue()).decode()


@contextmanager
def packaged(place: str, kind: str, example: str, head: Model | None = None) -> Iterator[Path]:
    """A directory with the MLmodel of what lies at ``place``, for as long as it is copied. ``kind``: ``student``, or
    ``checkpoint``, which has a signature but cannot be loaded. ``example``: a clip as of ``example_of``, or ""."""
    row = {"audio": base64.b64decode(example), "text": "<|audio|>"} if example else {"text": "The word is"}
    with tempfile.TemporaryDirectory() as room:
        data, out = Path(room, DATA), Path(room, "model")
        data.mkdir()
        write_json(data / REFERENCE, {"schema": 1, "kind": kind, "path": place})
        mlflow.pyfunc.save_model(
            str(out),
            loader_module=FLAVOUR,
            data_path=str(data),
            mlflow_model=head,
            signature=SIGNATURE,
            input_example=pd.DataFrame([row]),
            pip_requirements=[f"salad_ds=={__version__}"],
        )
        yield out
