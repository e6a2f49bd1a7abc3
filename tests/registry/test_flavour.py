"""How a packaged student answers rows of all kinds, without a server: test_tracking_server.py has one."""

from __future__ import annotations

import base64
import io

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from salad_ds.config import AdapterConfig, EncoderConfig, ModelConfig
from salad_ds.errors import CheckpointError
from salad_ds.generate import generate
from salad_ds.model.build import build_student
from salad_ds.registry.packaging import example_of, packaged

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.assets


def sound(seconds: float, pitch: float = 0.3) -> bytes:
    file = io.BytesIO()
    wave = np.sin(np.arange(int(8000 * seconds)) * pitch).astype(np.float32) * 0.4
    soundfile.write(file, wave, 8000, format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def student(tiny_untied_llm_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("student")
    settings = ModelConfig(llm=str(tiny_untied_llm_dir), encoder=EncoderConfig("whisper", "packaged:whisper-tiny.en"),
                           adapter=AdapterConfig(layers=2, width=32, mlp=48, heads=4, kv_heads=2, stack=4))  # fmt: skip
    model, tokenizer = build_student(settings)
    with torch.no_grad():  # a louder model: next tokens differ by more than rounding
        for weight in (model.get_input_embeddings().weight, model.adapter.scale_out.weight,
                       model.get_output_embeddings().weight):  # fmt: skip
            weight.mul_(15)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def model(student):
    with packaged(str(student), "student", example_of(sound(5.0))) as directory:
        assert sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) < 200_000
        yield mlflow.pyfunc.load_model(str(directory))


def test_rows_of_one_batch_answer_as_each_alone(model, student, tmp_path):
    """Clips of several lengths, a text alone, and more rows than are answered at once."""
    rows, alone = [], []
    for number, seconds in enumerate((0.5, 1.5, None, 1.0, 0.8)):
        text = ["Hear <|audio|> and say", "", "The word is", "<|audio|>", "It"][number]
        clip = None if seconds is None else sound(seconds, 0.1 + number / 10)
        if clip is not None:
            (tmp_path / f"{number}.wav").write_bytes(clip)
        rows.append({"audio": clip, "text": text})
        alone.append(generate(str(student), [] if clip is None else [str(tmp_path / f"{number}.wav")], text, 4))
    params = {"max_new_tokens": 4}
    assert len(set(alone)) > 3
    assert model.predict(pd.DataFrame(rows * 2), params=params) == alone * 2
    paths = pd.DataFrame({"path": [str(tmp_path / "0.wav")], "text": [rows[0]["text"]]})
    assert model.predict(paths, params=params) == alone[:1]


def test_signature_and_example_are_real(model):
    signature = model.metadata.signature
    assert {one.name: str(one.type) for one in signature.inputs} == {
        "audio": "DataType.binary", "path": "DataType.string", "text": "DataType.string"}  # fmt: skip
    assert {one.name: one.default for one in signature.params} == {"max_new_tokens": 40, "temperature": 0.0}
    assert soundfile.info(io.BytesIO(base64.b64decode(example_of(sound(5.0))))).duration == pytest.approx(2.0)


@pytest.mark.parametrize(("row", "said"), [
    ({"audio": b"nothing"}, "row 0: audio does not decode"),
    ({"path": "/nowhere/a.wav"}, "row 0: "),
    ({"text": ""}, "row 0 has neither"),
    ({"audio": sound(0.5), "path": "a.wav"}, "row 0 has both"),
    ({"audio": sound(0.5), "text": "<|audio|> <|audio|>"}, "2 <|audio|> marks and 1 clips"),
], ids=["no sound", "no file", "nothing", "both", "marks"])  # fmt: skip
def test_rows_that_cannot_be_answered_are_named(model, row, said):
    with pytest.raises(mlflow.exceptions.MlflowException) as refused:
        model.predict(pd.DataFrame([row]))
    assert said in str(refused.value) and refused.value.get_http_status_code() == 400


def test_settings_that_cannot_be_are_refused(model):
    with pytest.raises(mlflow.exceptions.MlflowException, match="at least 1"):
        model.predict(pd.DataFrame([{"text": "It"}]), params={"max_new_tokens": 0})


def test_what_cannot_be_loaded_says_why(tmp_path):
    with (packaged(str(tmp_path / "gone"), "student", "") as directory,
          pytest.raises(CheckpointError, match="no longer in .*gone")):  # fmt: skip
        mlflow.pyfunc.load_model(str(directory))
    with (packaged(str(tmp_path), "checkpoint", "") as directory,
          pytest.raises(CheckpointError, match="salad-ds export")):  # fmt: skip
        mlflow.pyfunc.load_model(str(directory))
