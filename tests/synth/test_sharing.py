from hypothesis import given
from hypothesis import strategies as st

from salad_ds.synth.sharing import CONTEXT, LONGEST, common, islands, shared

WORDS = st.sampled_from("a b c d e".split())


def test_what_is_the_same_stays_and_what_lies_between_is_divided_in_order():
    assert shared([("in",), ("three", "dollars"), ("million",)], ("in", "three", "million", "dollars"),
                  [False, True, False]) == [["in"], ["three"], ["million", "dollars"]]
    assert shared([("May",), ("five",), ("one", "thousand", "nine")], ("May", "fifth", "nineteen", "oh", "nine"),
                  [False, True, True]) == [["May"], ["fifth"], ["nineteen", "oh", "nine"]]
    assert shared([(), ("x",)], (), [True, False]) == [[], []]
    assert shared([(), ()], ("x",), [True, True]) == [["x"], []]


@given(st.lists(st.lists(WORDS, max_size=3).map(tuple), min_size=1, max_size=6), st.lists(WORDS, max_size=8),
       st.data())
def test_every_word_is_given_once_and_in_order(alone, together, data):
    hard = data.draw(st.lists(st.booleans(), min_size=len(alone), max_size=len(alone)))
    assert [word for group in shared(alone, tuple(together), hard) for word in group] == together
    assert shared(alone, tuple(w for one in alone for w in one), hard) == [list(one) for one in alone]


@given(st.lists(WORDS, max_size=7), st.lists(WORDS, max_size=7))
def test_pairs_are_equal_words_in_order(a, b):
    pairs = common(a, b, [1] * len(a))
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(i < k and j < m for (i, j), (k, m) in zip(pairs, pairs[1:], strict=False))
    assert common(a, a, [1] * len(a)) == [(i, i) for i in range(len(a))]


@given(st.lists(st.booleans(), max_size=150))
def test_islands_hold_what_is_hard_and_do_not_touch(hard):
    found = islands(hard)
    assert all(0 <= begin < end <= len(hard) and end - begin <= LONGEST for begin, end in found)
    assert all(one[1] <= other[0] for one, other in zip(found, found[1:], strict=False))
    assert {i for i, is_one in enumerate(hard) if is_one} <= {i for begin, end in found for i in range(begin, end)}
    if hard.count(True) == 1:
        at = hard.index(True)
        assert found == [(max(at - CONTEXT, 0), min(at + CONTEXT + 1, len(hard)))]
