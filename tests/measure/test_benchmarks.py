"""The multiple-choice benchmark on real WordNet items, read and heard by a small student."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.wordnet import is_held_out, prepare_wordnet
from salad_ds.assets import resolve
from salad_ds.audio import resample
from salad_ds.config import Recipe
from salad_ds.data.shards import ShardSet
from salad_ds.errors import RecipeError
from salad_ds.measure.benchmarks import accuracy, embed, evaluate, spoken_items
from salad_ds.measure.choices import score_options
from salad_ds.measure.run import evaluate_checkpoint
from salad_ds.measure.tasks import TASKS, load_task
from salad_ds.model.processing import AUDIO_MARK, SaladProcessor

pytestmark = pytest.mark.assets


@pytest.fixture(scope="module")
def task():
    return load_task("wordnet")


@pytest.fixture(scope="module")
def pool(task, tmp_path_factory):
    return task.load(Recipe(name="pool", workdir=str(tmp_path_factory.mktemp("pool"))))


@pytest.fixture
def processor(student):
    model, tokenizer = student
    return SaladProcessor(tokenizer, model.config, model.sample_rate)


# ---- items


def test_items_are_sound_and_their_answers_anywhere(pool):
    assert len(pool) > 500 and len({item.id for item in pool}) == len(pool)
    assert len({item.domain for item in pool[:100]}) > 10, "the first items are of one kind"
    for item in pool:
        assert len(set(item.options)) == 4 and all(option.startswith(" ") for option in item.options)
        assert item.options[item.answer].strip() not in item.asked.lower()
    places = Counter(item.answer for item in pool)
    assert all(abs(places[k] - len(pool) / 4) < 4 * np.sqrt(len(pool) * 3 / 16) for k in range(4))


def test_no_item_is_in_a_text_to_train_on(pool, tmp_path):
    """The whole of WordNet is compared in tests/data_prep/test_wordnet.py; here: what the task asks."""
    prepare_wordnet(resolve("packaged:wordnet"), tmp_path, limit=2000)
    shards = ShardSet.open(tmp_path)
    told = "\n".join(shards.read(i).text.lower() for i in range(len(shards)))
    assert all(is_held_out(int(item.id)) for item in pool)
    assert not [item for item in pool if item.asked.lower() in told]


# ---- prompts


def test_speech_takes_the_place_of_the_words_and_of_nothing_else(task, pool, processor):
    """Both prompts have the same tokens around the question: those that training has around a speech span."""
    for item in pool[:40]:
        read = processor.ids(task.prompt(item))
        heard = processor.ids(task.before + AUDIO_MARK + task.after)
        place = heard.index(processor.config.audio_token_id)
        asked = processor.tokenizer(" " + item.asked, add_special_tokens=False)["input_ids"]
        assert [*heard[:place], *asked, *heard[place + 1 :]] == read
        assert read[0] == processor.config.start_token_id
    assert processor.tokenizer.decode(read[1:]) == f"Definition: {item.asked}\nWord:"


@pytest.fixture
def spoken(recipe, task, pool):
    return spoken_items(recipe, task, pool[:3])


def test_worked_examples_stand_in_front_in_the_same_layout(student, processor, task, pool, spoken):
    model, tokenizer = student
    item, examples = pool[0], pool[1:3]
    read = embed(model, processor, task, item, examples, None, torch.device("cpu"))
    text = "".join(f"Definition: {one.asked}\nWord:{one.options[one.answer]}\n\n" for one in examples)
    ids = processor.ids(text + task.prompt(item))
    assert torch.equal(read, model.get_input_embeddings()(torch.tensor(ids)))
    heard = embed(model, processor, task, item, examples, spoken, torch.device("cpu"))
    marked = processor.ids(
        "".join(f"Definition:{AUDIO_MARK}\nWord:{one.options[one.answer]}\n\n" for one in examples)
        + f"Definition:{AUDIO_MARK}\nWord:"
    )
    expected, following = [], iter([*examples, item])
    for token in marked:
        if token != processor.config.audio_token_id:
            expected.append(model.get_input_embeddings()(torch.tensor([token])))
            continue
        wave, rate = spoken[next(following).id]
        wave = torch.from_numpy(resample(wave, rate, model.sample_rate))[None]
        expected.append(model.speech_embeddings(wave, torch.tensor([wave.shape[1]]))[0])
    torch.testing.assert_close(heard, torch.cat(expected), rtol=1e-4, atol=1e-4)
    words = iter(one.asked for one in (*examples, item))
    in_words = []
    for token in marked:
        is_mark = token == processor.config.audio_token_id
        in_words += processor.ids(" " + next(words))[1:] if is_mark else [token]
    assert in_words == ids, "what stands around a question is not the same in both conditions"


# ---- accuracy


def rows(text: list[bool], speech: list[bool]) -> list[dict]:
    return [
        {"answer": 2, "text_choice": 2 if t else 0, "speech_choice": 2 if s else 1}
        for t, s in zip(text, speech, strict=True)
    ]


def test_accuracies_and_their_gap():
    found = accuracy(rows([True] * 60 + [False] * 40, [True] * 30 + [False] * 70))
    assert found["items"] == 100
    assert (found["text"]["correct"], found["text"]["accuracy"]) == (60, 0.6)
    assert (found["speech"]["correct"], found["speech"]["accuracy"]) == (30, 0.3)
    assert found["gap"]["mean"] == pytest.approx(0.3)
    half = 1.96 * np.sqrt(0.6 * 0.4 / 100)
    assert found["text"]["ci"] == pytest.approx([0.6 - half, 0.6 + half], abs=0.02)
    gap = np.array([1.0] * 30 + [0.0] * 70)  # 30 items are right in text only: paired, not 60 against 30
    half = 1.96 * gap.std() / 10
    assert found["gap"]["ci"] == pytest.approx([0.3 - half, 0.3 + half], abs=0.02)


def test_the_gap_is_paired():
    """Each condition is uncertain; their difference is not."""
    right = [True, False] * 50
    found = accuracy(rows(right, right))
    assert found["gap"] == {"mean": 0.0, "ci": [0.0, 0.0]} and found["text"]["ci"] == found["speech"]["ci"]
    assert found["text"]["ci"][0] < 0.45 and found["text"]["ci"][1] > 0.55
    worse = accuracy(rows([False] * 4, [True] * 4))
    assert worse["gap"] == {"mean": -1.0, "ci": [-1.0, -1.0]}


# ---- the whole of it


@pytest.fixture
def read_once(monkeypatch, task, pool):
    """WordNet's items take seconds to read: these tests share them."""
    monkeypatch.setitem(TASKS, "wordnet", replace(task, load=lambda recipe: pool))


@pytest.mark.usefixtures("read_once")
def test_evaluation_end_to_end(recipe, student, student_dir, processor, task, pool):
    result = evaluate_checkpoint(recipe, str(student_dir))
    (path,) = recipe.path("evaluate").glob("*.json")
    assert path.name.startswith(f"{student_dir.parent.name}-{student_dir.name}-"), "named by where the student lies"
    assert json.loads(path.read_text()) == json.loads(json.dumps(result))
    assert (result["schema"], result["items"], result["shots"], result["chance"]) == (1, 5, 0, 0.25)
    assert result["template"] == "Definition: {asked}\nWord:"
    assert [row["id"] for row in result["rows"]] == [item.id for item in pool[:5]]
    spoken = spoken_items(recipe, task, pool[:5])
    model, tokenizer = student
    for row, item in zip(result["rows"], pool[:5], strict=True):
        options = [tokenizer(option, add_special_tokens=False)["input_ids"] for option in item.options]
        for condition, sound in (("text", None), ("speech", spoken)):
            prompt = embed(model, processor, task, item, [], sound, torch.device("cpu"))
            (scores,) = score_options(model, [prompt], [options])
            assert row[f"{condition}_scores"] == pytest.approx(scores, abs=2e-5)
            assert row[f"{condition}_choice"] == int(np.argmax(scores)) and row["answer"] == item.answer
    assert result["text"]["correct"] == sum(row["text_choice"] == row["answer"] for row in result["rows"])
    assert any(row["text_scores"] != row["speech_scores"] for row in result["rows"])

    before = path.stat().st_mtime_ns
    assert evaluate_checkpoint(recipe, str(student_dir)) == result and path.stat().st_mtime_ns == before


@pytest.mark.usefixtures("read_once")
def test_worked_examples_are_none_of_the_items(recipe, student, pool):
    recipe.evaluate.items, recipe.evaluate.shots = 2, 1
    result = evaluate(recipe, "one-shot", lambda: student, "x")
    assert result["shots"] == 1 and result["items"] == 2
    recipe.evaluate.shots = 0  # the speech of fewer items is other speech, and not in the way
    plain = evaluate(recipe, "no-shot", lambda: student, "x")
    assert [row["id"] for row in plain["rows"]] == [row["id"] for row in result["rows"]]
    assert plain["rows"][0]["text_scores"] != result["rows"][0]["text_scores"]
    assert plain["rows"][0]["speech_scores"] != result["rows"][0]["speech_scores"]
    recipe.evaluate.items, recipe.evaluate.shots = len(pool), 1
    with pytest.raises(RecipeError, match="1 worked are more"):
        evaluate(recipe, "too-many", lambda: student, "x")
    recipe.evaluate.items = 0
    with pytest.raises(RecipeError, match="no items"):
        evaluate(recipe, "none", lambda: student, "x")
    with pytest.raises(RecipeError, match="the tasks are wordnet"):
        load_task("wordnett")
