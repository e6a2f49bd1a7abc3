"""Frame arithmetic: spans that touch share no frame and lose none, whatever the times and the encoder."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.errors import DataError
from salad_ds.hearing import Hearing

WHISPER = Hearing(16_000, ((1, 320),), 480_000, stack=4)
MIMI = Hearing(24_000, ((1, 1920),))
WAV2VEC = Hearing(16_000, ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)))
ENCODERS = st.sampled_from([WHISPER, MIMI, WAV2VEC])
TIMES = st.lists(st.integers(0, 300_000).map(lambda n: n / 10_000), min_size=2, max_size=12).map(sorted)


@given(ENCODERS, TIMES)
def test_spans_that_touch_partition_the_frames(hearing, times):
    frames = hearing.frames(hearing.samples(0, 30))
    taken = [hearing.slice(a, b, frames) for a, b in zip(times[:-1], times[1:], strict=True)]
    for (first, last), (following, _) in zip(taken[:-1], taken[1:], strict=True):
        assert first <= last == following
    assert hearing.slice(0, 30, frames) == (0, frames)


@given(ENCODERS, TIMES)
def test_a_frame_belongs_to_the_span_that_its_middle_lies_in(hearing, times):
    """Against the definition, in fractions."""
    frames, rate = hearing.frames(hearing.samples(0, 30)), Fraction(hearing.frame_rate)
    for start, end in zip(times[:-1], times[1:], strict=True):
        first, last = hearing.slice(start, end, frames)
        for frame in {first - 1, first, last - 1, last} & set(range(frames)):
            middle = (frame + Fraction(1, 2)) / rate
            if min(abs(middle - Fraction(time)) for time in (start, end)) > Fraction(1, 10**9):
                assert (Fraction(start) <= middle < Fraction(end)) == (first <= frame < last)


@given(ENCODERS, st.floats(0, 40), st.floats(0, 40), st.integers(0, 1500))
def test_slices_stay_inside_and_differ_from_the_length_by_less_than_a_frame(hearing, start, length, frames):
    first, last = hearing.slice(start, start + length, frames)
    assert 0 <= first <= last <= frames
    if (start + length) * hearing.frame_rate < frames:
        assert abs((last - first) - length * hearing.frame_rate) < 1 + 1e-9


@given(ENCODERS, st.integers(0, 400_000))
def test_frames_positions_and_the_shortest_clip(hearing, samples):
    frames = hearing.frames(samples)
    assert (frames >= 1) == (samples >= hearing.shortest)
    assert hearing.frames(samples + 1) in (frames, frames + 1)
    assert (hearing.positions(frames) - 1) * hearing.stack < frames <= hearing.positions(frames) * hearing.stack


def test_the_numbers_of_known_encoders():
    assert (WHISPER.frame_rate, MIMI.frame_rate, WAV2VEC.frame_rate) == (50, 12.5, 50)
    assert (WHISPER.frames(16_001), MIMI.frames(24_000), WAV2VEC.frames(16_000), WAV2VEC.shortest) == (51, 13, 49, 400)
    assert WHISPER.positions(51) == 13 and WHISPER.samples(0.1, 0.35) == 4000 and WHISPER.samples(2, 1) == 0
    with pytest.raises(DataError, match=r"480001 samples \(30.0 s\) is longer than the 480000 \(30 s\)"):
        WHISPER.frames(480_001)
