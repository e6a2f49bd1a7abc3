"""The span arithmetic of SALAD (arXiv 2510.13632), 'The sequences'."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.data.interleave import Piece, fit, interleave, speech_end


@given(n=st.integers(1, 400), seed=st.integers(0, 2**32))
def test_spans_cover_all_words_alternate_and_keep_to_their_lengths(n, seed):
    spans = interleave(n, np.random.default_rng(seed), (10, 30), (5, 15))
    assert [w for span in spans for w in range(span.first, span.last)] == list(range(n))
    assert all(a.speech != b.speech for a, b in zip(spans, spans[1:], strict=False))
    for span in spans[:-1]:
        low, high = (5, 15) if span.speech else (10, 30)
        assert low <= span.last - span.first <= high
    assert spans[-1].last - spans[-1].first <= (15 if spans[-1].speech else 30)


def test_every_length_and_both_beginnings_occur():
    rng = np.random.default_rng(0)
    spans = [span for _ in range(400) for span in interleave(200, rng, (10, 30), (5, 15))[:-1]]
    assert {s.last - s.first for s in spans if s.speech} == set(range(5, 16))
    assert {s.last - s.first for s in spans if not s.speech} == set(range(10, 31))
    starts = [interleave(50, rng, (10, 30), (5, 15))[0].speech for _ in range(400)]
    assert 140 < sum(starts) < 260


@given(n=st.integers(1, 120), seed=st.integers(0, 999), data=st.data())
def test_spans_begin_only_where_text_and_sound_can_be_cut(n, seed, data):
    can_cut = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    spans = interleave(n, np.random.default_rng(seed), (2, 6), (1, 4), can_cut)
    assert all(can_cut[span.first] for span in spans[1:])
    assert spans[0].first == 0 and spans[-1].last == n


@given(
    lengths=st.lists(st.tuples(st.booleans(), st.integers(1, 40)), min_size=1, max_size=10), context=st.integers(1, 120)
)
def test_what_is_kept_is_a_prefix_that_fits(lengths, context):
    pieces, at = [], 0
    for speech, n in lengths:
        pieces.append(Piece(speech, at, at + n, n))
        at += n
    kept = fit(pieces, context)
    assert sum(piece.positions for piece in kept) <= context
    assert kept[:-1] == pieces[: len(kept) - 1] if kept else True
    if len(kept) < len(pieces):
        following = pieces[len(kept)]
        assert following.speech or sum(piece.positions for piece in kept) == context
    else:
        assert kept == pieces or (not kept[-1].speech and kept[-1].first == pieces[-1].first)


def test_speech_lasts_until_the_next_word_but_not_through_a_pause():
    starts, ends = [0.0, 0.5, 3.0], [0.4, 0.9, 3.4]
    assert speech_end(ends, starts, 1, 4.0) == 0.5
    assert speech_end(ends, starts, 2, 4.0) == 1.2
    assert speech_end(ends, starts, 3, 4.0) == 3.4 + 0.3
    assert speech_end(ends, starts, 3, 3.5) == 3.5
