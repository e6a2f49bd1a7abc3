"""The whole road: its stations and their order, the times it keeps, and a training job that fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from salad_ds import run as module
from salad_ds.config import load_recipe
from salad_ds.data.shards import Sample, ShardWriter
from salad_ds.errors import SaladError
from salad_ds.run import Journal, launch_training, road

REPOSITORY = Path(__file__).parents[1]
RECIPES = REPOSITORY / "salad_ds/recipes"


def stations(name: str, *overrides: str) -> list[str]:
    path = RECIPES / f"{name}.yaml"
    return [station for station, _ in road(load_recipe(path, overrides), str(path), list(overrides))]


def test_the_demo_travels_the_whole_road_in_order():
    examined = ("measure {0}", "evaluate {0}")
    wanted = ["prepare", "synthesize", "align", *(text.format("init") for text in examined)]
    wanted += ["precompute stage1", "train stage1", *(text.format("stage1") for text in examined)]
    wanted += ["select", "precompute stage2", "train stage2", *(text.format("stage2") for text in examined)]
    wanted += ["clusters stage2"]
    assert stations("demo") == wanted


def test_what_a_recipe_does_not_ask_for_is_no_station():
    assert stations("tiny") == ["prepare", "align", "measure init", "precompute stage1", "train stage1",
                                "measure stage1"]  # fmt: skip
    assert not any(name.startswith("precompute") for name in stations("demo", "teacher.mode=live"))
    assert "select" not in stations("demo", "select.text=''")
    few = ["evaluate.tasks=[]", "measure.speech=''", "measure.words=0", "stages.stage1.probe_every=0"]
    assert stations("demo", *few, "synthesize.text=''").count("align") == 1


def test_stage_two_of_the_paper_comes_after_its_selection():
    names = stations("salad-3b")
    assert names.index("train stage1") < names.index("select") < names.index("train stage2")


def test_the_journal_keeps_times_over_calls(tmp_path, monkeypatch):
    recipe = load_recipe(RECIPES / "demo.yaml", [f"workdir={tmp_path}"])
    now = iter([0.0, 30.0, 100.0, 100.5, 200.0, 212.0, 300.0, 307.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))

    def kept() -> dict[str, float]:
        rows = json.loads((tmp_path / "run.json").read_text())["stages"]
        return {row["stage"]: row["seconds"] for row in rows}

    with Journal(recipe).timed("prepare"):
        pass
    assert kept() == {"prepare": 30.0}
    again = Journal(recipe)
    with again.timed("prepare"):
        pass
    assert kept() == {"prepare": 30.0} and not again.worked, "a station that finds itself done adds nothing"
    with pytest.raises(KeyError), again.timed("train"):  # the time of a station that fails counts too
        raise KeyError
    assert kept() == {"prepare": 30.0, "train": 12.0} and again.worked
    with Journal(recipe).timed("train"):
        pass
    assert kept() == {"prepare": 30.0, "train": 19.0}


def test_a_training_job_that_fails_is_an_error_with_its_exit_code(tmp_path, capfd):
    """A real launch; the job ends at once, because its recipe is gone."""
    with ShardWriter(tmp_path / "text", "test") as writer:
        writer.add(Sample("one", {"text": "a text"}))
    overrides = [f"workdir={tmp_path}", "stages.stage1.ranks=1", "stages.stage1.sources=[{kind: text, path: text}]"]
    recipe = load_recipe(RECIPES / "tiny.yaml", overrides)
    with pytest.raises(SaladError, match="training of stage1 ended with exit code 1 .*goes on where it stopped"):
        launch_training(recipe, str(tmp_path / "gone.yaml"), overrides, "stage1")
    assert "gone.yaml does not exist" in capfd.readouterr().err, "the job's own words pass through"
