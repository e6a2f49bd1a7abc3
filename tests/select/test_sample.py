import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from salad_ds.errors import DataError
from salad_ds.select.sample import draw, expected_seconds, gap_of, shrunk, target

M = np.array([0.2, 0.5, 1.0, 1.4, 0.8])
SIZES = np.array([9000, 11000, 10000, 10500, 9500])
P_WEB = SIZES / SIZES.sum()
LABELS = np.repeat(np.arange(5), SIZES)
NONE_ASIDE = np.zeros(5, bool)


def misfit(counts, probabilities):
    """The chance of counts at least this far from the formula."""
    expected = counts.sum() * probabilities
    held = probabilities > 0
    return chi2.sf(((counts - expected)[held] ** 2 / expected[held]).sum(), held.sum() - 1)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 5.0])
def test_drawn_counts_match_the_formula_within_sampling_error(gamma):
    formula = P_WEB * M**gamma / (P_WEB * M**gamma).sum()
    p = target(P_WEB, M, NONE_ASIDE, gamma, "active")
    np.testing.assert_allclose(p, formula, rtol=1e-12)
    chances = []
    for seed in range(20):
        rows = draw(LABELS, p, seed, items=3000)
        assert len(rows) == len(set(rows.tolist())) == 3000
        chances.append(misfit(np.bincount(LABELS[rows], minlength=5), formula))
    assert min(chances) > 1e-4 and 0.2 < np.mean(chances) < 0.8, "chances should be uniform on (0, 1)"


def test_inside_a_cluster_every_text_is_as_likely():
    labels = np.repeat([0, 1], 50)
    counts = np.zeros(100)
    for seed in range(400):
        counts[draw(labels, np.array([0.3, 0.7]), seed, items=20)] += 1
    assert misfit(counts[:50], np.full(50, 0.02)) > 1e-4 and misfit(counts[50:], np.full(50, 0.02)) > 1e-4


@given(st.lists(st.integers(1, 30), min_size=2, max_size=6), st.integers(0, 1000), st.integers(1, 200))
@settings(max_examples=60)
def test_without_replacement_and_never_from_a_forbidden_cluster(sizes, seed, items):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    p = np.arange(len(sizes), dtype=float)
    p /= p.sum()
    rows = draw(labels, p, seed, items=items)
    assert len(set(rows.tolist())) == len(rows) == min(items, sum(sizes[1:]))
    assert (labels[rows] != 0).all()
    assert np.array_equal(rows, draw(labels, p, seed, items=items))


def test_when_a_cluster_runs_out_the_law_over_the_others_holds():
    labels = np.repeat([0, 1, 2], [40, 20000, 20000])
    p = np.array([0.8, 0.15, 0.05])
    counts = np.zeros(3)
    for seed in range(10):
        counts += np.bincount(labels[draw(labels, p, seed, items=2000)], minlength=3)
    assert counts[0] == 400
    assert misfit(counts[1:], np.array([0.75, 0.25])) > 1e-4


def test_a_budget_in_seconds_is_just_reached():
    lengths = np.random.default_rng(0).uniform(2, 9, len(LABELS))
    rows = draw(LABELS, P_WEB, 0, seconds=1000, lengths=lengths)
    assert 1000 <= lengths[rows].sum() < 1009


def test_policies_and_clusters_set_aside():
    aside = np.array([False, False, True, False, False])
    np.testing.assert_allclose(target(P_WEB, M, aside, 5.0, "uniform"), target(P_WEB, M, aside, 0.0, "active"))
    p = target(P_WEB, M, aside, 5.0, "active")
    assert p[2] == 0 and p.sum() == pytest.approx(1)
    nothing = target(P_WEB, np.array([-1e-9, 1.0, np.nan, 0.0, 1e-80]), aside, 5.0, "active")
    assert nothing[0] == nothing[3] == 0 and nothing[1] > 0.999999
    assert target(P_WEB, np.full(5, 1e-80), NONE_ASIDE, 5.0, "active") == pytest.approx(P_WEB), "no underflow"
    with pytest.raises(DataError, match="set aside"):
        target(P_WEB, M, ~NONE_ASIDE, 5.0, "active")


def test_the_interval_of_m_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        tokens = random.integers(10, 40, 12)
        gap = gap_of(random.normal(0.5, 0.15, 12) + 0.3 * random.normal(size=12), tokens, [0.0] * 12, 12, 0, 0.15)
        covered += gap.low <= 0.5 <= gap.high
    assert 910 <= covered <= 975


def test_a_gap_is_weighted_by_tokens_and_says_why_a_cluster_is_set_aside():
    assert gap_of([0.1, 0.4], [30, 10], [0.0, 0.1], 2, 0, 0.15).m == pytest.approx(0.175)
    assert gap_of([0.1, 0.4], [30, 10], [0.0, 0.1], 2, 0, 0.15).set_aside == ""
    assert gap_of([0.1], [5], [0.0, 5.0], 2, 0, 0.4).set_aside == "character error rate", "one loop counts as 1"
    assert gap_of([0.1], [5], [0.0, 5.0], 2, 0, 0.6).set_aside == ""
    assert gap_of([0.1], [5], [0.0], 1, 3, 0.15).cer == 0.75, "what cannot be spoken is not said"
    assert gap_of([0.1], [5], [0.0], 1, 3, 0.15).set_aside == "character error rate"
    assert gap_of([], [], [], 0, 2, 0.15).set_aside == "cannot be spoken"
    assert gap_of([], [], [0.0], 1, 0, 0.15).set_aside == "cannot be measured"
    trusted = gap_of([0.3], [5], [], 1, 0, 0.15)
    assert np.isnan(trusted.cer) and trusted.set_aside == "", "no recogniser, no rate"
    single = gap_of([0.3], [5], [0.0], 1, 0, 0.15)
    assert single.m == pytest.approx(0.3) and np.isnan(single.error)


def test_shrinking_brings_the_target_nearer_to_that_of_the_true_m():
    random = np.random.default_rng(0)
    distance = np.zeros(2)
    for _ in range(200):
        true = random.normal(0.4, 0.06, 16).clip(0.05)
        probes = random.integers(2, 6, 16)
        said = [random.gamma(4, m / 4, n) for m, n in zip(true, probes, strict=True)]
        m = np.array([values.mean() for values in said])
        error = np.array([values.std(ddof=1) / len(values) ** 0.5 for values in said])
        p, *guesses = (target(np.full(16, 1 / 16), values, np.zeros(16, bool), 5.0, "active")
                       for values in (true, m, shrunk(m, error, probes)))
        distance += [np.abs(guess - p).sum() / 2 for guess in guesses]
    assert distance[1] < 0.7 * distance[0]


def test_shrinking_moves_the_unsure_more_and_the_sure_not_at_all():
    m = np.array([0.2, 0.4, 0.6, 0.8, np.nan])
    error = np.array([0.05, 0.05, np.nan, 0.025, np.nan])
    moved = shrunk(m, error, np.array([4, 4, 1, 16, 0]))
    share = np.abs(moved - m)[:4] / np.abs(m - 0.55)[:4]
    assert share[2] > share[0] > share[3] > 0 and np.isnan(moved[4])
    assert np.all(np.diff(moved[:4]) > 0)
    sure = np.array([0.2, 0.4])
    assert np.array_equal(shrunk(sure, np.zeros(2), np.array([3, 3])), sure)
    assert np.array_equal(shrunk(sure, np.full(2, np.nan), np.array([1, 1])), sure)


def test_expected_seconds_follow_the_probes_pace():
    assert expected_seconds(np.array([150.0]), np.array([100, 200]), np.array([6.0, 12.0])) == pytest.approx([9.0])
    with pytest.raises(DataError, match="budget_items"):
        expected_seconds(np.array([1.0]), np.array([]), np.array([]))
