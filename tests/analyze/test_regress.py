"""Regressions against their definitions, computed naively, and against data of known parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.analyze.regress import regress
from salad_ds.errors import DataError


def naive(y, design, labels=None):
    """(R², leave-one-out R²) by refitting without each run, or without those of each label."""
    labels = np.arange(len(y)) if labels is None else labels
    total = ((y - y.mean()) ** 2).sum()
    left = ((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum()
    press = 0.0
    for label in np.unique(labels):
        rest, own = labels != label, labels == label
        press += ((y[own] - design[own] @ np.linalg.lstsq(design[rest], y[rest], rcond=None)[0]) ** 2).sum()
    return 1 - left / total, 1 - press / total


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), n=st.integers(6, 30))
def test_it_is_what_refitting_gives(seed, n):
    random = np.random.default_rng(seed)
    m, f = random.normal(size=(2, n))
    y = 0.7 - 0.2 * m - 0.1 * f + 0.1 * random.normal(size=n)
    twins = np.arange(n) // 2
    found = regress(y, {"log M": m, "F": f}, {"twins": [f"pair {i}" for i in twins]})
    ones = np.ones(n)
    without_twins = naive(y, np.column_stack([ones, m, f]), twins)[1]
    assert found.left_out == pytest.approx({"twins": without_twins}, rel=1e-6, abs=1e-9)
    r2, loo = naive(y, np.column_stack([ones, m, f]))
    assert (found.r2, found.loo_r2) == pytest.approx((r2, loo), rel=1e-7, abs=1e-9)
    without = {"log M": [ones, f], "F": [ones, m]}
    for name, rest in without.items():
        alone = 1 - naive(y, np.column_stack(rest))[0]
        assert found.partial_r2[name] == pytest.approx((alone - (1 - r2)) / alone, rel=1e-6, abs=1e-9)


def test_known_parameters_come_back_and_a_predictor_of_nothing_is_named_so():
    random = np.random.default_rng(0)
    m, f = random.uniform(-3, 0, 200), random.uniform(0, 0.1, 200)
    found = regress(0.4 - 0.12 * m + 0.02 * random.normal(size=200), {"log M": m, "F": f})
    assert found.coefficients[1] == pytest.approx(-0.12, abs=3 * found.errors[1]) and found.p[1] < 1e-6
    assert found.p[2] > 0.01 and found.partial_r2["F"] < 0.05 < 0.9 < found.partial_r2["log M"]


def test_noise_predicts_worse_than_the_mean_when_a_run_is_left_out():
    found = []
    for seed in range(30):
        y, m, f = np.random.default_rng(seed).normal(size=(3, 10))
        found.append(regress(y, {"log M": m, "F": f}))
    assert all(one.loo_r2 < one.r2 for one in found)
    assert np.median([one.loo_r2 for one in found]) < 0 < np.median([one.r2 for one in found])


@pytest.mark.parametrize(
    ("y", "m"),
    [([1.0, 2.0, 3.0], [1.0, 2.0, 4.0]), ([1.0, 2, 3, 4, 5], [7.0] * 5), ([1.0] * 6, [1.0, 2, 3, 4, 5, 6]),
     ([1.0, 2, 3, 4, 5], [1.0, 2, float("-inf"), 4, 5])],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(y, m):
    with pytest.raises(DataError):
        regress(np.array(y), {"log M": np.array(m)})
