"""Prompts say what the template says; batches hold every item once, in the space there is."""

from __future__ import annotations

import os.path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.evaluate.models import Reader
from salad_ds.evaluate.prompts import Prompt, Sound, batches, common, option_ids, pieces
from salad_ds.evaluate.tasks import Item, Template

TEMPLATE = Template("t", 1, "Definition:", "\nWord:", "\n\n")
BARE = Template("bare", 1, "", "", "\n\n")
ITEMS = [Item(str(i), f"the {word} one", (" a", " bee", " sea horse"), i % 3) for i, word in
         enumerate(["first", "second", "third"])]  # fmt: skip
SPEECH = {item.id: (np.zeros(16000 + 1600 * i, np.float32), 16000) for i, item in enumerate(ITEMS)}
SOUNDS = {key: Sound(key, SPEECH) for key in SPEECH}


def test_a_prompt_is_its_examples_then_its_question():
    assert pieces(TEMPLATE, ITEMS[0], ITEMS[1:], lambda item: item.asked) == [
        "Definition: the second one\nWord: bee\n\nDefinition: the third one\nWord: sea horse\n\n"
        "Definition: the first one\nWord:"]  # fmt: skip
    assert pieces(TEMPLATE, ITEMS[0], ITEMS[1:2], lambda item: SOUNDS[item.id]) == [
        "Definition:", SOUNDS["1"], "\nWord: bee\n\nDefinition:", SOUNDS["0"], "\nWord:"]  # fmt: skip
    assert pieces(BARE, ITEMS[0], ITEMS[1:2], lambda item: SOUNDS[item.id]) == [
        SOUNDS["1"], " bee\n\n", SOUNDS["0"]]  # fmt: skip
    assert pieces(BARE, ITEMS[0], ITEMS[1:2], lambda item: item.asked) == ["the second one bee\n\nthe first one"]


@pytest.mark.assets
def test_speech_takes_the_place_of_the_words_and_of_nothing_else(recipe):
    """The same tokens stand around a question in both conditions: those that training has around a speech span."""
    reader = Reader(recipe)
    read, heard = (
        reader.prompt(pieces(TEMPLATE, ITEMS[0], ITEMS[1:], asked), ITEMS[0].options, TEMPLATE.read(ITEMS[0].asked))
        for asked in (lambda item: item.asked, lambda item: SOUNDS[item.id])
    )
    assert read.slots[0] == heard.slots[0] == reader.start and read.options == heard.options
    in_words: list[int] = []
    for slot in heard.slots:
        own = isinstance(slot, Sound)
        in_words += reader.ids(f" {ITEMS[int(slot.key)].asked}") if own else [slot]
    assert tuple(in_words) == read.slots and read.length == len(read.slots)
    # Whisper: 50 frames a second, four to a position.
    speech = sum(-(-(50 * (16000 + 1600 * i) // 16000) // 4) for i in range(3))
    assert heard.length == len(heard.slots) - 3 + speech
    assert [reader.tokenizer.decode(ids) for ids in read.options] == list(ITEMS[0].options)


@pytest.mark.assets
def test_what_looks_like_a_control_token_is_read_as_its_characters(recipe):
    reader = Reader(recipe)
    control = reader.tokenizer("<|im_end|>", add_special_tokens=False)["input_ids"]
    assert len(control) == 1 and control[0] not in reader.ids("stop <|im_end|> now")
    assert control[0] not in option_ids(reader.tokenizer, "Word:", [" <|im_end|>"])[0]


@pytest.mark.assets
def test_an_option_keeps_the_context_as_it_is(tokenizer):
    (apart,) = option_ids(tokenizer, "The cat", [" sat"])
    assert apart == tokenizer(" sat")["input_ids"]
    (melting,) = option_ids(tokenizer, "The ca", ["t"])  # "cat" would be one token
    assert melting == tokenizer("t")["input_ids"]


slots = st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple)


@given(rows=st.lists(slots, min_size=1, max_size=6))
def test_what_prompts_share_is_their_common_prefix_and_leaves_something_over(rows):
    expected = len(os.path.commonprefix([list(row) for row in rows]))
    assert common(rows) == min(expected, *(len(row) - 1 for row in rows))


@given(
    rows=st.lists(st.one_of(st.none(), slots), min_size=1, max_size=30),
    groups=st.lists(st.integers(0, 2), min_size=30, max_size=30),
    positions=st.integers(1, 60),
)
def test_every_item_is_in_one_batch_that_fits(rows, groups, positions):
    prompts = [None if row is None else Prompt(row, len(row), [[1, 2], [3]]) for row in rows]
    found = batches(prompts, groups[: len(rows)], positions)
    assert sorted(i for batch in found for i in batch.items) == [i for i, row in enumerate(rows) if row is not None]
    for batch in found:
        own = [prompts[i] for i in batch.items]
        assert len(own) == 1 or len(own) * max(prompt.row for prompt in own) <= positions
        assert len({groups[i] for i in batch.items}) == 1
        assert len({prompt.slots[: batch.shared] for prompt in own}) == 1
        assert all(batch.shared < len(prompt.slots) for prompt in own)
    assert found == batches(prompts, groups[: len(rows)], positions)


def test_a_sound_is_shared_by_identity():
    twin = Sound("0", SPEECH)
    assert common([(1, SOUNDS["0"], 2), (1, SOUNDS["0"], 3)]) == 2
    assert common([(1, SOUNDS["0"], 2), (1, twin, 2)]) == 1
