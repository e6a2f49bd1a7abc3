"""The frames of spans, word by word: what spans take between them is all there is, once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.data.interleave import speech_end
from salad_ds.data.shards import Word
from salad_ds.data.word_frames import WordFrames, word_sounds
from salad_ds.hearing import Hearing

WHISPER = Hearing(16000, ((1, 320),), 480000, 4)


def test_a_word_sounds_until_the_next_begins_and_no_longer_than_its_tail():
    words = [Word(0.1, 0.3, 1.0), Word(0.35, 0.5, 1.0), Word(2.0, 2.4, 1.0)]
    assert word_sounds(words, 2.5) == [(0.1, 0.35), (0.35, 0.8), (2.0, 2.5)]
    frames = WordFrames.of(words, 2.5, WHISPER)
    assert frames.samples == [4000, 7200, 8000] and frames.edges == [0, 13, 36, 61] and frames.frames == 61
    assert frames.taken(0.1, 0.8) == range(0, 36) and list(frames.within(0.35, 2.5)) == [1, 2]


@settings(max_examples=80)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.data())
def test_spans_that_follow_each_other_share_no_frame_and_leave_none_out(lengths, data):
    """Words may have no length at all, as some aligners say of short ones."""
    starts = [sum(lengths[:i]) / 50 for i in range(len(lengths))]
    words = [Word(begin, begin + length / 50, 1.0) for begin, length in zip(starts, lengths, strict=True)]
    duration = sum(lengths) / 50
    frames, ends = WordFrames.of(words, duration, WHISPER), [word.end for word in words]
    cuts = sorted({0, len(words), *data.draw(st.lists(st.integers(0, len(words)), max_size=4))})
    taken = [frames.taken(starts[a], speech_end(ends, starts, b, duration))
             for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    assert [i for span in taken for i in span] == list(range(frames.frames))
