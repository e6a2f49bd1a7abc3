import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.config import CHOICES, SynthConfig
from salad_ds.errors import DataError, RecipeError
from salad_ds.synth.engine import ENGINES, item_seed, load_engine, word_times


@st.composite
def spoken(draw):
    n = draw(st.integers(1, 12))
    edges = sorted(draw(st.lists(st.floats(-0.1, 10), min_size=2 * n, max_size=2 * n)))
    spans = [(edges[2 * i], edges[2 * i + 1]) if draw(st.booleans()) else None for i in range(n)]
    owner = sorted(draw(st.lists(st.integers(0, n), min_size=n, max_size=n)))
    return spans, owner, n + 1


@given(spoken(), st.floats(5, 12))
def test_one_ordered_interval_inside_the_audio_per_original_word(case, seconds):
    spans, owner, n_words = case
    if not any(spans):
        with pytest.raises(DataError):
            word_times(spans, owner, n_words, seconds)
        return
    words = word_times(spans, owner, n_words, seconds)
    assert len(words) == n_words
    for word, following in zip(words, [*words[1:], None], strict=True):
        assert 0 <= word.start <= word.end <= seconds + 1e-4
        assert following is None or word.end <= following.start


def test_words_without_times_share_the_one_before_and_unspoken_words_are_empty():
    words = word_times([(1.0, 2.0), None, (3.0, 4.0)], [0, 1, 3], 4, 5.0)
    assert [(word.start, word.end) for word in words] == [(1.0, 1.5), (1.5, 2.0), (3.0, 3.0), (3.0, 4.0)]


def test_several_spoken_words_of_one_original_make_one_interval():
    words = word_times([(0.0, 1.0), (1.1, 2.0), (2.0, 3.0)], [0, 0, 1], 2, 3.0)
    assert [(word.start, word.end) for word in words] == [(0.0, 2.0), (2.0, 3.0)]


def test_seeds_are_fixed_and_differ_by_key_and_seed():
    assert item_seed(0, "a") == item_seed(0, "a") != item_seed(0, "b")
    assert item_seed(1, "a") != item_seed(0, "a")
    assert item_seed(0, "0001") == 1136448607, "a change here changes every voice and every wave"


def test_an_unknown_engine_is_a_recipe_error():
    with pytest.raises(RecipeError, match=", ".join(ENGINES)):
        load_engine(SynthConfig(engine="hiberi"))
    assert set(ENGINES) == set(dict((entry[:2], entry[2]) for entry in CHOICES)["synth", "engine"])
