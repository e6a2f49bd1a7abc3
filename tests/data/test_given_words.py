"""Word times that somebody else made: sound ones are taken as they are, all others refused by a reason."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.data.given_words import OVER, given_words
from salad_ds.data.word_times import Word, check_words
from salad_ds.errors import DataError

TIME = st.one_of(st.floats(-1, 12), st.floats(), st.integers(), st.none(), st.text(max_size=3))
ROWS = st.one_of(st.lists(st.one_of(st.lists(TIME, max_size=4), TIME), max_size=4), TIME)


@given(st.lists(st.floats(0, 10), min_size=2, max_size=12).filter(lambda values: len(values) % 2 == 0))
def test_times_in_order_are_taken(values):
    values.sort()
    rows = [list(pair) for pair in zip(values[::2], values[1::2], strict=True)]
    text = " ".join("x" * len(rows))
    assert given_words(rows, text, 10.0) == tuple(Word(start, end, 1.0) for start, end in rows)
    with pytest.raises(DataError, match="not one per word"):
        given_words(rows, f"{text} more", 10.0)


@given(ROWS, st.sampled_from(["", "one", "one two", "one two three"]))
def test_anything_else_is_refused(rows, text):
    try:
        words = given_words(rows, text, 10.0)
    except DataError as error:
        assert error.what.startswith("word times left out: ")
        return
    check_words(words, "")
    assert len(words) == len(text.split()) and all(word.end <= 10.0 for word in words)


def test_small_faults_are_cut_and_scores_are_probabilities():
    words = given_words([[-0.05, 1, 0.5], [1, 2, None], [2, 3, -7.5], [3, 10 + OVER / 2]], "a b c d", 10.0)
    assert words == (Word(0.0, 1.0, 0.5), Word(1.0, 2.0, 1.0), Word(2.0, 3.0, 1.0), Word(3.0, 10.0, 1.0))
    for row in ([-1, 1], [1, 10.2], [2, 1], [math.nan, 1], [0, math.inf], [10**400, 1]):
        with pytest.raises(DataError, match="word times left out"):
            given_words([row], "a", 10.0)
