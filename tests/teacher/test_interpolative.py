"""Any sets come back, at about the bits their information takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.teacher import interpolative
from salad_ds.teacher.bits import Cursor, Reader, pack


def write(sets: list[np.ndarray], units: list[int], bounds: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(bytes of all units, where each begins)."""
    cursor = Cursor(np.zeros(max(units, default=0) + 1, dtype=np.int64))
    fields = interpolative.write(np.concatenate([np.zeros(0, np.int64), *sets]), np.array([len(s) for s in sets]),
                                 np.array(units, dtype=np.int64), np.array(bounds), cursor)
    sizes = cursor.at + 7 >> 3
    starts = np.cumsum(sizes) - sizes
    columns = [np.concatenate([np.zeros(0, np.int64), *column]) for column in
               zip(*[(starts[unit] * 8 + at, width, value) for unit, at, width, value in fields], strict=True)]
    columns = columns or [np.zeros(0, np.int64)] * 3
    return pack(*columns, int(sizes.sum())), starts


def read(data: np.ndarray, starts: np.ndarray, sets: list[np.ndarray], units: list[int], bounds: list[int]):
    found = interpolative.read(Reader(data), np.array([len(s) for s in sets]), np.array(units, dtype=np.int64),
                               np.array(bounds), Cursor(starts * 8))
    return np.split(found, np.cumsum([len(s) for s in sets])[:-1])


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32 - 1), shapes=st.lists(st.tuples(
    st.sampled_from([1, 2, 7, 300, 49152, 151936, 2**24]), st.integers(0, 200), st.booleans()), min_size=1, max_size=8))
def test_sets_come_back(seed: int, shapes: list[tuple[int, int, bool]]) -> None:
    rng = np.random.default_rng(seed)
    sets, bounds = [], []
    for bound, size, dense in shapes:
        size = min(size, bound)
        space = min(bound, size + 5) if dense else bound
        sets.append(np.sort(rng.choice(space, size, replace=False)))
        bounds.append(bound)
    units = np.sort(rng.integers(0, 3, len(sets))).tolist()
    data, starts = write(sets, units, bounds)
    for want, got in zip(sets, read(data, starts, sets, units, bounds), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("members", [[], [0], [4], [0, 1, 2, 3, 4]])
def test_what_leaves_no_choice_takes_no_bits(members: list[int]) -> None:
    sets, bounds = [np.array(members, dtype=np.int64)], [5 if len(members) != 1 else members[0] * 0 + 5]
    data, starts = write(sets, [0], bounds)
    assert len(data) == (1 if len(members) == 1 else 0)
    np.testing.assert_array_equal(read(data, starts, sets, [0], bounds)[0], members)


def test_sets_lie_near_their_entropy() -> None:
    rng, bound, k = np.random.default_rng(0), 151936, 128
    sets = [np.sort(rng.choice(bound, k, replace=False)) for _ in range(64)]
    data, _ = write(sets, [0] * 64, [bound] * 64)
    entropy = (math.lgamma(bound + 1) - math.lgamma(k + 1) - math.lgamma(bound - k + 1)) / math.log(2) / 8
    assert entropy <= len(data) / 64 <= 1.035 * entropy


@settings(max_examples=60)
@given(data=st.binary(min_size=1, max_size=300), sizes=st.lists(st.integers(0, 60), min_size=1, max_size=5),
       bound=st.integers(60, 10**6))
def test_any_bits_are_sets(data: bytes, sizes: list[int], bound: int) -> None:
    sets = [np.zeros(size) for size in sizes]
    starts = np.zeros(1, dtype=np.int64)
    for found in read(np.frombuffer(data, np.uint8), starts, sets, [0] * len(sets), [bound] * len(sets)):
        assert (np.diff(found) > 0).all() and (found >= 0).all() and (found < bound).all()
