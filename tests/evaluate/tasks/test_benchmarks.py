"""Published records become the items that lm-evaluation-harness makes of them; what is none is counted and named."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.config import Recipe, TaskConfig
from salad_ds.errors import DataError
from salad_ds.evaluate.tasks import load_task
from salad_ds.evaluate.tasks.hellaswag import cleaned
from salad_ds.evaluate.tasks.items import Item, Unusable
from salad_ds.evaluate.tasks.voicebench import LETTERS, split_prompt
from tests.evaluate.tasks import published


def load(name: str, source, shots: int = 0, **more):
    """By id: the order is that of a hash."""
    task = load_task(TaskConfig(name, str(source), shots=shots, **more), Recipe(name="tasks", workdir="/nowhere"))
    return task, {item.id: item for item in task.items}


# ---- one by one


def test_openbookqa_in_both_shapes(tmp_path):
    lines = published.jsonl(tmp_path / "lines/test.jsonl", published.OPENBOOKQA)
    rows = [published.as_columns(record, "question_stem") for record in published.OPENBOOKQA]
    hub = published.parquet(tmp_path / "main/test-00000-of-00001.parquet", rows)
    task, items = load("openbookqa", lines)
    assert items == load("openbookqa", hub)[1] and len(items) == 3 and not task.left_out
    assert items["7-980"] == Item("7-980", "The sun is responsible for", (
        " puppies learning new tricks", " children growing up and getting old", " flowers wilting in a vase",
        " plants sprouting, blooming and wilting"), 3)  # fmt: skip
    assert task.prompt(items["7-980"]) == "The sun is responsible for"


def test_arc_in_both_shapes_and_with_numbered_choices(tmp_path):
    lines = published.jsonl(tmp_path / "ARC-Challenge/ARC-Challenge-Test.jsonl", published.ARC)
    published.jsonl(tmp_path / "ARC-Easy/ARC-Easy-Test.jsonl", published.ARC[:2])
    hub = published.parquet(tmp_path / "hub.parquet", [published.as_columns(r, "question") for r in published.ARC])
    task, items = load("arc_challenge", tmp_path)
    assert items == load("arc_challenge", lines)[1] == load("arc_challenge", hub)[1] and len(items) == 3
    assert items["MEA_2013_8_15"].answer == 0 and len(items["MEA_2013_8_15"].options) == 3
    assert task.prompt(items["MCAS_2000_4_6"]) == "Question: Which technology was developed most recently?\nAnswer:"
    assert len(load("arc_easy", tmp_path)[1]) == 2


def test_hellaswag(tmp_path):
    path = published.jsonl(tmp_path / "hellaswag_val.jsonl", published.HELLASWAG)
    items = load("hellaswag", path)[1]
    assert items["24"].asked == "Roof shingle removal: A man is sitting on a roof. He"
    assert items["24"].options[3] == " starts pulling up roofing on a roof." and items["24"].answer == 3
    assert items["2"].asked == "Home and garden: How to wash a cup. Rinse it. Hold the cup under water."
    assert items["2"].options[0] == " Add a drop of soap. Rub it with a sponge."
    assert {item.domain for item in items.values()} == {"activitynet", "wikihow"}
    hub = published.parquet(tmp_path / "hub.parquet", [r | {"label": str(r["label"])} for r in published.HELLASWAG])
    assert load("hellaswag", hub)[1] == items


@given(st.lists(st.sampled_from(["a", " ", "[title]", " [title]", "[step]", "[", "]", "how"]), max_size=12))
def test_hellaswag_is_cleaned_as_the_harness_does(parts):
    """The steps of lm_eval/tasks/hellaswag/utils.py, in its order."""
    text = "".join(parts)
    steps = text.strip().replace(" [title]", ". ")
    kept, inside = "", False
    for place, sign in enumerate(steps):  # brackets and what is between them, each to the nearest that closes
        if sign == "[" and not inside and "]" in steps[place:]:
            inside = True
        if not inside:
            kept += sign
        inside = inside and sign != "]"
    assert cleaned(text) == kept.replace("  ", " ")


def test_piqa_with_labels_beside_and_within(tmp_path):
    path = published.piqa(tmp_path, "dev", published.PIQA, published.PIQA_LABELS)
    items = load("piqa", path)[1]
    assert {item.options[item.answer] for item in items.values()} == {
        " Pour it into a jar", " Weld the metal together to get it to stay firmly in place"}  # fmt: skip
    bare = [{name: value for name, value in r.items() if name != "id"} | {"label": label}
            for r, label in zip(published.PIQA, published.PIQA_LABELS, strict=True)]  # fmt: skip
    hub = load("piqa", published.parquet(tmp_path / "validation-00000-of-00001.parquet", bare))[1]
    assert sorted(hub) == ["validation-1", "validation-2"]
    assert {item.asked for item in hub.values()} == {item.asked for item in items.values()}
    published.piqa(tmp_path, "dev", published.PIQA, [1])
    with pytest.raises(DataError, match=r"dev.jsonl has 2 records, dev-labels.lst has 1 answers"):
        load("piqa", path)
    (tmp_path / "dev-labels.lst").unlink()
    with pytest.raises(DataError, match="dev.jsonl is not piqa: it has id, goal, sol1, sol2"):
        load("piqa", path)


def test_storycloze_in_both_shapes(tmp_path):
    path = published.table(tmp_path / "cloze_test_test__spring2016.csv", published.STORYCLOZE)
    task, items = load("storycloze", path)
    item = items["0a1b2c3d-0000-4000-8000-000000000002"]
    assert item.asked == "Tom baked a cake. He forgot it in the oven. Smoke filled the kitchen. Tom opened the windows."
    assert item.options == (" The cake was delicious.", " Tom threw the cake away.") and item.answer == 1
    assert task.prompt(item) == item.asked
    names = {"InputStoryid": "story_id", "AnswerRightEnding": "answer_right_ending"}
    names |= {f"InputSentence{n}": f"input_sentence_{n}" for n in range(1, 5)}
    names |= {f"RandomFifthSentenceQuiz{n}": f"sentence_quiz{n}" for n in (1, 2)}
    rows = [{names[key]: value for key, value in record.items()} for record in published.STORYCLOZE]
    assert load("storycloze", published.parquet(tmp_path / "hub.parquet", rows))[1] == items


def test_storycloze_of_2018_is_asked_where_it_has_answers(tmp_path):
    hidden = [{k: v for k, v in r.items() if k != "AnswerRightEnding"} for r in published.STORYCLOZE]
    published.table(tmp_path / "cloze_test_test__winter2018-cloze_test_ALL_test - 1.csv", hidden)
    published.table(tmp_path / "cloze_test_val__winter2018-cloze_test_ALL_val - 1 - 1.csv", published.STORYCLOZE)
    assert len(load("storycloze", tmp_path)[1]) == 3


def test_mmlu_in_both_shapes(tmp_path):
    rows = [{"q": 'What is "it", then?', "A": "one", "B": "two", "C": "1,000", "D": "none", "answer": "C"},
            {"q": "How many\nlines?", "A": "one", "B": "two", "C": "three", "D": "four", "answer": "B"}]  # fmt: skip
    published.table(tmp_path / "data/test/anatomy_test.csv", rows, head=False)
    published.table(tmp_path / "data/test/astronomy_test.csv", rows[:1], head=False)
    items = load("mmlu", tmp_path / "data")[1]
    assert sorted(items) == ["test-anatomy_test-1", "test-anatomy_test-2", "test-astronomy_test-1"]
    item = items["test-anatomy_test-1"]
    assert (item.asked, item.options[2], item.answer, item.domain) == ('What is "it", then?', " 1,000", 2, "anatomy")
    hub = [{"question": r["q"], "subject": "anatomy", "choices": [r[x] for x in "ABCD"], "answer": "ABCD".index(
        r["answer"])} for r in rows]  # fmt: skip
    found = load("mmlu", published.parquet(tmp_path / "all/test-00000-of-00001.parquet", hub))[1]
    assert found["test-1"].options == item.options and found["test-2"].answer == 1


def test_voicebench_without_its_sound_asks_the_question_alone(tmp_path):
    path = published.parquet(tmp_path / "mmsu/law-00000-of-00001.parquet", published.VOICEBENCH)
    published.parquet(tmp_path / "mmsu/physics-00000-of-00001.parquet", published.VOICEBENCH[:1])
    task, items = load("mmsu", tmp_path / "mmsu")
    assert sorted(items) == ["law-1", "law-2", "law-3", "physics-1"] and task.template.name == "mmsu"
    assert items["law-1"].asked == "The summer solstice in the northern hemisphere is four months before"
    assert items["law-1"].options == (" May", " July", " April", " October") and items["law-1"].answer == 3
    assert items["physics-1"].domain == "physics" and items["law-2"].domain == "law"
    assert load("openbookqa", path)[1]["law-2"].asked == "An electric car runs on electricity via"


option = st.text(st.characters(codec="ascii", exclude_characters="\r\n\v\f\x1c\x1d\x1e"), min_size=1).map(
    lambda text: f"x{text.strip()}")


@given(question=option, options=st.lists(option, min_size=2, max_size=10), second=st.booleans(), closing=st.booleans())
def test_options_are_found_in_any_prompt(question, options, second, closing):
    """Also behind a question with a line that begins like an option, and with options of two lines."""
    asked = f"{question}\nA. is said by some\nWho is right?" if second else question
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False)]
    end = "\nWhat is the answer to the above multiple choice question? Select one of the following: A, or B."
    found = split_prompt("\n".join([asked, *lines]) + (end if closing else ""))
    assert found == (asked, options)
    lines[0] += "\nand more"
    assert split_prompt("\n".join([asked, *lines]))[1][0] == f"{options[0]} and more"


@pytest.mark.parametrize("prompt", ["", "What now?", "A. one", "Which?\nB. two\nC. three", "A.one\nB.two"])
def test_a_prompt_without_options(prompt):
    with pytest.raises(Unusable, match="no options in the prompt"):
        split_prompt(prompt)


# ---- bad records


def spoil(record: dict, **change) -> dict:
    return copy.deepcopy(record) | change


def test_what_is_no_item_is_counted_by_reason_and_named(tmp_path):
    good = [spoil(published.OPENBOOKQA[0], id=f"g-{n}") for n in range(200)]
    stem = published.OPENBOOKQA[0]["question"]
    bad = [
        spoil(good[0], id="empty", question=stem | {"stem": "  "}),
        spoil(good[0], id="one", question=stem | {"choices": stem["choices"][3:]}),
        spoil(good[0], id="label", answerKey="E"),
        spoil(good[0], id="twice", question=stem | {"choices": [stem["choices"][3]] * 2}),
        spoil(good[0], id="blank", question=stem | {"choices": [*stem["choices"][1:], {"text": " ", "label": "A"}]}),
        spoil(good[0], id="shape", question="The sun"),
        spoil(good[0]),
        '{"id": "cut',
    ]
    path = published.jsonl(tmp_path / "test.jsonl", [*good, *bad])
    task, items = load("openbookqa", path)
    assert len(items) == 200
    told = {reason: (row["count"], row["examples"]) for reason, row in task.left_out.items()}
    assert told == {
        "no question": (1, ["test.jsonl:201"]), "fewer than two options": (1, ["test.jsonl:202: 1"]),
        "the answer is none of the options": (2, ["test.jsonl:203: 'E' of A, B, C, D", "test.jsonl:204: 'D' of D, D"]),
        "an empty option": (1, ["test.jsonl:205"]), "duplicate id": (1, ["g-0: test.jsonl:207"]),
        "not of its file's shape": (1, [told["not of its file's shape"][1][0]]),
        "does not parse": (1, ["test.jsonl:208"]),
    }  # fmt: skip
    assert told["not of its file's shape"][1][0].startswith('test.jsonl:206: {"id": "shape"')
    published.jsonl(path, [*good[:60], *bad])
    with pytest.raises(DataError, match=r"openbookqa: 8 of 68 records in .* are no items: 2 the answer is none of"):
        load("openbookqa", path)


@pytest.mark.parametrize("name, records, reason", [
    ("hellaswag", [spoil(published.HELLASWAG[0], label="")], "no answer"),
    ("hellaswag", [spoil(published.HELLASWAG[0], label=4)], "the answer is none of the options"),
    ("hellaswag", [spoil(published.HELLASWAG[0], endings=["he", None])], "not of its file's shape"),
    ("piqa", [published.PIQA[0] | {"label": 1, "sol2": None}], "an option is no text"),
    ("storycloze", [spoil(published.STORYCLOZE[0], AnswerRightEnding="")], "AnswerRightEnding is no number"),
    ("storycloze", [spoil(published.STORYCLOZE[0], AnswerRightEnding=1.5)], "AnswerRightEnding is no number"),
    ("storycloze", [spoil(published.STORYCLOZE[0], AnswerRightEnding=3)], "the answer is none of the options"),
    ("piqa", [published.PIQA[0] | {"label": -1}], "the answer is none of the options"),
    ("mmsu", [published.VOICEBENCH[0] | {"reference": "E"}], "the answer is none of the options"),
    ("mmsu", [published.VOICEBENCH[0] | {"prompt": "Who?"}], "no options in the prompt"),
    ("mmsu", [published.VOICEBENCH[0] | {"reference": None}], "no reference"),
])  # fmt: skip
def test_wrong_labels(tmp_path, name, records, reason):
    with pytest.raises(DataError, match=f"{name}: 1 of 1 records in .* are no items: 1 {reason}"):
        load(name, published.jsonl(tmp_path / "validation.jsonl", records))


@pytest.mark.parametrize("name", ["storycloze", "mmsu", "openbookqa", "hellaswag", "arc_challenge", "piqa", "mmlu"])
def test_a_file_of_something_else_is_one_clear_error(tmp_path, name):
    for path in (published.jsonl(tmp_path / "test.jsonl", [{"premise": "a", "hypothesis": "b"}]),
                 published.table(tmp_path / "test.csv", [{"premise": "a", "hypothesis": "b"}])):  # fmt: skip
        with pytest.raises(DataError, match=f"is not {name}: it has (premise, hypothesis|no records)") as error:
            load(name, path)
        assert "give files with " in error.value.mend
    with pytest.raises(DataError, match=f"is not {name}: it has no records"):
        load(name, published.jsonl(tmp_path / "empty.jsonl", []))
