import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from salad_ds.errors import RecipeError
from salad_ds.select.assign import balanced, size_bounds


def optimum(costs, low, high):
    """The least cost by an exact solver: every cluster is ``high`` seats, of which ``low`` have to be taken."""
    n, k = costs.shape
    seats = np.repeat(np.arange(k), high)
    must = np.tile(np.arange(high) < low, k)
    rows, columns = linear_sum_assignment(costs[:, seats].astype(np.float64) - (costs.max() + 1) * n * must)
    return float(costs[rows, seats[columns]].sum())


@given(st.integers(1, 9), st.integers(0, 90), st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.3]))
@settings(max_examples=60, deadline=None)
def test_sizes_keep_their_bounds_and_the_cost_is_the_least(k, more, seed, slack):
    n = k + more
    costs = np.random.default_rng(seed).gamma(0.7, size=(n, k)).astype(np.float32)
    costs[:, 0] *= 0.2  # a cluster that everybody wants
    low, high = size_bounds(n, k, slack)
    labels, _ = balanced(costs, low, high)
    sizes = np.bincount(labels, minlength=k)
    assert low <= sizes.min() and sizes.max() <= high
    assert costs[np.arange(n), labels].sum() == pytest.approx(optimum(costs, low, high), rel=1e-4, abs=1e-4)


@given(st.integers(1, 40), st.integers(0, 2000))
def test_bounds_lie_within_a_tenth_and_can_always_be_met(k, more):
    n = k + more
    low, high = size_bounds(n, k)
    assert low * k <= n <= high * k
    assert low >= min(0.9 * n / k, n // k) and high <= max(1.1 * n / k, -(-n // k))


def test_equal_points_are_spread():
    labels, _ = balanced(np.zeros((100, 7), np.float32), 12, 16)
    assert np.bincount(labels, minlength=7).min() >= 12


def test_more_clusters_than_texts_is_a_recipe_error():
    with pytest.raises(RecipeError, match="clusters is 5 for 3"):
        size_bounds(3, 5)


def test_prices_of_a_like_problem_change_the_way_not_the_result():
    costs = np.random.default_rng(3).random((400, 8)).astype(np.float32)
    labels, prices = balanced(costs, 45, 55)
    again, _ = balanced(costs, 45, 55, prices)
    assert costs[np.arange(400), labels].sum() == pytest.approx(costs[np.arange(400), again].sum(), rel=1e-5)
