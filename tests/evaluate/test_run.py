"""The whole of an evaluation on real WordNet items in real synthetic speech: against an independent scorer, killed,
resumed, divided over processes."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from salad_ds.audio import resample
from salad_ds.config import Recipe, TaskConfig, load_recipe, plain
from salad_ds.errors import CheckpointError, RecipeError, SaladError
from salad_ds.evaluate import questions
from salad_ds.evaluate.results import load
from salad_ds.evaluate.run import evaluate_checkpoint
from salad_ds.evaluate.tasks import load_task, spoken
from salad_ds.files import sole_writer
from salad_ds.text import start_token
from tests.evaluate.conftest import make_recipe
from tests.ports import held_port

pytestmark = pytest.mark.assets
TASK = TaskConfig(name="wordnet", items=9, shots=2)


@pytest.fixture(scope="module")
def wordnet():
    """WordNet's items take seconds to read: the tests of this process share them."""
    kept = {}

    def read_once(settings: TaskConfig, recipe: Recipe):
        key = (settings.name, settings.items, settings.shots)
        if key not in kept:
            kept[key] = load_task(settings, recipe)
        return kept[key]

    return read_once


@pytest.fixture(autouse=True)
def _read_once(monkeypatch, wordnet):
    monkeypatch.setattr(questions, "load_task", wordnet)


@pytest.fixture(scope="module")
def voice(model_config, wordnet, tmp_path_factory) -> Path:
    """A work directory that holds nothing but the speech of TASK."""
    recipe = make_recipe(tmp_path_factory.mktemp("voice"), model_config, tasks=[TASK])
    task = wordnet(TASK, recipe)
    spoken(recipe, task, [*task.items, *task.examples])
    return recipe.path(".")


def ready(voice: Path, work: Path, model_config, **evaluate) -> Recipe:
    shutil.copytree(voice, work)
    return make_recipe(work, model_config, **({"tasks": [TASK]} | evaluate))


# ---- an independent scorer: one option at a time, the whole prompt each time, float64, no cache, no batch


@torch.no_grad()
def naive_scores(exact, tokenizer, task, item, examples, speech) -> list[float]:
    """Mean log-probability per token of every option. ``speech``: clips by id; None to read."""
    table = exact.get_input_embeddings()

    def words(text: str) -> torch.Tensor:
        return table(torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"]))

    parts = [table(torch.tensor([start_token(tokenizer)]))]
    text = ""
    for one in [*examples, item]:
        text += task.template.before
        if speech is None:
            text += f" {one.asked}"
        else:
            wave, rate = speech[one.id]
            wave = torch.from_numpy(resample(wave, rate, exact.sample_rate))[None]
            parts += [words(text), exact.speech_embeddings(wave, torch.tensor([wave.shape[1]]))[0]]
            text = ""
        text += task.template.after
        if one is not item:
            text += one.options[one.answer] + task.template.between
    prompt = torch.cat([*parts, words(text)])
    found = []
    for option in item.options:
        ids = tokenizer(option, add_special_tokens=False)["input_ids"]
        row = torch.cat([prompt, table(torch.tensor(ids))])[None]
        log_p = exact.llm(inputs_embeds=row, use_cache=False).logits[0].log_softmax(-1)
        found.append(sum(float(log_p[len(prompt) - 1 + k, id]) for k, id in enumerate(ids)) / len(ids))
    return found


def check_rows(recipe: Recipe, task, exact, tokenizer, rows: list[dict], abs: float) -> None:
    speech = spoken(recipe, task, [*task.items, *task.examples])
    for row, item in zip(rows, task.items, strict=True):
        assert (row["id"], row["answer"], row["error"]) == (item.id, item.answer, "")
        for condition, sound in (("text", None), ("speech", speech)):
            expected = naive_scores(exact, tokenizer, task, item, task.examples[: row["shots"]], sound)
            found = np.array(row[f"{condition}_logprob"]) / row[f"{condition}_tokens"]
            assert found == pytest.approx(expected, abs=abs)
            assert row[f"{condition}_choice"] == int(np.argmax(expected))


def test_scores_are_those_of_an_independent_scorer(
    voice, tmp_path, model_config, student, student_dir, wordnet, capsys
):
    recipe = ready(voice, tmp_path / "work", model_config)
    summaries = evaluate_checkpoint(recipe, str(student_dir))
    ((name, tasks),) = summaries.items()
    summary = tasks["wordnet"]
    assert name.startswith(f"{student_dir.parent.name}-{student_dir.name}-"), "named by where the student lies"
    model, tokenizer = student
    task = wordnet(TASK, recipe)
    rows = pq.read_table(recipe.path(f"evaluate/{name}/wordnet.parquet")).to_pylist()
    check_rows(recipe, task, copy.deepcopy(model).double(), tokenizer, rows, abs=2e-5)
    assert any(row["text_logprob"] != row["speech_logprob"] for row in rows)
    assert (summary["items"], summary["of"], summary["chance"]) == (9, 9, 0.25)
    assert summary["shots"] == {"most": 2, "mean": 2.0, "least": 2}
    assert summary["text"]["correct"] == sum(row["text_choice"] == row["answer"] for row in rows)
    assert summary["template"]["text"] == "Definition: {asked}\nWord:" and summary["spoken"]["clips"] == 9
    path = recipe.path(f"evaluate/{name}/wordnet.json")
    assert load(path) == json.loads(json.dumps(summary | {"made_from": load(path)["made_from"]}))
    assert "9 of" not in (shown := capsys.readouterr().out) and name in shown

    before = {file: file.stat().st_mtime_ns for file in path.parent.rglob("*") if file.name != ".lock"}
    assert evaluate_checkpoint(recipe, str(student_dir)) == summaries, "asked twice"
    assert before == {file: file.stat().st_mtime_ns for file in path.parent.rglob("*") if file.name != ".lock"}


@pytest.mark.slow
def test_a_real_llm_reads_and_hears(voice, tmp_path, model_config, wordnet, smollm2_dir):
    """SmolLM2 before training: base, cascade and student, against the independent scorer."""
    from salad_ds.model.build import build_student

    settings = copy.deepcopy(model_config)
    settings.llm = str(smollm2_dir)
    recipe = ready(voice, tmp_path / "work", settings, models=["student", "base", "cascade"], batch=400)
    summaries = evaluate_checkpoint(recipe, "init")
    task = wordnet(TASK, recipe)
    exact, tokenizer = build_student(settings)
    rows = {name: pq.read_table(recipe.path(f"evaluate/{name}/wordnet.parquet")).to_pylist() for name in summaries}
    few = replace(task, items=task.items[:3])
    check_rows(recipe, few, exact.eval().double(), tokenizer, rows["init"][:3], abs=1e-4)
    (heard,) = (pq.read_table(path).to_pylist() for path in recipe.path("evaluate").glob("heard-*.parquet"))
    words = {row["id"]: row["heard"] for row in heard}
    assert sorted(words) == sorted(item.id for item in [*task.items, *task.examples])
    read = [replace(item, asked=words[item.id]) for item in [task.items[0], *task.examples]]
    expected = naive_scores(exact, tokenizer, task, read[0], read[1:], None)
    found = np.array(rows["cascade"][0]["speech_logprob"]) / rows["cascade"][0]["speech_tokens"]
    assert found == pytest.approx(expected, abs=1e-4), "the base LLM reads what was heard, in the examples too"
    assert words[task.items[0].id] != task.items[0].asked
    assert [row["text_logprob"] for row in rows["base"]] == [row["text_logprob"] for row in rows["init"]]
    assert [row["text_logprob"] for row in rows["base"]] == [row["text_logprob"] for row in rows["cascade"]]
    assert summaries["base"]["wordnet"]["text"]["accuracy"] > 0.5 and "speech" not in summaries["base"]["wordnet"]
    topline = summaries["cascade"]["wordnet"]
    assert topline["asr"]["wer"] < 0.1 and topline["speech"]["accuracy"] > 0.5
    assert topline["speech"]["accuracy"] > summaries["init"]["wordnet"]["speech"]["accuracy"]
    assert topline["base_gap"] == topline["gap"]
    assert summaries["init"]["wordnet"]["base_gap"] == summaries["init"]["wordnet"]["gap"], "nothing is forgotten yet"


# ---- shots


def test_as_many_examples_as_fit_are_heard_and_as_many_are_read(voice, tmp_path, model_config, student_dir):
    recipe = ready(voice, tmp_path / "work", model_config)
    summaries = {}
    for context in (2048, 150, 100, 60):
        recipe.evaluate.context = context
        ((_, tasks),) = evaluate_checkpoint(recipe, str(student_dir)).items()
        summaries[context] = tasks["wordnet"]
    means = [summary["shots"]["mean"] for summary in summaries.values()]
    assert means[0] == 2 and means == sorted(means, reverse=True) and means[-1] < 1
    assert 0 < means[2] < 2, "items differ in what fits"
    lost = summaries[60]
    assert lost["items"] < 9 and list(lost["left_out"]) == ["it is longer than evaluate.context"]
    assert lost["items"] + lost["left_out"]["it is longer than evaluate.context"]["count"] == lost["of"] == 9
    recipe.evaluate.context = 4096
    with pytest.raises(RecipeError, match="reads 2048 positions"):
        evaluate_checkpoint(recipe, str(student_dir))


# ---- killed, resumed, divided


def write_recipe(recipe: Recipe, path: Path) -> Path:
    path.write_text(yaml.safe_dump(plain(recipe)))
    return path


def job(recipe: Path, student: Path, *kill: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.evaluate.job", str(recipe), str(student), *kill]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def table_bytes(recipe: Recipe) -> bytes:
    (path,) = recipe.path("evaluate").glob("*/wordnet.parquet")
    return path.read_bytes()


@pytest.fixture(scope="module")
def at_once(voice, tmp_path_factory, model_config, student_dir) -> bytes:
    """The rows of a run in one process that nothing disturbed."""
    recipe = ready(voice, tmp_path_factory.mktemp("at-once") / "work", model_config)
    evaluate_checkpoint(recipe, str(student_dir))
    return table_bytes(recipe)


@pytest.mark.slow
def test_a_killed_run_says_so_and_goes_on_behind_its_last_block(
    voice, tmp_path, model_config, student_dir, at_once, capsys
):
    recipe = ready(voice, tmp_path / "work", model_config)
    path = write_recipe(recipe, tmp_path / "recipe.yaml")
    killed = job(path, student_dir, "8")
    _, errors = killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL, errors[-2000:]
    (left,) = recipe.path("evaluate").glob("*/wordnet.json")
    partial = load(left)
    assert not partial["complete"] and 0 < partial["items"] < 9 and partial["of"] == 9
    done = {c: sum(1 for line in open(left.with_suffix("") / f"{c}.0.jsonl") if '"id"' in line and line.endswith("\n"))
            for c in ("text", "speech")}  # fmt: skip
    assert done["text"] == 9 and not left.with_suffix(".parquet").exists()

    capsys.readouterr()
    evaluate_checkpoint(load_recipe(path), str(student_dir))
    said = capsys.readouterr().err
    assert "in text" not in re.sub(r".*in text: 0/0 item.*", "", said), "what was read was read again"
    again = int(re.search(r"in speech: (\d+)/\1 item", said)[1])
    assert again == 9 - partial["items"], "only the items behind the last whole block are asked"
    assert table_bytes(recipe) == at_once and load(left)["complete"]


def two_ranks(path: Path, student_dir: Path, *kill: str) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of both processes."""
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(held_port())}
    ranks = [job(path, student_dir, *kill, RANK=str(i), LOCAL_RANK=str(i), **where) for i in range(2)]
    said = [rank.communicate(timeout=300) for rank in ranks]
    return [(rank.returncode, *both) for rank, both in zip(ranks, said, strict=True)]


@pytest.mark.slow
def test_two_ranks_write_what_one_does(voice, tmp_path, model_config, student_dir, at_once, capsys):
    """Real processes, first killed, so that one alone goes on where both stopped; then left in peace."""
    recipe = ready(voice, tmp_path / "killed", model_config)
    path = write_recipe(recipe, tmp_path / "killed.yaml")
    killed = two_ranks(path, student_dir, "2")
    assert all(code != 0 for code, _, _ in killed) and -signal.SIGKILL in [code for code, _, _ in killed], killed
    capsys.readouterr()
    evaluate_checkpoint(load_recipe(path), str(student_dir))
    read = int(re.search(r"in text: (\d+)/\1 item", capsys.readouterr().err)[1])
    assert 0 < read < 9 and table_bytes(recipe) == at_once

    recipe = ready(voice, tmp_path / "work", model_config)
    done = two_ranks(write_recipe(recipe, tmp_path / "recipe.yaml"), student_dir)
    assert [code for code, _, _ in done] == [0, 0], done
    assert table_bytes(recipe) == at_once
    assert "wordnet" in done[0][1] and done[1][1] == "", "rank 0 alone prints"
    assert 0 < int(re.search(r"in text: (\d+)/", done[0][2])[1]) < 9, "rank 0 did everything"


# ---- what is wrong is named


def test_wrong_settings_are_refused_before_any_work(recipe, student_dir):
    recipe.evaluate.tasks = []
    with pytest.raises(RecipeError, match="evaluate.tasks is empty"):
        evaluate_checkpoint(recipe, str(student_dir))
    recipe.evaluate.tasks = [TASK]
    with pytest.raises(CheckpointError, match="no student"):
        evaluate_checkpoint(recipe, "/nowhere")
    assert not recipe.path("evaluate").exists()


def test_two_evaluations_do_not_write_the_same_answers(voice, tmp_path, model_config):
    recipe = ready(voice, tmp_path / "work", model_config, models=["base"])
    with sole_writer(recipe.path("evaluate/base")) as free:
        assert free
        with pytest.raises(SaladError, match="another evaluation"):
            evaluate_checkpoint(recipe, "init")


def test_reading_alone_needs_no_speech(tmp_path, model_config):
    recipe = make_recipe(tmp_path / "work", model_config, tasks=[TASK], models=["base"])
    summary = evaluate_checkpoint(recipe, "init")["base"]["wordnet"]
    assert summary["items"] == 9 and summary["shots"]["mean"] == 2 and "spoken" not in summary
    assert sorted(path.name for path in recipe.path("evaluate").iterdir()) == ["base"]


def test_an_item_that_cannot_be_heard_costs_itself(voice, tmp_path, model_config, student_dir, wordnet, monkeypatch):
    """The student's Whisper hears 30 s: a longer recording is left out of both conditions, by name."""
    recipe = ready(voice, tmp_path / "work", model_config)
    task = wordnet(TASK, recipe)
    long = replace(task.items[4], asked=" ".join(["and so on"] * 60))
    changed = replace(task, items=[*task.items[:4], long, *task.items[5:]])
    monkeypatch.setattr(questions, "load_task", lambda settings, recipe: changed)
    ((_, tasks),) = evaluate_checkpoint(recipe, str(student_dir)).items()
    summary = tasks["wordnet"]
    assert (summary["items"], summary["of"]) == (8, 9)
    assert summary["left_out"] == {"its speech is longer than the encoder hears": {"count": 1, "examples": [long.id]}}
