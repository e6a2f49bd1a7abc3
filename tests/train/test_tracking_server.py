"""A training stage and a real ``mlflow server``: the stage is killed, goes on while the server is away, and ends; then
what the server has heard is whole, and its registry gives a student that answers."""

from __future__ import annotations

import base64
import io
import json
import math
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from salad_ds.config import load_recipe
from salad_ds.generate import generate
from salad_ds.registry.__main__ import main
from salad_ds.train.tracking import open_tracker
from tests.tracking_server import Gate, patient
from tests.train.launch import REPOSITORY, environment

mlflow = pytest.importorskip("mlflow")
pytestmark = [pytest.mark.slow, pytest.mark.assets, pytest.mark.timeout(1800)]

STEPS = 6


class Story:
    """What happened, for the tests to look at."""

    def __init__(self, prepared: Path, work: Path, server: str) -> None:
        self.gate, self.work, self.prepared = Gate(server), work, prepared
        self.client = mlflow.MlflowClient(tracking_uri=server, registry_uri=server)
        self.server = server
        shutil.copytree(load_recipe(prepared).path("."), work)

    @property
    def settings(self) -> list[str]:
        stage = {"steps": STEPS, "ranks": 1, "global_batch": 1, "keep": 1}
        tracking = {"enabled": "true", "uri": self.gate.address, "experiment": "killed", "register": "student"}
        return [f"workdir={self.work}", *(f"stages.stage1.{name}={value}" for name, value in stage.items()),
                *(f"tracking.{name}={value}" for name, value in tracking.items())]  # fmt: skip

    def train(self, *command: str) -> subprocess.CompletedProcess[str]:
        quick = {"MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
        return subprocess.run([sys.executable, "-m", *command, str(self.prepared), *self.settings],
                              env=environment() | quick, cwd=REPOSITORY, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=900)  # fmt: skip

    def runs(self) -> dict[str, mlflow.entities.Run]:
        found = self.client.get_experiment_by_name("killed")
        return {} if found is None else {
            run.info.run_name: run for run in self.client.search_runs([found.experiment_id])}

    def steps(self, key: str) -> list[int]:
        run = self.runs()["stage1"]
        return [metric.step for metric in self.client.get_metric_history(run.info.run_id, key)]


@pytest.fixture(scope="module")
def story(prepared, tracking_server, tmp_path_factory) -> Story:
    story = Story(prepared, tmp_path_factory.mktemp("killed") / "work", tracking_server)
    story.gate.open()
    killed = story.train("tests.train.dies", "3")
    assert killed.returncode == -9, killed.stdout[-3000:]
    story.after_the_kill = "nothing"
    end = time.monotonic() + 240
    while time.monotonic() < end and story.after_the_kill != "FAILED":
        story.after_the_kill = story.runs()["stage1"].info.status if "stage1" in story.runs() else "nothing"
        time.sleep(0.5)
    story.first_run = story.runs()["stage1"].info.run_id
    story.gate.shut()
    while_away = story.train("salad_ds", "train")
    assert while_away.returncode == 0, while_away.stdout[-3000:]
    story.said_while_away = while_away.stdout
    story.heard_while_away = story.steps("loss")
    story.gate.open()
    recipe = load_recipe(prepared, story.settings)
    with patient(open_tracker(recipe, "measure-stage1")) as tracker:
        tracker.follows("student", "stage1")
        tracker.metrics({"misalignment": 0.75, "forgetting": 0.25})
    yield story
    story.gate.shut()


@pytest.fixture
def here(story, monkeypatch):
    """MLflow's own functions, asked as a user asks them."""
    for name, value in (("TRACKING", story.server), ("REGISTRY", story.server)):
        monkeypatch.setenv(f"MLFLOW_{name}_URI", value)


def test_a_killed_stage_is_failed_and_goes_on_in_its_run(story):
    assert story.after_the_kill == "FAILED", "nobody said that the stage was killed"
    assert "away" in story.said_while_away and "done" not in story.heard_while_away
    assert max(story.heard_while_away, default=0) <= 3
    runs = story.runs()
    assert set(runs) == {"small", "stage1", "measure-stage1"}
    assert runs["stage1"].info.run_id == story.first_run
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["stage1"].data.tags["mlflow.parentRunId"] == runs["small"].info.run_id
    for key in ("loss", "kl", "nll", "data_wait", "lr_adapter", "lr_llm", "loss_scale", "grad_norm_adapter", "mfu",
                "grad_norm_embeddings", "grad_norm_llm", "positions_per_second", "targets_per_second"):  # fmt: skip
        assert story.steps(key) == list(range(1, STEPS + 1)), key
    assert not list(story.work.glob("tracking-unsent*"))
    logged = [json.loads(line) for line in (story.work / "stage1/log.jsonl").read_text().splitlines()]
    told = story.client.get_metric_history(story.first_run, "kl")
    assert [metric.value for metric in told] == [row["kl"] for row in logged]


def test_the_machine_is_watched(story):
    metrics = story.runs()["stage1"].data.metrics
    assert 0 < metrics["system/system_memory_usage_percentage"] <= 100
    seconds = story.steps("system/cpu_utilization_percentage")
    assert seconds and seconds == sorted(set(seconds))


def test_checkpoints_and_the_student_are_logged_models(story, here):
    run = story.runs()["stage1"]
    models = {one.name: one for one in story.client.search_logged_models([run.info.experiment_id])}
    assert set(models) == {"stage1-step-00000002", "stage1-step-00000004", "stage1-step-00000006", "stage1"}
    assert {str(one.status) for one in models.values()} == {"READY"}
    kl = {metric.step: metric.value for metric in story.client.get_metric_history(run.info.run_id, "kl")}
    for name, one in models.items():
        step = int(one.params["step"])
        told = {metric.key: metric.value for metric in one.metrics}
        assert told["kl"] == kl[step] and told["grad_norm_llm"] > 0, name
        assert ("salad.gone" in one.tags) == (one.model_type == "checkpoint" and step < STEPS), name
        signature = mlflow.models.get_model_info(f"models:/{one.model_id}").signature
        assert [(column.name, column.required) for column in signature.inputs] == [
            ("audio", False), ("path", False), ("text", False)]  # fmt: skip
    assert {one.step for one in run.outputs.model_outputs} == {2, 4, 6}
    measured = story.client.get_run(story.runs()["measure-stage1"].info.run_id)
    assert [one.model_id for one in measured.inputs.model_inputs] == [models["stage1"].model_id]
    told = {metric.key: metric.value for metric in models["stage1"].metrics}
    assert told["misalignment"] == 0.75 and measured.data.metrics["forgetting"] == 0.25
    note = measured.data.tags["mlflow.note.content"]
    assert f"[stage1](#/experiments/{run.info.experiment_id}/runs/{run.info.run_id})" in note
    [dataset] = [one.dataset for one in run.inputs.dataset_inputs if one.dataset.name == "speech/natural"]
    assert dataset.digest and json.loads(dataset.source)["uri"] == str(story.work / "speech/natural")


def clip(path: Path, seconds: float = 1.0) -> bytes:
    wave = np.sin(np.arange(int(8000 * seconds)) * 0.3).astype(np.float32) * 0.4
    file = io.BytesIO()
    soundfile.write(file, wave, 8000, format="WAV")
    path.write_bytes(file.getvalue())
    return file.getvalue()


def test_the_registered_student_answers(story, here, tmp_path):
    sound = clip(tmp_path / "a.wav")
    [version] = story.client.search_model_versions("name = 'student'")
    assert version.run_id == story.first_run and version.tags == {"stage": "stage1"}
    model = mlflow.pyfunc.load_model(f"models:/student/{version.version}")
    directory = str(story.work / "stage1/model")
    frame = pd.DataFrame({"audio": [sound, sound], "text": ["What? <|audio|> It", ""]})
    answers = model.predict(frame, params={"max_new_tokens": 6})
    assert answers == [generate(directory, [str(tmp_path / "a.wav")], text, 6) for text in frame["text"]]
    by_path = pd.DataFrame({"audio": [str(tmp_path / "a.wav")], "text": ["What? <|audio|> It"]})
    assert model.predict(by_path, params={"max_new_tokens": 6}) == answers[:1]
    read = model.predict(pd.DataFrame({"text": ["The word is"]}), params={"max_new_tokens": 6})
    assert read == [generate(directory, [], "The word is", 6)]
    place = mlflow.artifacts.download_artifacts(f"models:/student/{version.version}", dst_path=str(tmp_path / "kept"))
    example = mlflow.models.Model.load(place).load_input_example(place)
    assert not list(Path(place).rglob("*.safetensors")), "the weights stay where they are"
    assert example["text"][0] == "<|audio|>" and len(model.predict(example)) == 1


def test_it_is_served(story, here, tmp_path):
    """MLflow's scoring server, as ``mlflow models serve`` starts it, with sound in base64."""
    import uvicorn
    from mlflow.pyfunc import scoring_server

    sound = clip(tmp_path / "a.wav")
    app = scoring_server.init(mlflow.pyfunc.load_model("models:/student@stage1"))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()

    def ask(row: dict[str, str]) -> tuple[int, dict]:
        body = json.dumps({"dataframe_records": [row], "params": {"max_new_tokens": 5}}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{listening.getsockname()[1]}/invocations", body,
                                         {"Content-Type": "application/json"})  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    try:
        expected = generate(str(story.work / "stage1/model"), [str(tmp_path / "a.wav")], "It is", 5)
        encoded = base64.b64encode(sound).decode()
        assert ask({"audio": encoded, "text": "It is"}) == (200, {"predictions": [expected]})
        assert ask({"path": str(tmp_path / "a.wav"), "text": "It is"}) == (200, {"predictions": [expected]})
        code, said = ask({"audio": base64.b64encode(b"no sound").decode(), "text": "It is"})
        assert code == 400 and "row 0: audio does not decode" in json.dumps(said)
    finally:
        server.should_exit = True
        thread.join(20)


def test_a_student_is_registered_by_hand_with_its_weights(story, here, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", story.server)
    student = shutil.copytree(story.work / "stage1/model", tmp_path / "student")
    assert main([str(student), "by-hand", "--upload"]) == 0
    assert capsys.readouterr().out.strip() == "models:/by-hand/1"
    expected = generate(str(student), [], "The word is", 5)
    shutil.rmtree(student)
    model = mlflow.pyfunc.load_model("models:/by-hand/1")
    assert model.predict(pd.DataFrame({"text": ["The word is"]}), params={"max_new_tokens": 5}) == [expected]
    assert main([str(tmp_path / "nowhere"), "by-hand"]) == 1
    assert "holds no student" in capsys.readouterr().err


def test_nothing_of_the_numbers_is_missing(story):
    metrics = story.runs()["stage1"].data.metrics
    norms = [metrics[f"grad_norm_{part}"] for part in ("adapter", "embeddings", "llm")]
    assert math.hypot(*norms) == pytest.approx(metrics["grad_norm"], rel=1e-4)
