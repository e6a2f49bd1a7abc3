"""The MLflow flavour of a student: ``mlflow.pyfunc.load_model("models:/NAME/1").predict(frame)``, text out.

A frame's columns: ``audio``, the bytes of a sound file (JSON: base64), or its path; ``path``, a sound file where the
model runs (JSON); ``text``, with ``<|audio|>`` where the clip is heard (without it the clip comes first). Each row has
a clip, a text, or both. Params: ``max_new_tokens``, and ``temperature``, 0 for greedy.

What is logged names this module; the package has to be installed where a model is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException

from salad_ds.audio import decode
from salad_ds.errors import CheckpointError, SaladError
from salad_ds.files import read_json
from salad_ds.generate import loaded, settings
from salad_ds.model.processing import AUDIO_MARK, Clip
from salad_ds.registry.packaging import MAX_NEW_TOKENS, REFERENCE, TEMPERATURE

ROWS = 8
"""Prompts that are answered at once."""


class Speaker:
    """A loaded student behind MLflow's ``predict``."""

    def __init__(self, directory: str) -> None:
        self.model, self.processor = loaded(directory)

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """One continuation per row. Raises MlflowException (HTTP 400) for rows that cannot be answered."""
        wanted = {"max_new_tokens": MAX_NEW_TOKENS, "temperature": TEMPERATURE} | (params or {})
        if wanted["max_new_tokens"] < 1 or wanted["temperature"] < 0:
            raise refused("ask for max_new_tokens of at least 1, and for a temperature of 0 (greedy) or more")
        prompts = [prompt(number, row) for number, row in enumerate(data.to_dict("records"))]
        answers: list[str] = []
        for first in range(0, len(prompts), ROWS):
            answers += self.answer(prompts[first : first + ROWS], **wanted)
        return answers

    def answer(self, prompts: list[tuple[str, list[Clip]]], max_new_tokens: int, temperature: float) -> list[str]:
        try:
            inputs = self.processor([text for text, _ in prompts], [clip for _, clips in prompts for clip in clips])
            inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
            tokens = self.model.generate(**inputs, **settings(self.model, int(max_new_tokens), temperature))
        except SaladError as error:
            raise refused(str(error)) from None
        return self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)


def prompt(number: int, row: dict[str, Any]) -> tuple[str, list[Clip]]:
    """The text of a row, with its mark, and its clip if it has one."""
    given = {name: value for name, value in row.items() if not pd.isna(value) and len(value)}
    sound, text = given.get("audio", given.get("path")), given.get("text", "")
    if "audio" in given and "path" in given:
        raise refused(f"row {number} has both audio and path: give one clip a row")
    if sound is None and not text:
        raise refused(f"row {number} has neither audio nor path nor text")
    if sound is None:
        return text, []
    try:
        clip = decode(sound if isinstance(sound, bytes) else Path(sound))
    except (SaladError, OSError) as error:
        raise refused(f"row {number}: {error}") from None
    return (text if AUDIO_MARK in text else AUDIO_MARK + text), [clip]


def refused(why: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(why)


def _load_pyfunc(data_path: str, model_config: dict[str, Any] | None = None) -> Speaker:
    """What mlflow.pyfunc calls. Raises CheckpointError for a student that is no longer where it was logged from, and
    for a training checkpoint, whose shards are no student yet."""
    reference = read_json(Path(data_path) / REFERENCE)
    inside = (Path(data_path) / "config.json").is_file()
    directory = Path(data_path) if inside else Path(reference["path"])
    if reference["kind"] == "checkpoint":
        raise CheckpointError(f"{directory} is a checkpoint in shards, which answers nobody yet",
                              f"make a student of it: salad-ds export {directory}")
    if not directory.is_dir():
        raise CheckpointError(f"the student's weights are no longer in {directory}",
                              "load it where that directory is mounted, or log it with tracking.upload=true")
    return Speaker(str(directory))

