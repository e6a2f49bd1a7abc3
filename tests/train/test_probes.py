"""Probes within training: ZeRO-3 on two real ranks measures what one process measures, and trains as if it did not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from salad_ds.config import load_recipe
from salad_ds.errors import RecipeError
from salad_ds.measure.run import measure_checkpoint
from tests.train.launch import forked

pytestmark = pytest.mark.slow  # three trainings
ITEMS = 5
"""Odd: one of two ranks has a dummy in its last batch."""
SETTINGS = ["stages.stage1.steps=4", "stages.stage1.keep=9", "measure.speech=speech/natural", f"measure.items={ITEMS}",
            "measure.batch=2"]  # fmt: skip
PROBES = ["stages.stage1.probe_every=2", f"stages.stage1.probe_items={ITEMS}"]


def rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(prepared, decided_teacher, tmp_path_factory) -> dict[str, Path]:
    """The same stage without probes and with them; the student starts away from its teacher, or F would be nothing."""
    found = {}
    for name, probes in (("without", []), ("with", PROBES)):
        found[name] = tmp_path_factory.mktemp(name) / "work"
        shutil.copytree(load_recipe(prepared).path("."), found[name])
        train(prepared, found[name], decided_teacher, probes)
    return found


def overrides(work: Path, teacher: Path) -> list[str]:
    return [*SETTINGS, f"workdir={work}", f"model.llm={teacher}", "teacher.mode=live", "stages.stage1.lr_llm=0.01"]


def train(prepared: Path, work: Path, teacher: Path, probes: list[str]) -> str:
    return forked(2, "salad_ds", "train", prepared, *overrides(work, teacher), *probes, log=work.with_suffix(".log"))


def test_training_is_the_same_bit_by_bit(runs):
    """Losses, norms of the gradients, every weight."""
    trained = {name: rows(work / "stage1/log.jsonl") for name, work in runs.items()}
    for one, other in zip(trained["without"], trained["with"], strict=True):
        assert all(one[key] == other[key] for key in ("step", "loss", "kl", "nll", "grad_norm", "lr_adapter"))
    ours, theirs = (load_file(work / "stage1/model/model.safetensors") for work in runs.values())
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
    assert not (runs["without"] / "stage1/probes.jsonl").exists()


def test_a_probe_says_what_a_measurement_says(runs, prepared, decided_teacher):
    """At the end of training: M with both kinds of speech, F and L of the same utterances, one process, whole model."""
    found = rows(runs["with"] / "stage1/probes.jsonl")
    assert [row["step"] for row in found] == [0, 2, 4] and all(row["items"] == ITEMS for row in found)
    recipe = load_recipe(prepared, overrides(runs["with"], decided_teacher))
    measured = measure_checkpoint(recipe, "stage1")["speech"]
    assert measured["items"] == ITEMS and measured["tokens"] == found[-1]["tokens"]
    names = ("misalignment", "misalignment_wrong_speech", "speech_gain_over_wrong", "forgetting", "distillation")
    for name in names:
        assert found[-1][name] == pytest.approx(measured[name]["mean"], rel=2e-4, abs=1e-6), name
        assert found[-1][f"{name}_se"] == pytest.approx(measured[name]["se"], rel=2e-3, abs=1e-6), name
    assert found[0]["forgetting"] == pytest.approx(0, abs=1e-6) and found[-1]["forgetting"] > 1e-3
    assert found[0]["misalignment"] == pytest.approx(found[0]["distillation"], rel=1e-4)


def test_a_resumed_stage_has_every_probe_once(runs, prepared, decided_teacher, tmp_path):
    """Back to the checkpoint of step 2, as if the run had been killed behind it."""
    work = tmp_path / "work"
    shutil.copytree(runs["with"], work)
    whole = rows(work / "stage1/probes.jsonl")
    shutil.rmtree(work / "stage1/checkpoints/step-00000004")
    shutil.rmtree(work / "stage1/model")
    (work / "stage1/done.json").unlink()
    said = train(prepared, work, decided_teacher, PROBES)
    assert "continuing after step 2" in said
    again = rows(work / "stage1/probes.jsonl")
    assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in whole]


def test_probes_without_speech_to_probe_are_refused(prepared):
    with pytest.raises(RecipeError, match="stages.stage1.probe_every probes measure.speech, which is empty"):
        load_recipe(prepared, PROBES)
