"""``--dry-run``: what a verb would see, where each value comes from, and nothing touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from salad_ds.cli import main
from salad_ds.config import load_recipe, plain
from salad_ds.errors import RecipeError
from salad_ds.verbs import VERBS

RECIPES = Path(__file__).parents[1] / "salad_ds/recipes"
RECIPE = """\
name: small
workdir: WORK
model:
  llm: &llm some-llm
corpora:
  - {kind: manifest, source: s, out: a,
     settings: {depth: 2, names: [x, "y: #z"]}}
  - kind: text
    source: t
    out: b
stages:
  stage1: &stage
    sources: [{kind: text, path: text}]
    steps: 10
    micro_batch: 2
    global_batch: 8
  stage2:
    <<: *stage
    init_from: stage1
teacher:
  llm: *llm
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE.replace("WORK", str(tmp_path / "work")))
    return path


def shown(capsys, *arguments: str) -> dict[str, str]:
    """The comment behind each ``key: value`` line, by the line without its indentation; and all of it, as ``""``."""
    assert main([*arguments, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert not err
    pairs = [line.split("  # ") for line in out.splitlines() if "  # " in line]
    return {text.strip(): origin for text, origin in pairs} | {"": out}


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS.values() if verb.recipe])
def test_every_verb_that_takes_a_recipe_has_it_and_touches_nothing(capsys, verb, recipe):
    told = shown(capsys, verb, str(recipe))
    assert told["name: small"] == f"{recipe}:1" and told["dtype: float32"] == "default"
    assert [path.name for path in recipe.parent.iterdir()] == ["small.yaml"]


def test_where_each_value_comes_from(capsys, recipe):
    told = shown(capsys, "train", str(recipe), "data.context=64", "stages.stage2.steps=20", "synth.voices=[a,b]",
                 "align.workers=3")
    assert told["context: 64"] == told["voices: [a, b]"] == told["workers: 3"] == "command line"
    assert told["steps: 20"] == f"command line; computed: {20 * 8 * 64:,} positions"
    assert told["steps: 10"] == f"{recipe}:14; computed: {10 * 8 * 64:,} positions"
    assert told["global_batch: 8"].startswith(f"{recipe}:16; computed: 2 rows × 1 ranks × 4 times")
    assert told["init_from: stage1"] == f"{recipe}:19" and told["init_from: null"] == "default"
    assert told["tokenizer: null"] == "default; computed: some-llm, from model.llm"
    assert told["llm: some-llm"] == f"{recipe}:4"  # an alias stands where its anchor does
    assert told["depth: 2"] == told["names: [x, 'y: #z']"] == f"{recipe}:7"
    assert told["- kind: text"] == f"{recipe}:13"


def test_a_list_from_the_command_line_replaces_that_of_the_file(capsys, recipe):
    told = shown(capsys, "train", str(recipe), "stages.stage1.sources=[{kind: speech, path: s}]")
    assert told["- kind: speech"] == told["path: s"] == "command line"
    assert "weight: 1.0                                   # default" in told[""]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_is_shown_is_the_same_recipe(capsys, path, tmp_path):
    again = tmp_path / "again.yaml"
    overrides = ["synth.voices=[a,'b: c']", "workdir=/some where/#1", "synth.command=say '{out}'", "teacher.llm='1.0'"]
    again.write_text(shown(capsys, "run", str(path), *overrides)[""])
    assert plain(load_recipe(again)) == plain(load_recipe(path, overrides))


def test_the_stations_of_a_run(capsys):
    told = shown(capsys, "run", str(RECIPES / "demo.yaml"))
    assert "# stations: prepare, synthesize, align, measure init" in told[""]


def test_what_is_swept_is_said(capsys):
    told = shown(capsys, "sweep", str(RECIPES / "demo.yaml"), "select.gamma=0,1", "select.clusters=4")
    assert "# swept on the command line: select.gamma=0,1" in told[""] and told["clusters: 4"] == "command line"


@pytest.mark.parametrize("wrong", [["stages.stage1.stepz=3"], ["--stage", "stage9"], ["data.context=0"]])
def test_what_is_wrong_is_wrong_without_a_run_too(capsys, recipe, wrong):
    assert main(["train", str(recipe), *wrong, "--dry-run"]) == RecipeError.code
    out, err = capsys.readouterr()
    assert not out and err.startswith("salad-ds train: ")
