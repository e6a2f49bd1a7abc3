"""The fullest row: as good as trying every subset, and as rows of real lengths need it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.data.lanes import WINDOW
from salad_ds.data.packing import fullest


@settings(max_examples=200)
@given(sizes=st.lists(st.integers(1, 40), max_size=9), room=st.integers(0, 120))
def test_no_subset_is_fuller_and_of_equals_the_earlier_wins(sizes, room):
    chosen = fullest(sizes, room)
    subsets = [c for n in range(len(sizes) + 1) for c in itertools.combinations(range(len(sizes)), n)]
    filled = {subset: sum(sizes[i] for i in subset) for subset in subsets}
    best = max(filled[subset] for subset in subsets if filled[subset] <= room)
    assert filled[tuple(chosen)] == best
    preferred = max(
        (subset for subset in subsets if filled[subset] == best), key=lambda s: [i in s for i in range(len(sizes))]
    )
    assert tuple(chosen) == preferred


@pytest.mark.parametrize("mean, spread", [(60, 30), (125, 35), (500, 150)])
def test_the_window_is_wide_enough(mean, spread):
    """Of the samples that wait in a lane, half fill a row of 2048 positions to 99 %."""
    rng = np.random.default_rng(mean)
    for _ in range(40):
        sizes = np.clip(rng.normal(mean, spread, WINDOW), 10, 2048).astype(int).tolist()
        room = min(2048, sum(sizes) // 2)
        assert sum(sizes[i] for i in fullest(sizes, room)) >= 0.99 * room
