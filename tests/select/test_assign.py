import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from salad_ds.errors import RecipeError
from salad_ds.select import assign
from salad_ds.select.assign import balanced, size_bounds


def optimum(costs, low, high):
    """The least cost by an exact solver: every cluster is ``high`` seats, of which ``low`` have to be taken."""
    n, k = costs.shape
    seats = np.repeat(np.arange(k), high)
    must = np.tile(np.arange(high) < low, k)
    rows, columns = linear_sum_assignment(costs[:, seats].astype(np.float64) - (costs.max() + 1) * n * must)
    return float(costs[rows, seats[columns]].sum())


@given(st.integers(1, 9), st.integers(0, 90), st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.3]))
@settings(max_examples=60)
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


def greedy(costs, high):
    """Every point takes its cheapest cluster that is not full, those with most to lose first."""
    two = np.sort(costs, axis=1)[:, :2]
    labels, room = np.empty(len(costs), int), np.full(costs.shape[1], high)
    for point in np.argsort(two[:, 0] - two[:, 1], kind="stable"):
        cluster = np.where(room > 0, costs[point], np.inf).argmin()
        labels[point] = cluster
        room[cluster] -= 1
    return labels


def unequal(n, k, seed):
    """Squared distances of points around centres of very unequal weight to k of the points."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(2 * k, 16))
    points = centres[random.choice(2 * k, n, p=random.dirichlet(np.full(2 * k, 0.3)))] + random.normal(size=(n, 16))
    chosen = points[random.choice(n, k, replace=False)]
    return ((points[:, None] - chosen) ** 2).sum(2).astype(np.float32)


def test_it_is_far_cheaper_than_greed_and_not_dearer_than_the_dual_says():
    costs = unequal(4000, 32, 0)
    low, high = size_bounds(4000, 32)
    labels, prices = balanced(costs, low, high, exact=False)
    own, naive = (costs[np.arange(4000), found].sum(dtype=float) for found in (labels, greedy(costs, high)))
    free = costs.min(1).sum(dtype=float)
    assert own - free < 0.8 * (naive - free)
    bound = (costs + prices).min(1).sum(dtype=float) - (high * prices.clip(0)).sum() + (low * (-prices).clip(0)).sum()
    assert bound <= own <= bound * 1.001, "by duality no assignment costs less than the bound"


def test_many_points_move_at_once_and_the_bounds_hold(monkeypatch):
    costs = unequal(3000, 12, 1)
    low, high = size_bounds(3000, 12)
    labels = costs.argmin(1).astype(np.int32)
    assert np.bincount(labels, minlength=12).max() > 2 * high
    monkeypatch.setattr(assign, "AT_ONCE", 100)
    assign.Paths(costs, labels, low, high).settle(exact=False)
    sizes = np.bincount(labels, minlength=12)
    assert low <= sizes.min() and sizes.max() <= high
    best = balanced(costs, low, high)[0]
    assert costs[np.arange(3000), labels].sum() < 1.05 * costs[np.arange(3000), best].sum()


def test_the_result_does_not_depend_on_the_threads(monkeypatch):
    costs, results = unequal(5000, 24, 2), []
    monkeypatch.setattr(assign, "BLOCK", 512)
    for threads in (1, 2, 5):
        monkeypatch.setattr(assign, "cores", lambda threads=threads: threads)
        results.append(balanced(costs, *size_bounds(5000, 24)))
    for labels, prices in results[1:]:
        assert np.array_equal(labels, results[0][0]) and np.array_equal(prices, results[0][1])
