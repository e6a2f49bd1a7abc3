"""The law is recovered from data of known parameters, with intervals that hold as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.analyze.fit import LEAST, fit
from salad_ds.errors import DataError

AMOUNTS = np.array([1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8])


def law(e: float, b: float, beta: float, data: np.ndarray) -> np.ndarray:
    return e + b * (data / np.exp(np.log(data).mean())) ** -beta


@settings(max_examples=25)
@given(e=st.floats(0.0, 0.5), b=st.floats(0.05, 2.0), beta=st.floats(0.15, 1.2))
def test_exact_data_give_their_parameters_back(e, b, beta):
    found = fit(AMOUNTS, law(e, b, beta, AMOUNTS), resamples=2)
    assert found.at(AMOUNTS) == pytest.approx(law(e, b, beta, AMOUNTS), rel=1e-3)
    assert (found.e, found.b, found.beta) == pytest.approx((e, b, beta), rel=3e-2, abs=1e-2)
    assert found.r2 > 0.9999


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """40 experiments with known noise: 95 % intervals of each parameter hold in at least 80 %, and are not idle."""
    random, truth, held, widths = np.random.default_rng(5), (0.13, 0.3, 0.5), np.zeros(3), []
    errors = np.full(len(AMOUNTS), 0.01)
    for i in range(40):
        m = law(*truth, AMOUNTS) + random.normal(0, errors)
        found = fit(AMOUNTS, m, errors, resamples=60, seed=i)
        held += [low <= value <= high for low, value, high in zip(found.low, truth, found.high, strict=True)]
        widths.append(found.high[0] - found.low[0])
    assert (held >= 32).all() and np.median(widths) < 0.12, (held, np.median(widths))


def test_without_errors_the_residuals_are_redrawn_and_a_seed_repeats_it():
    random = np.random.default_rng(1)
    m = law(0.1, 0.4, 0.4, AMOUNTS) + random.normal(0, 0.005, len(AMOUNTS))
    one, again, other = (fit(AMOUNTS, m, resamples=50, seed=seed) for seed in (3, 3, 4))
    assert one == again and one.low != other.low
    assert one.low[0] <= one.e <= one.high[0]
    low, high = one.band(AMOUNTS)
    assert (low < one.at(AMOUNTS)).all() and (one.at(AMOUNTS) < high).all() and (high - low < 0.1).all()


def test_growing_misalignment_is_not_forced_to_fall():
    """NLL on narrow data makes M grow: the best the law can do is a constant, and R² says that it explains nothing."""
    found = fit(AMOUNTS, 0.2 + 0.05 * np.log10(AMOUNTS / 1e5), resamples=5)
    assert found.r2 < 0.05 and found.beta * found.b < 1e-2


@pytest.mark.parametrize("amounts", [AMOUNTS[: LEAST - 1], np.array([1e5] * 9), np.array([0.0, 1, 2, 3])])
def test_too_little_is_refused(amounts):
    with pytest.raises(DataError):
        fit(amounts, np.linspace(1, 0.5, len(amounts)))
