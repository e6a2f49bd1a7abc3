"""Which items are asked, in which order, which are worked examples; and the two tasks that need no download."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from data_prep.wordnet import is_held_out, prepare_wordnet
from salad_ds.assets import resolve
from salad_ds.config import CorpusConfig, Recipe, TaskConfig
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError, RecipeError
from salad_ds.evaluate.tasks import NAMES, load_task
from salad_ds.files import digest_of
from tests.evaluate.tasks import published


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return Recipe(name="tasks", workdir=str(tmp_path / "work"))


def many(count: int) -> list[dict]:
    """Questions that differ, in OpenBookQA's layout."""
    return [{"id": f"q-{n}", "question": {"stem": f"What is number {n}?", "choices": [
        {"text": f"{n}", "label": "A"}, {"text": "none", "label": "B"}]}, "answerKey": "A"}
        for n in range(count)]  # fmt: skip


def test_more_items_are_the_fewer_and_others(tmp_path, recipe):
    path = published.jsonl(tmp_path / "all.jsonl", many(50))
    few, more, every = (load_task(TaskConfig("openbookqa", str(path), items=n, shots=0), recipe) for n in (5, 20, 0))
    assert more.items[:5] == few.items and every.items[:20] == more.items and len(every.items) == 50
    assert [item.id for item in every.items] != [f"q-{n}" for n in range(50)], "not in the order of the file"
    other = published.jsonl(tmp_path / "reversed.jsonl", many(50)[::-1])
    assert load_task(TaskConfig("openbookqa", str(other), items=5, shots=0), recipe).items == few.items


def test_examples_come_from_the_training_split_and_are_never_asked(tmp_path, recipe):
    published.jsonl(tmp_path / "Data/Main/test.jsonl", many(10))
    published.jsonl(tmp_path / "Data/Main/train.jsonl", [many(40)[n] | {"id": f"q-{n - 8}"} for n in range(8, 40)])
    published.jsonl(tmp_path / "Data/Main/dev.jsonl", many(3))
    task = load_task(TaskConfig("openbookqa", str(tmp_path), shots=5), recipe)
    assert len(task.items) == 10 and len(task.examples) == 5
    assert not {item.asked for item in task.items} & {item.asked for item in task.examples}
    assert len({item.id for item in task.items + task.examples}) == 15, "ids of two splits may be the same"
    keys = [task.key(item) for item in task.items + task.examples]
    assert len(set(keys)) == 15


def test_without_one_examples_are_the_last_of_the_order(tmp_path, recipe):
    rows = many(12)
    rows[3]["question"]["stem"] = rows[4]["question"]["stem"]  # the same question, twice
    path = published.jsonl(tmp_path / "a.jsonl", rows)
    task = load_task(TaskConfig("openbookqa", str(path), shots=4), recipe)
    assert len(task.items) == 8 and len(task.examples) == 4
    assert not {item.asked for item in task.items} & {item.asked for item in task.examples}
    fewer = load_task(TaskConfig("openbookqa", str(path), items=3, shots=4), recipe)
    assert fewer.examples == task.examples and fewer.items == task.items[:3]
    none = load_task(TaskConfig("openbookqa", str(path), shots=0), recipe)
    assert none.examples == [] and len(none.items) == 12
    with pytest.raises(RecipeError, match="has 12 items: 9 asked and 4 worked are more"):
        load_task(TaskConfig("openbookqa", str(path), items=9, shots=4), recipe)
    with pytest.raises(RecipeError, match="has 12 items: all asked and 50 worked are more"):
        load_task(TaskConfig("openbookqa", str(path), shots=50), recipe)


@pytest.mark.parametrize("task, error, why", [
    (TaskConfig("hellaswagg"), RecipeError, "did you mean 'hellaswag'"),
    (TaskConfig("piqa"), RecipeError, "task piqa has no source"),
    (TaskConfig("piqa", "/nowhere/piqa"), DataError, "/nowhere/piqa does not exist"),
    (TaskConfig("wordnet", speech="/somewhere"), RecipeError, "wordnet has no published speech"),
])  # fmt: skip
def test_what_cannot_be_loaded(recipe, task, error, why):
    with pytest.raises(error, match=why):
        load_task(task, recipe)


def test_the_split_without_answers_is_not_taken_for_the_scored_one(tmp_path, recipe):
    published.jsonl(tmp_path / "hellaswag_test.jsonl", published.HELLASWAG)
    with pytest.raises(DataError, match="holds test alone of hellaswag") as error:
        load_task(TaskConfig("hellaswag", str(tmp_path), shots=0), recipe)
    assert error.value.mend == "give its validation split"


def test_a_result_says_what_it_was_asked_with(tmp_path, recipe):
    path = published.jsonl(tmp_path / "a.jsonl", many(9))
    made = [load_task(TaskConfig("openbookqa", str(path), shots=shots), recipe).made_from() for shots in (0, 1, 1)]
    assert made[1] == made[2] != made[0]
    assert made[0]["template"]["version"] == 1 and made[0]["template"]["after"] == ""
    assert load_task(TaskConfig("arc_easy", str(published.jsonl(path, published.ARC)), shots=0),
                     recipe).made_from()["template"]["after"] == "\nAnswer:"  # fmt: skip


# ---- without a download


@pytest.fixture(scope="module")
def wordnet():
    return load_task(TaskConfig("wordnet", shots=0), Recipe(name="pool", workdir="/nowhere")).items


@pytest.mark.assets
def test_wordnet_items_are_sound_and_their_answers_anywhere(wordnet):
    assert len(wordnet) == 589 and len({item.id for item in wordnet}) == len(wordnet)
    assert len({item.domain for item in wordnet[:100]}) > 10, "the first items are of one kind"
    for item in wordnet:
        assert len(set(item.options)) == 4 and all(option.startswith(" ") for option in item.options)
        assert item.options[item.answer].strip() not in item.asked.lower()
    places = Counter(item.answer for item in wordnet)
    assert all(abs(places[k] - len(wordnet) / 4) < 4 * np.sqrt(len(wordnet) * 3 / 16) for k in range(4))


@pytest.mark.assets
def test_wordnet_items_are_those_of_earlier_results(wordnet):
    """Results name the version: whoever changes an item raises it."""
    told = digest_of([[item.id, item.asked, item.options, item.answer, item.domain] for item in wordnet])
    assert told == "a113f4df4db3d2abaeb3c3ac558178ac"


@pytest.mark.assets
def test_no_wordnet_item_is_in_a_text_to_train_on(wordnet, tmp_path):
    """The whole of WordNet is compared in tests/data_prep/test_wordnet.py; here: what the task asks."""
    prepare_wordnet(resolve("packaged:wordnet"), tmp_path, limit=2000)
    shards = ShardSet.open(tmp_path)
    told = "\n".join(shards.read(i).text.lower() for i in range(len(shards)))
    assert all(is_held_out(int(item.id)) for item in wordnet)
    assert not [item for item in wordnet if item.asked.lower() in told]


@pytest.mark.assets
def test_wordnet_is_the_recipes_own_where_it_has_one(recipe):
    recipe.corpora = [CorpusConfig("wordnet", "/nowhere/wordnet", "text")]
    with pytest.raises(DataError, match="/nowhere/wordnet"):
        load_task(TaskConfig("wordnet"), recipe)


@pytest.mark.assets
def test_mmlu_of_the_package(recipe):
    task = load_task(TaskConfig("mmlu", shots=5), recipe)
    assert len(task.items) == 275 and len(task.examples) == 5 and not task.left_out
    assert len({item.domain for item in task.items}) == 57 and {len(item.options) for item in task.items} == {4}
    assert len({item.domain for item in task.items[:40]}) > 20, "the first items are of few subjects"
    asked = {item.asked: item for item in task.items + task.examples}
    item = asked["What is the embryological origin of the hyoid bone?"]
    assert item.domain == "anatomy" and item.options[item.answer] == " The second and third pharyngeal arches"
    assert task.prompt(item) == "Question: What is the embryological origin of the hyoid bone?\nAnswer:"


def test_names():
    assert set(NAMES) >= {"storycloze", "mmsu", "openbookqa", "hellaswag", "arc_challenge", "piqa", "wordnet"}
