"""Accuracies, gaps, intervals and p-values against closed forms and against resampling the items one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.evaluate.statistics import Pairs, accuracy, gap, mcnemar

answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def naive_bootstrap(first: list[bool], second: list[bool], times: int = 20_000) -> np.ndarray:
    """[times, 2] accuracies, every item drawn by itself."""
    draws = np.random.default_rng(8).integers(0, len(first), (times, len(first)))
    return np.stack([np.array(first, float)[draws].mean(1), np.array(second, float)[draws].mean(1)], 1)


def test_intervals_are_those_of_items_drawn_one_by_one():
    rng = np.random.default_rng(2)
    first = (rng.random(150) < 0.7).tolist()
    second = [a if rng.random() < 0.7 else bool(rng.random() < 0.5) for a in first]  # they hang together
    expected, pairs = naive_bootstrap(first, second), Pairs.of(first, second)
    for which in (0, 1):
        found = accuracy([pairs], which, 0)
        assert found["accuracy"] == np.mean([first, second][which])
        assert found["ci"] == pytest.approx(np.percentile(expected[:, which], [2.5, 97.5]), abs=0.011)
    difference = gap([pairs], 0)
    assert difference["mean"] == pytest.approx(np.mean(first) - np.mean(second))
    assert difference["ci"] == pytest.approx(np.percentile(expected[:, 0] - expected[:, 1], [2.5, 97.5]), abs=0.011)


def test_the_gap_is_paired():
    """Each accuracy is uncertain; the difference of the same answers is not."""
    right = [True, False] * 50
    assert gap([Pairs.of(right, right)], 0)["ci"] == [0.0, 0.0]
    low, high = accuracy([Pairs.of(right, right)], 0, 0)["ci"]
    half = 1.96 * math.sqrt(0.25 / 100)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.02)
    one_way = gap([Pairs.of([True] * 60 + [False] * 40, [True] * 30 + [False] * 70)], 0)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 100)  # 30 items are right in the first condition only
    assert one_way["mean"] == pytest.approx(0.3) and one_way["ci"] == pytest.approx([0.3 - half, 0.3 + half], abs=0.02)
    assert (one_way["both"], one_way["first_only"], one_way["second_only"], one_way["neither"]) == (30, 30, 0, 40)


def test_the_interval_holds_what_it_promises():
    """Of many samples with a known gap of 0.2, 95 in 100 intervals have it inside."""
    rng, inside = np.random.default_rng(4), 0
    for _ in range(200):
        kind = rng.choice(4, 120, p=[0.4, 0.3, 0.1, 0.2])  # both, first only, second only, neither
        low, high = gap([Pairs.of(kind <= 1, (kind == 0) | (kind == 2))], 0)["ci"]
        inside += low <= 0.2 <= high
    assert 180 <= inside <= 199


def test_mcnemar_is_a_fair_coin():
    assert mcnemar(0, 0) == 1.0 and mcnemar(7, 7) == 1.0
    assert mcnemar(10, 2) == mcnemar(2, 10) == pytest.approx(2 * (1 + 12 + 66) / 2**12)  # sum of C(12, 0..2)
    assert mcnemar(0, 5) == pytest.approx(2 / 32)


@given(rows=answers, seed=st.integers(0, 5))
def test_counts_and_intervals_belong_together(rows, seed):
    first, second = map(list, zip(*rows, strict=True))
    pairs = Pairs.of(first, second)
    assert pairs.items == len(rows) and pairs.correct == (sum(first), sum(second))
    found = gap([pairs], seed)
    assert found == gap([pairs], seed), "not the same twice"
    assert Pairs.read(found) == pairs
    turned = gap([Pairs.of(second, first)], seed)
    assert turned["mean"] == -found["mean"] and turned["p"] == found["p"]
    assert -1 <= found["ci"][0] <= found["ci"][1] <= 1 and 0 < found["p"] <= 1
    for which in (0, 1):
        one = accuracy([pairs], which, seed)
        assert 0 <= one["ci"][0] <= one["accuracy"] <= one["ci"][1] <= 1


def test_tasks_count_alike_however_many_items_they_have():
    large, small = Pairs(300, 100, 0, 100), Pairs(2, 0, 1, 1)
    found = gap([large, small], 0)
    assert found["mean"] == pytest.approx((0.2 - 0.25) / 2) and found["items"] == 504
    assert (found["first_only"], found["second_only"]) == (100, 1)
    both = accuracy([large, small], 1, 0)
    assert both["accuracy"] == pytest.approx((300 / 500 + 3 / 4) / 2) and both["correct"] == 303
    spread = 1.96 * math.sqrt((0.24 / 500 + (3 / 4) * (1 / 4) / 4) / 4)
    assert (both["ci"][1] - both["ci"][0]) / 2 == pytest.approx(spread, rel=0.15)


def test_answers_of_different_items_are_no_pairs():
    with pytest.raises(ValueError, match="no pairs"):
        Pairs.of([True], [True, False])
