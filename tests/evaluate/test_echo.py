"""Open-ended generation in real synthetic speech: answers against generation one at a time, error rates against an edit
distance of our own, runs that are killed, resumed and divided."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from salad_ds.audio import decode
from salad_ds.config import (
    AdapterConfig,
    EncoderConfig,
    MeasureConfig,
    ModelConfig,
    Recipe,
    SynthConfig,
    load_recipe,
    plain,
)
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError, RecipeError, SaladError
from salad_ds.evaluate import echo as module
from salad_ds.evaluate import utterances
from salad_ds.evaluate.echo import PROMPTS, echo
from salad_ds.evaluate.echo_results import GIVEN, QUESTIONS, load_summary, metrics, scored, summarise
from salad_ds.evaluate.models import Reader
from salad_ds.evaluate.spoken_answers import Answer, Question, answer_of, answers
from salad_ds.evaluate.tasks.templates import templates
from salad_ds.evaluate.utterances import Speech, chosen
from salad_ds.files import sole_writer
from salad_ds.generate import generate
from salad_ds.model.build import build_student
from salad_ds.model.processing import AUDIO_MARK
from salad_ds.synth.normalize import plain as spoken_form
from salad_ds.synth.synthesize import synthesize_shards
from tests.evaluate.conftest import make_recipe
from tests.ports import held_port

SENTENCES = [
    "the committee met on a monday and nobody from the bakery came to see them",
    "a small boat drifted slowly across the quiet lake before the sun came up",
    "people who live near the river often talk about the great flood of 1953",
    "the teacher asked the children to open their books and read the first page",
    "she put the red cup on the table and walked back into the kitchen",
]
TOKENS = 12


@pytest.fixture(scope="module")
def model_config(tiny_untied_llm_dir, tmp_path_factory) -> ModelConfig:
    """A tiny LLM with louder layers: what it says depends on all that it read, not on the last token alone."""
    directory = tmp_path_factory.mktemp("loud-llm")
    llm = AutoModelForCausalLM.from_pretrained(tiny_untied_llm_dir)
    with torch.no_grad():
        for parameter in llm.get_decoder().layers.parameters():
            if parameter.ndim == 2:
                parameter.mul_(30)
    llm.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_untied_llm_dir).save_pretrained(directory)
    return ModelConfig(llm=str(directory), encoder=EncoderConfig("whisper", "packaged:whisper-tiny.en"),
                       adapter=AdapterConfig(layers=2, width=32, mlp=48, heads=4, kv_heads=2, stack=4))  # fmt: skip


@pytest.fixture(scope="module")
def student(model_config):
    model, tokenizer = build_student(model_config)
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def student_dir(student, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("student")
    for part in student:
        part.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def reader(model_config, tmp_path_factory) -> Reader:
    return Reader(make_recipe(tmp_path_factory.mktemp("reader"), model_config))


@pytest.fixture
def choose(monkeypatch, reader, speech_dir):
    """``chosen`` of the utterances, with a reader that is made once."""
    monkeypatch.setattr(utterances, "Reader", lambda _: reader)
    return lambda recipe, place=speech_dir: chosen(ShardSet.open(place), recipe, list(templates(PROMPTS).values()))


@pytest.fixture(scope="module")
def speech_dir(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("echo") / "speech"
    texts = [(f"u{i}", sentence, {}) for i, sentence in enumerate(SENTENCES)]
    synthesize_shards(texts, directory, SynthConfig(workers=1, asr=""), made_from={}, quiet=True)
    return directory


def ready(work: Path, model_config, speech_dir: Path, **evaluate) -> Recipe:
    recipe = make_recipe(work, model_config, **({"tasks": [], "echo": 8, "echo_tokens": TOKENS} | evaluate))
    recipe.measure = MeasureConfig(speech=str(speech_dir))
    return recipe


@pytest.fixture
def recipe(tmp_path, model_config, speech_dir) -> Recipe:
    return ready(tmp_path / "work", model_config, speech_dir)


def table_of(recipe: Recipe) -> Path:
    (path,) = recipe.path("evaluate").glob("echo-*.parquet")
    return path


def rows_of(recipe: Recipe) -> dict[tuple[str, str, str], dict]:
    return {(row["key"], row["prompt"], row["given"]): row for row in pq.read_table(table_of(recipe)).to_pylist()}


# ---- answers


@pytest.fixture(scope="module")
def questions(speech_dir) -> list[Question]:
    shards = ShardSet.open(speech_dir)
    clips = [decode(shards.read(i).audio) for i in range(3)]
    return [Question(f"Speech:{AUDIO_MARK}\nTranscript:", clips[0], "\n"), Question("Speech: a b c", None, "\n\n"),
            Question(AUDIO_MARK, clips[1], "\n\n"), Question(f"{AUDIO_MARK} and so", clips[2], "\n")]  # fmt: skip


@pytest.mark.parametrize("positions", [1, 300, 10_000])
def test_answers_in_batches_are_those_given_one_at_a_time(student, student_dir, questions, positions, tmp_path):
    found = answers(*student, questions, TOKENS, positions)
    for question, answer in zip(questions, found, strict=True):
        audio = []
        if question.clip is not None:
            soundfile.write(tmp_path / "x.wav", *question.clip, subtype="FLOAT")
            audio = [str(tmp_path / "x.wav")]
        alone = generate(str(student_dir), audio, question.text, max_new_tokens=TOKENS)
        assert answer.text == alone.lstrip().split(question.stop)[0].strip()
        assert answer.text and 1 <= answer.tokens <= TOKENS


def test_an_answer_ends_where_it_should(student, questions):
    """At its stop, which is taken from what it would have said, and each row of a batch at its own."""
    model, tokenizer = student
    free = answers(model, tokenizer, questions, TOKENS, 10_000)
    assert {one.stopped for one in free} == {"length"} and all(one.tokens == TOKENS for one in free)
    stops = [max(one.text.split(), key=len)[-3:] for one in free]
    cut = answers(model, tokenizer, [Question(one.text, one.clip, stop)
                                     for one, stop in zip(questions, stops, strict=True)], TOKENS, 10_000)  # fmt: skip
    for one, other, stop in zip(free, cut, stops, strict=True):
        assert other.stopped == "stop" and other.tokens <= TOKENS and other.text == one.text.split(stop)[0].strip()
    assert len({one.tokens for one in cut}) > 1, "no row waits for another"


@given(row=st.lists(st.integers(100, 40_000), max_size=12), fill=st.integers(0, 4))
@settings(max_examples=40)
def test_what_fills_up_a_batch_is_no_answer(tokenizer, row, fill):
    ends = [0, 2]
    text, stop = tokenizer.decode(row).lstrip(), "\n"
    found = answer_of(tokenizer, [*row, *[0] * fill], ends, stop)
    assert found.text == text.split(stop)[0].strip()
    assert found.stopped == ("stop" if stop in text else "end" if fill else "length")
    assert found.tokens == len(row) + (found.stopped == "end")


# ---- error rates


def edits(wanted: list, found: list) -> int:
    """Levenshtein distance."""
    row = list(range(len(found) + 1))
    for i, a in enumerate(wanted, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(found, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


said = st.lists(st.sampled_from(["the", "boat", "a", "lake", "came", "7", "up."]), max_size=8).map(" ".join)


@given(reference=said.filter(spoken_form), text=said)
@settings(max_examples=60)
def test_errors_are_edits_of_what_is_spoken(reference, text):
    row = scored(reference, Answer(text, 3, "stop"))
    for kind, unit, parts in (("word", "words", str.split), ("character", "characters", list)):
        wanted, found = parts(spoken_form(reference)), parts(spoken_form(text))
        assert (row[f"{kind}_errors"], row[unit]) == (edits(wanted, found), len(wanted))
    assert row["wer"] == row["word_errors"] / row["words"]
    assert "wer" not in scored("", Answer(text, 3, "stop"))


def test_numbers_and_capitals_cost_nothing():
    assert scored("the great flood of 1953", Answer("The great flood of nineteen fifty-three.", 9, "stop"))["wer"] == 0


def utterance_rows(key: str, errors: tuple[int, int, int], words: int) -> list[dict]:
    rows = []
    for prompt, what in QUESTIONS:
        row = {"key": key, "prompt": prompt, "given": what, "error": "", "tokens": 5, "stopped": "stop"}
        if prompt == "echo":
            wrong = errors[GIVEN.index(what)]
            row |= {"word_errors": wrong, "words": words, "character_errors": 4 * wrong, "characters": 5 * words}
        rows.append(row)
    return rows


def test_the_summary_is_what_the_rows_say():
    """Rates over all words, not means of rates; the interval of the difference is pairwise."""
    rng = np.random.default_rng(5)
    words, hard = rng.integers(4, 30, 200), rng.integers(0, 3, 200)
    errors = np.stack([np.zeros(200, int), hard, hard + words // 2], 1)
    rows = [row for i in range(200) for row in utterance_rows(f"u{i}", tuple(map(int, errors[i])), int(words[i]))]
    found = summarise(rows, 0)
    assert found["items"] == 200 and found["left_out"] == {}
    assert found["reading"]["wer"] == {"mean": 0.0, "ci": [0.0, 0.0]}
    assert found["hearing"]["wer"]["mean"] == pytest.approx(hard.sum() / words.sum())
    assert found["hearing"]["cer"]["mean"] == pytest.approx(4 * hard.sum() / (5 * words.sum()))
    means = [hard[draw].sum() / words[draw].sum() for draw in rng.integers(200, size=(4000, 200))]
    assert found["hearing"]["wer"]["ci"] == pytest.approx(np.percentile(means, [2.5, 97.5]), rel=0.05)
    gain = found["gain"]["wer"]
    assert gain["mean"] == pytest.approx((words // 2).sum() / words.sum())
    width = {name: np.ptp(part["wer"]["ci"]) for name, part in found.items() if name in ("another", "gain")}
    assert width["gain"] < width["another"] / 2 and gain["ci"][0] < gain["mean"] < gain["ci"][1]
    assert found["continue"] == {"tokens": 5.0, "stopped": {"stop": 200}}
    assert metrics(found)["echo.wer_gain"] == gain["mean"] and metrics(found)["echo.items"] == 200


def test_what_is_not_answered_in_all_ways_counts_in_none():
    rows = [row for i, wrong in enumerate((1, 4, 4)) for row in utterance_rows(f"u{i}", (0, wrong, 4), 4)]
    rows[6]["error"] = "it does not decode"
    found = summarise(rows[:-1], 0)
    assert found["items"] == 1 and found["hearing"]["wer"]["mean"] == 0.25
    assert found["left_out"] == {"it does not decode": 1}
    assert summarise(rows[:3], 0) == {"items": 0, "left_out": {}}


# ---- whole runs


def test_a_run(recipe, student, student_dir, speech_dir, capsys):
    summary = echo(recipe, str(student_dir))
    rows, prompts = rows_of(recipe), templates(PROMPTS)
    assert summary["complete"] and summary["items"] == summary["of"] == len(SENTENCES)
    assert len(rows) == len(QUESTIONS) * len(SENTENCES)
    texts = {f"u{i}": sentence for i, sentence in enumerate(SENTENCES)}
    for key, text in texts.items():
        reading, hearing, another = (rows[key, "echo", one] for one in GIVEN)
        assert reading["heard"] == hearing["heard"] == text != another["heard"] and another["heard"] in SENTENCES
        assert {one["reference"] for one in (reading, hearing, another)} == {text}
        rest = rows[key, "continue", "hearing"]
        assert rest["heard"] == text and rest["reference"] == "" and rest["wer"] is None and rest["words"] is None
    shards = ShardSet.open(speech_dir)
    number = next(i for i in range(len(shards)) if shards.entry(i).key == "u2")
    clip, echoing = decode(shards.read(number).audio), prompts["echo"]
    (heard,) = answers(*student, [Question(echoing.heard(AUDIO_MARK), clip, echoing.between)], TOKENS, 1)
    (read,) = answers(*student, [Question(echoing.read(SENTENCES[2]), None, echoing.between)], TOKENS, 1)
    (on,) = answers(*student, [Question(AUDIO_MARK, clip, prompts["continue"].between)], TOKENS, 1)
    assert rows["u2", "echo", "hearing"]["generated"] == heard.text
    assert heard.text not in (rows["u2", "echo", "another"]["generated"], rows["u2", "echo", "reading"]["generated"])
    assert rows["u2", "echo", "reading"]["generated"] == read.text
    assert rows["u2", "continue", "hearing"]["generated"] == on.text
    whole = [row for row in rows.values() if row["given"] == "hearing" and row["prompt"] == "echo"]
    rate = sum(row["word_errors"] for row in whole) / sum(row["words"] for row in whole)
    assert summary["hearing"]["wer"]["mean"] == pytest.approx(rate)
    assert summary == load_summary(recipe, summary["checkpoint"])
    assert "word errors reading" in capsys.readouterr().out
    assert {path.suffix for path in recipe.path("evaluate").iterdir()} == {".parquet", ".json", ".lock"}
    before = table_of(recipe).stat().st_mtime_ns
    assert echo(recipe, str(student_dir)) == summary and table_of(recipe).stat().st_mtime_ns == before
    assert load_summary(recipe, "nobody") is None


def test_only_the_first_words_are_heard(recipe, speech_dir, choose):
    recipe.evaluate.echo_words = 4
    shards = ShardSet.open(speech_dir)
    speech = Speech(shards, choose(recipe)[0])
    for one in speech.utterances:
        words = shards.words(one.index)
        assert one.text == " ".join(SENTENCES[int(one.key[1:])].split()[:4])
        assert words[3].start < one.seconds <= words[4].start
        wave, rate = speech.clip(one)
        assert len(wave) / rate == pytest.approx(one.seconds, abs=1e-3)


def test_another_utterance_says_something_else(tmp_path, recipe, choose):
    texts = [("a", SENTENCES[0], {}), ("b", SENTENCES[0].upper(), {}), ("c", SENTENCES[1], {})]
    synthesize_shards(texts, tmp_path / "speech", SynthConfig(workers=1, asr=""), made_from={}, quiet=True)
    speech = Speech(ShardSet.open(tmp_path / "speech"), choose(recipe, tmp_path / "speech")[0])
    others = {one.key: speech.other(i).key for i, one in enumerate(speech.utterances)}
    assert others["a"] == others["b"] == "c" and others["c"] in "ab"


def test_which_utterances_there_are_depends_on_the_seed(recipe, choose):
    recipe.evaluate.echo = 3
    found = set()
    for seed in range(6):
        recipe.evaluate.seed = seed
        keys = tuple(one.key for one in choose(recipe)[0])
        assert len(keys) == 3 and keys == tuple(one.key for one in choose(recipe)[0])
        found.add(keys)
    assert len(found) > 1


# ---- killed, resumed, divided


def job(path: Path, student: Path, *kill: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.evaluate.echo_job", str(path), str(student), *kill]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 2)


@pytest.mark.slow
def test_a_killed_run_says_so_and_is_finished_by_two(tmp_path, model_config, student_dir, speech_dir, monkeypatch):
    """Killed in its second block of two utterances; two processes go on behind the first, with the bytes of one."""
    monkeypatch.setattr(module, "BLOCK", 2)
    alone = ready(tmp_path / "alone", model_config, speech_dir)
    echo(alone, str(student_dir))
    recipe = ready(tmp_path / "killed", model_config, speech_dir)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(plain(recipe)))
    killed = job(path, student_dir, "2")
    errors = killed.communicate(timeout=300)[1]
    assert killed.returncode == -signal.SIGKILL, errors[-2000:]
    (left,) = recipe.path("evaluate").glob("echo-*.json")
    partial = load_summary(recipe, left.stem.removeprefix("echo-"))
    assert not partial["complete"] and (partial["items"], partial["of"]) == (2, 5)
    assert "hearing" in partial and not left.with_suffix(".parquet").exists()

    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(held_port())}
    ranks = [job(path, student_dir, RANK=str(i), LOCAL_RANK=str(i), **where) for i in range(2)]
    done = [rank.communicate(timeout=300) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], done
    assert "2/2 utterance" in done[0][1], "of the three that are left, this one had two"
    assert "word errors" in done[0][0] and done[1][0] == ""
    assert table_of(recipe).read_bytes() == table_of(alone).read_bytes()
    assert load_summary(recipe, partial["checkpoint"])["complete"]


# ---- what is wrong is named


def test_what_does_not_decode_costs_itself(tmp_path, model_config, student_dir, speech_dir):
    """It is left out, and so is the one that should have heard it instead of its own."""
    shutil.copytree(speech_dir, tmp_path / "speech")
    shards = ShardSet.open(tmp_path / "speech")
    entry = next(one for one in shards.entries() if one.key == "u1")
    (tar,) = (tmp_path / "speech").glob("*.tar")
    with open(tar, "r+b") as file:
        file.seek(entry.audio[0])
        file.write(bytes(entry.audio[1]))
    recipe = ready(tmp_path / "work", model_config, tmp_path / "speech")
    summary = echo(recipe, str(student_dir))
    assert (summary["items"], summary["of"]) == (3, 5) and sum(summary["left_out"].values()) == 2
    assert all("does not decode" in why for why in summary["left_out"])


def test_what_cannot_be_asked_about_is_counted(recipe, choose):
    why = "it is longer than evaluate.context"
    for recipe.evaluate.context in range(160, 80, -2):
        found, skipped = choose(recipe)
        if skipped:
            break
    assert len(found) >= 2 and skipped[why]["count"] == 5 - len(found) and list(skipped) == [why]
    assert not {one.key for one in found} & set(skipped[why]["examples"])
    recipe.evaluate.context = 20
    with pytest.raises(DataError, match=f"fewer than two utterances .* {why}"):
        choose(recipe)


def test_wrong_settings_are_refused(recipe, student_dir, tmp_path):
    settings_of = plain(recipe)
    settings_of["measure"]["speech"] = ""
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(settings_of))
    with pytest.raises(RecipeError, match="evaluate.echo asks about measure.speech, which is empty"):
        load_recipe(tmp_path / "r.yaml")
    recipe.evaluate.echo = 0
    with pytest.raises(RecipeError, match="evaluate.echo is 0"):
        echo(recipe, str(student_dir))
    assert not recipe.path("evaluate").exists()


def test_two_runs_do_not_write_the_same_answers(recipe):
    with sole_writer(recipe.path("evaluate"), name=".echo-init.lock") as free:
        assert free
        with pytest.raises(SaladError, match="another run writes"):
            echo(recipe, "init")


def test_a_file_that_is_no_summary_is_named(recipe):
    recipe.path("evaluate").mkdir(parents=True)
    recipe.path("evaluate/echo-init.json").write_text('{"schema": 0}')
    with pytest.raises(DataError, match="no summary of schema 1"):
        load_summary(recipe, "init")


def test_the_prompts_are_templates():
    assert list(templates(PROMPTS)) == ["echo", "continue"] == list(dict.fromkeys(prompt for prompt, _ in QUESTIONS))
