"""Tracking against real MLflow stores: the local file, a server on the loopback, a port where nobody answers."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from salad_ds.config import ModelConfig, Recipe, SourceConfig, TrackingConfig, TrainConfig
from salad_ds.errors import RecipeError
from salad_ds.train import tracking
from salad_ds.train.journal import Journal
from salad_ds.train.tracking import MlflowTracker, Tracker, attempt_digest, flatten, open_command, open_tracker, public
from tests.ports import held_port
from tests.tracking_server import Gate, patient

mlflow = pytest.importorskip("mlflow")


def make_recipe(work: Path, uri: str = "", **training: object) -> Recipe:
    stage = TrainConfig(sources=[SourceConfig(kind="text", path="text/glosses")], **training)  # type: ignore[arg-type]
    return Recipe(name="tracked", workdir=str(work), model=ModelConfig(llm="nobody/none"), stages={"stage1": stage},
                  tracking=TrackingConfig(uri=uri))


def client(recipe: Recipe) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=tracking.store_uri(recipe))


def runs(recipe: Recipe) -> list[mlflow.entities.Run]:
    here = client(recipe)
    experiment = here.get_experiment_by_name("tracked")
    assert experiment is not None
    return here.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])


def history(recipe: Recipe, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client(recipe).get_metric_history(run_id, key)]


def unsent(recipe: Recipe) -> Path:
    return recipe.path("tracking-unsent.jsonl")


def test_a_stage_in_the_local_store(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = make_recipe(tmp_path / "a work dir é")
    picture = tmp_path / "note.txt"
    picture.write_text("seen")
    with open_tracker(recipe, "stage1") as tracker:
        for step in range(1, 31):
            tracker.metrics({"loss": 1 / step, "odd key!": step, "nan": float("nan")}, step)
        tracker.params({"extra": {"deep": [1, 2]}})
        tracker.artifact(picture)
        tracker.dict_artifact({"seen": 4}, "own/counts.json")
        tracker.start_stage({"steps": 30}, {"train_batch_size": 4}, {"text/glosses": "0123456789abcdef" * 2})
    run_id = tracker.run_id
    assert run_id is not None and not unsent(recipe).exists()

    parent, child = runs(recipe)
    assert child.info.run_id == run_id and child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.info.run_name == "stage1" and child.info.status == parent.info.status == "FINISHED"
    assert history(recipe, run_id, "loss") == [(step, 1 / step) for step in range(1, 31)]
    assert "odd key_" in child.data.metrics and "nan" in child.data.metrics
    assert child.data.params["stages.stage1.sources.0.path"] == "text/glosses"
    assert child.data.params["model.adapter.layers"] == "12" and child.data.params["extra.deep"] == "[1, 2]"
    names = {item.path for item in client(recipe).list_artifacts(run_id)}
    assert names == {"recipe.yaml", "note.txt", "stage.json", "deepspeed.json", "own"}
    assert child.info.artifact_uri.startswith("file:") and list(recipe.path("mlartifacts").rglob("recipe.yaml"))
    dataset = child.inputs.dataset_inputs[0].dataset
    assert dataset.digest == "0123456789abcdef" * 2
    assert dataset.name == "text/glosses" and json.loads(dataset.source)["uri"] == str(recipe.path("text/glosses"))

    output = capfd.readouterr()
    assert output.err == "" and output.out == ""


def test_a_crash_is_failed_and_resuming_continues_without_doubles(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    with pytest.raises(ZeroDivisionError), open_tracker(recipe, "stage1") as tracker:
        for step in range(1, 9):
            tracker.metrics({"loss": step}, step)
        raise ZeroDivisionError
    first = tracker.run_id
    assert [run.info.status for run in runs(recipe)] == ["FAILED", "FAILED"]

    with open_tracker(recipe, "stage1") as tracker:  # from a checkpoint at step 4: 5 to 8 come again
        for step in range(5, 13):
            tracker.metrics({"loss": step}, step)
    assert tracker.run_id == first and len(runs(recipe)) == 2
    assert history(recipe, str(first), "loss") == [(step, step) for step in range(1, 13)]
    assert {run.info.status for run in runs(recipe)} == {"FINISHED"}

    with open_tracker(recipe, "stage1") as tracker:  # finished: another run of the stage is another run
        tracker.metrics({"loss": 7}, 1)
    second = tracker.run_id
    assert second != first and len(runs(recipe)) == 3
    with open_tracker(recipe, "stage1", resume_id=first) as tracker:  # unless it is named
        tracker.metrics({"loss": 13, "late": 1}, 13)
        tracker.metrics({"whole": 1.0})
        tracker.metrics({"whole": 2.0})
    assert tracker.run_id == first
    assert history(recipe, str(first), "loss")[-1] == (13, 13)
    assert client(recipe).get_run(str(first)).data.metrics["whole"] == 2.0


def test_only_a_stage_that_starts_from_them_asks_for_adapter_weights(tmp_path: Path) -> None:
    """They may be gone when a later stage is trained, or a student measured."""
    recipe = make_recipe(tmp_path, init_from="stage0")
    before = attempt_digest(recipe, "stage1")
    recipe.model.adapter_weights = str(tmp_path / "gone")
    assert attempt_digest(recipe, "stage1") == before and attempt_digest(recipe, "measure")
    with pytest.raises(RecipeError, match="no adapter lies"):
        attempt_digest(replace(recipe, stages=make_recipe(tmp_path).stages), "stage1")


def test_a_changed_recipe_is_another_child_of_the_same_parent(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_tracker(make_recipe(tmp_path), "stage1"):
        raise KeyboardInterrupt
    again = make_recipe(tmp_path, checkpoint_every=3)
    assert attempt_digest(again, "stage1") == attempt_digest(make_recipe(tmp_path), "stage1")
    recipe = make_recipe(tmp_path, steps=7)
    with open_tracker(recipe, "stage1"), open_tracker(recipe, "measure"):
        pass
    parent, *children = runs(recipe)
    assert sorted(run.info.run_name for run in children) == ["measure", "stage1", "stage1 (2)"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert [run.info.status for run in children if run.info.run_name == "stage1"] == ["KILLED"]


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_tracking
tracker = test_tracking.open_tracker(test_tracking.make_recipe(test_tracking.Path({str(tmp_path)!r})), "stage1")
for step in range(1, 6):
    tracker.metrics({{"loss": step}}, step)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=240, cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    with open(unsent(recipe), "a") as file:
        file.write('{"kind": "metrics", "run": "sta')  # torn by the kill
    with open_tracker(recipe, "stage1") as tracker:
        for step in range(4, 8):
            tracker.metrics({"loss": step}, step)
    assert history(recipe, str(tracker.run_id), "loss") == [(step, step) for step in range(1, 8)]
    assert len(runs(recipe)) == 2


def test_a_server_that_is_away_neither_stops_nor_slows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = make_recipe(tmp_path, uri=f"http://someone:secret@127.0.0.1:{held_port()}")
    spent = []
    with open_tracker(recipe, "stage1") as tracker:
        for step in range(1, 201):
            began = time.monotonic()
            tracker.metrics({"loss": step, "kl": step}, step)
            spent.append(time.monotonic() - began)
    assert sorted(spent)[150] < 0.05, f"a busy machine slows some steps, a server that is waited for all: {spent}"
    assert tracker.run_id is None
    waiting = [record for record, _ in Journal(unsent(recipe)).read(1000)]
    assert sum(record["kind"] == "metrics" and "loss" in record["values"] for record in waiting) == 200
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1 and "away" in lines[0] and "tracking-unsent.jsonl" in lines[0]
    everything = lines[0] + open_command(recipe) + unsent(recipe).read_text() + recipe.path("tracking.json").read_text()
    assert "secret" not in everything


def test_only_rank_zero_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(tmp_path)
    monkeypatch.setenv("RANK", "1")
    assert type(open_tracker(recipe, "stage1")) is Tracker
    monkeypatch.setenv("RANK", "0")
    recipe.tracking.enabled = False
    with open_tracker(recipe, "stage1") as tracker:
        tracker.metrics({"loss": 1.0}, 1)
        tracker.params({})
        tracker.artifact("nowhere")
        tracker.dict_artifact({}, "x.json")
        tracker.dataset("x", "y", "z")
    assert not recipe.path("tracking.json").exists() and not unsent(recipe).exists()


def test_every_host_is_watched_and_rank_zero_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, host = make_recipe(tmp_path), re.sub(r"[^\w\-.]", "_", socket.gethostname())
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0", "RANK": "0",
                        "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    first = open_tracker(recipe, "stage1")
    monkeypatch.setenv("RANK", "2")
    other = open_tracker(recipe, "stage1")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert type(open_tracker(recipe, "stage1")) is Tracker and other.run_id is None
    time.sleep(2.5)
    other.finish()
    first.finish()
    metrics = client(recipe).get_run(str(first.run_id)).data.metrics
    for node in (f"{host}-rank0", f"{host}-rank2"):
        assert 0 < metrics[f"system/{node}/system_memory_usage_percentage"] <= 100
    assert not list(tmp_path.glob("tracking-unsent*"))


def test_an_artefact_that_is_gone_is_named_and_given_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = make_recipe(tmp_path)
    with open_tracker(recipe, "stage1") as tracker:
        tracker.artifact(tmp_path / "absent.png")
        tracker.metrics({"loss": 1.0, "text": "not a number"}, 1)  # type: ignore[dict-item]
    assert "absent.png" in capfd.readouterr().err
    metrics = client(recipe).get_run(str(tracker.run_id)).data.metrics
    assert {key: value for key, value in metrics.items() if not key.startswith("system/")} == {"loss": 1.0}
    assert not unsent(recipe).exists()


def test_flatten_and_addresses(tmp_path: Path) -> None:
    assert dict(flatten({"a": {"b": [1, 2], "c": {}}, "d": [{"e": None}], "f": "x"})) == {
        "a.b": "[1, 2]", "a.c": "{}", "d.0.e": "null", "f": "x"}
    assert len(dict(flatten({"long": "x" * 9000}))["long"]) == 6000
    assert public("https://me:word@host:5000/x") == "https://host:5000/x" and public("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert "mlflow server --backend-store-uri" in open_command(make_recipe(tmp_path))
    assert open_command(make_recipe(tmp_path, uri="http://host:1")) == "http://host:1"


def test_the_journal_keeps_what_arrives_while_it_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "waiting.jsonl")
    for number in range(3):
        journal.append({"n": number})
    records = journal.read(2)
    journal.append({"n": 3})
    journal.drop(records[-1][1])
    assert [record["n"] for record, _ in journal.read(10)] == [2, 3]
    journal.drop(journal.read(10)[-1][1])
    assert not journal.path.exists() and journal.read(10) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_that_comes_back_gets_what_it_missed(
    tmp_path: Path, gate: Gate, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(tmp_path / "work", uri=gate.address)
    note = tmp_path / "note.txt"
    note.write_text("kept")
    with open_tracker(recipe, "stage1") as tracker:
        for step in range(1, 6):
            tracker.metrics({"loss": step}, step)
        tracker.artifact(note)
    assert unsent(recipe).exists()
    gate.open()
    with patient(open_tracker(recipe, "measure")) as tracker:
        tracker.metrics({"misalignment": 1.0})
    assert not unsent(recipe).exists()
    by_name = {run.info.run_name: run for run in runs(recipe)}
    assert set(by_name) == {"tracked", "stage1", "measure"}
    assert history(recipe, by_name["stage1"].info.run_id, "loss") == [(step, step) for step in range(1, 6)]
    assert {run.info.status for run in by_name.values()} == {"FINISHED"}
    assert "note.txt" in {item.path for item in client(recipe).list_artifacts(by_name["stage1"].info.run_id)}
    tracker = open_tracker(recipe, "stage1")
    assert isinstance(tracker, MlflowTracker)
    tracker.metrics({"loss": 1.0}, 1)
    end = time.monotonic() + 240
    while not tracker.run_id or unsent(recipe).exists():
        assert time.monotonic() < end, "the server does not get it"
        time.sleep(0.1)
    gate.shut()
    tracker.metrics({"loss": 2.0}, 2)  # the server went away in the middle
    tracker.finish()
    assert unsent(recipe).exists() and "away" in capfd.readouterr().err


@pytest.mark.timeout(240)
def test_a_server_that_never_answers_does_not_hold_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and says nothing
        recipe = make_recipe(tmp_path, uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        tracker = open_tracker(recipe, "stage1")
        assert isinstance(tracker, MlflowTracker)
        asked, _ = silent.accept()  # from now on the sender waits for the answer
        for step in range(1, 101):
            tracker.metrics({"loss": step}, step)
        assert time.monotonic() - started < 50.0, "the stage waited for the answer"
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        asked.close()
        tracker.sender.patience = 100.0
        started = time.monotonic()
        tracker.finish()
        assert time.monotonic() - started < 60.0, "it does not give up before its patience ends"
    assert len(Journal(unsent(recipe)).read(1000)) > 100
