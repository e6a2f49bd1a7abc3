"""What is read from MLflow, and what belongs together."""

from __future__ import annotations

import math
import socket

import pytest

from salad_ds.analyze.runs import MEAN, checkpoints, curves, measured_runs, unfinished
from salad_ds.analyze.stores import tracked_runs
from salad_ds.errors import DataError

PROBES = {0: (0.0, 2.0, 0.01), 10: (1000.0, 1.0, 0.01), 20: (2000.0, 0.8, 0.01)}


@pytest.fixture(scope="module")
def one(work, tmp_path_factory):
    """A work directory with its own store: trained with probes, measured, asked, twice measured before training."""
    place = tmp_path_factory.mktemp("one") / "run"
    made = work(place, name="first", steps=20).measure(3.0, 0.0, checkpoint="init")
    made.train(2000, PROBES).measure(0.8, 0.02).evaluate({"cloze": (0.7, 0.5), "open": (0.5, 0.3)})
    made.evaluate({"cloze": (0.9, 0.9)}, checkpoint="base", student="the base LLM")
    return place


def test_a_checkpoint_has_its_training_its_measurement_and_its_answers(one):
    init, stage1 = checkpoints(tracked_runs([str(one)]))  # the base LLM is none
    assert (init.name, init.trained, init.targets, init.m) == ("init", None, 0.0, 3.0)
    assert stage1.label == "first/stage1" and stage1.trained.stage == "stage1" and stage1.measured.finished
    assert (stage1.m, stage1.f, stage1.metric("misalignment_se"), stage1.metric("items")) == (0.8, 0.02, 0.004, 62)
    assert (stage1.targets, stage1.positions) == (2000, 6000)
    assert stage1.sources == "speech/a × 1, text/b × 0.5"
    assert (stage1.setting("alpha"), stage1.setting("seed")) == ("0.9", "0")
    cloze = stage1.answers("cloze")
    assert (cloze.text, cloze.speech, cloze.items, cloze.of, cloze.complete) == (0.7, 0.5, 390, 400, True)
    mean = stage1.answers(MEAN)
    assert (mean.text, mean.speech, mean.items) == (pytest.approx(0.6), pytest.approx(0.4), 780)
    assert stage1.answers("other") is None and init.answers(MEAN) is None
    assert init.measured_on == stage1.measured_on != ""


def test_a_curve_has_the_data_seen_and_leaves_out_what_was_before_any(one):
    (curve,) = curves(tracked_runs([str(one)]))
    assert curve.data.tolist() == [1000, 2000] and curve.m.tolist() == [1.0, 0.8] and curve.items == 16
    assert not unfinished(tracked_runs([str(one)]))


def test_two_stores_at_once_each_run_once_and_by_the_name_of_an_experiment(one, work, tmp_path):
    other = tmp_path / "b"
    work(other).train(500).measure(1.5, 0.1)
    both = tracked_runs([str(one), str(other), f"sqlite:///{one}/mlflow.db"])
    assert len({run.store for run in both}) == 2 and len(both) == len({run.id for run in both}) == 7
    assert [student.label for student in checkpoints(both)] == ["first/init", "first/stage1", "b/stage1"]
    assert tracked_runs([str(one), "laws", str(other)]) == both
    assert len(tracked_runs([str(tmp_path)])) == 2  # a directory of work directories
    with pytest.raises(DataError, match="no experiment is called 'flaws'"):
        tracked_runs([str(one), "flaws"])


def test_what_did_not_end_is_known_with_its_counts(work, tmp_path):
    made = work(tmp_path / "dead", steps=50).train(2000, PROBES, killed=True)
    made.measure(0.8, 0.02, killed=True).evaluate({"cloze": (0.7, 0.5)}, killed=True)
    runs = tracked_runs([str(tmp_path / "dead")])
    told = {one.run.stage: (one.run.status, one.told) for one in unfinished(runs)}
    assert told == {"stage1": ("KILLED", "20 of 50 steps"), "measure-stage1": ("KILLED", "62 utterances"),
                    "evaluate-stage1": ("KILLED", "cloze: 0 of 400 items")}  # fmt: skip
    (student,) = checkpoints(runs)
    assert not student.usable and not student.answers("cloze").complete and math.isnan(student.targets)


def test_the_newest_measurement_that_ended_counts(work, tmp_path):
    made = work(tmp_path / "again").train(100).measure(0.9, 0.1)
    made.recipe.measure.batch = 7  # another run
    made.measure(0.5, 0.1)
    made.recipe.measure.batch = 8
    made.measure(7.0, 7.0, killed=True)
    (student,) = checkpoints(tracked_runs([str(tmp_path / "again")]))
    assert (student.m, student.measured.status) == (0.5, "FINISHED")


def test_alike_is_what_differs_in_data_and_seeds_alone(work, tmp_path):
    uri = f"sqlite:///{tmp_path}/all.db"
    settings = {"a": {}, "b": {"steps": 900, "seed": 4}, "c": {"alpha": 0.5}, "d": {"llm": "other/llm"},
                "e": {"probe_every": 5, "measure_items": 9}, "f": {"speech": "speech-2"}}  # fmt: skip
    for name, own in settings.items():
        work(tmp_path / name, uri, **own).train(100).measure(1.0, 0.1)
    found = {one.work: one for one in checkpoints(tracked_runs([uri]))}
    same = [name for name, one in found.items() if one.alike == found["a"].alike]
    assert same == ["a", "b", "e", "f"]
    on = [name for name, one in found.items() if one.measured_on == found["a"].measured_on]
    assert on == ["a", "b", "c", "d"]


def test_places_that_are_none_are_named_and_nothing_is_made(tmp_path, work, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no mlflow.db"):
        tracked_runs([str(tmp_path / "empty")])
    with pytest.raises(DataError, match="does not exist"):
        tracked_runs([f"sqlite:///{tmp_path}/none.db"])
    with pytest.raises(DataError, match="no tracking store is named by 'laws'"):
        tracked_runs(["laws"])
    damaged = tmp_path / "mlflow.db"
    damaged.write_bytes(b"no database" * 99)
    with pytest.raises(DataError, match="cannot be read"):
        tracked_runs([str(damaged)])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(DataError, match="cannot be read") as caught:
        tracked_runs([f"http://me:secret@127.0.0.1:{port}"])
    assert "secret" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "mlflow.db"]
    work(tmp_path / "trained").train(100)
    with pytest.raises(DataError, match="none of them has measured a student"):
        measured_runs(tracked_runs([str(tmp_path / "trained")]))
