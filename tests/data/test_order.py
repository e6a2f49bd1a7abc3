"""Order is arithmetic: permutations, exact shares, the same in every process."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.data.order import BLOCK, Mixture, permuted, shares, stable_seed


@settings(max_examples=60)
@given(size=st.integers(1, 700), seed=st.integers(0, 2**64 - 1))
def test_every_sample_comes_once_per_epoch(size, seed):
    assert sorted(permuted(i, size, seed) for i in range(size)) == list(range(size))


def test_permutations_differ_by_seed_and_look_random():
    a, b = ([permuted(i, 1000, seed) for i in range(1000)] for seed in (1, 2))
    assert a != b and sum(x == i for i, x in enumerate(a)) < 20
    follows = sum(y == x + 1 for x, y in zip(a, a[1:], strict=False))
    assert follows < 20


@given(weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_shares_add_up_and_are_within_one_of_exact(weights):
    counts = shares(weights)
    assert sum(counts) == BLOCK
    assert all(abs(c - BLOCK * w / sum(weights)) <= 1 for c, w in zip(counts, weights, strict=True))


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 90), min_size=1, max_size=4), seed=st.integers(0, 999), data=st.data())
def test_a_mixture_keeps_its_shares_and_walks_each_source_in_epochs(sizes, seed, data):
    weights = data.draw(
        st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=len(sizes), max_size=len(sizes)).filter(any)
    )
    mixture = Mixture(sizes, weights, seed)
    drawn = [mixture[i] for i in range(2 * BLOCK)]
    assert Counter(s for s, _, _ in drawn) == Counter({k: 2 * n for k, n in enumerate(shares(weights)) if n})
    for source, size in enumerate(sizes):
        walked = [(epoch, index) for s, epoch, index in drawn if s == source]
        for epoch in {e for e, _ in walked[:-1]} - {walked[-1][0] if walked else -1}:
            assert sorted(index for e, index in walked if e == epoch) == list(range(size))
    assert [mixture[i] for i in (BLOCK + 3, 5, 2 * BLOCK - 1)] == [drawn[BLOCK + 3], drawn[5], drawn[2 * BLOCK - 1]]


def test_a_source_without_samples_is_refused():
    with pytest.raises(ValueError, match="cannot be mixed"):
        Mixture([3, 0], [1, 1], 0)
    assert Mixture([3, 0], [1, 0], 0)[0][0] == 0


def test_seeds_are_the_same_in_another_process():
    code = "from salad_ds.data.order import stable_seed; print(stable_seed(1, 'a', (2, 'b')))"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": "77", "PYTHONPATH": "."}
    )
    assert int(other.stdout) == stable_seed(1, "a", (2, "b"))
