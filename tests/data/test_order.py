"""Order is arithmetic: permutations, a walk over shards in groups, shares by positions, the same in every process."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.data.order import SourceOrder, Turns, permuted, stable_seed


@settings(max_examples=60)
@given(size=st.integers(1, 700), seed=st.integers(0, 2**64 - 1))
def test_every_index_comes_once(size, seed):
    assert sorted(permuted(i, size, seed) for i in range(size)) == list(range(size))


def test_permutations_differ_by_seed_and_look_random():
    a, b = ([permuted(i, 1000, seed) for i in range(1000)] for seed in (1, 2))
    assert a != b and sum(x == i for i, x in enumerate(a)) < 20
    follows = sum(y == x + 1 for x, y in zip(a, a[1:], strict=False))
    assert follows < 20


@settings(max_examples=40)
@given(
    shards=st.lists(st.integers(0, 9), min_size=1, max_size=30).filter(any),
    group=st.integers(1, 8),
    seed=st.integers(0, 2**64 - 1),
)
def test_every_sample_comes_once_per_epoch_and_groups_follow_each_other(shards, group, seed):
    """Uneven shards, empty ones, fewer than a group: asked for in any order."""
    order, size = SourceOrder(shards, seed, group), sum(shards)
    walked = [order[position] for position in range(2 * size)]
    for epoch in (0, 1):
        assert sorted(i for e, i in walked[epoch * size : (epoch + 1) * size] if e == epoch) == list(range(size))
    owner = np.repeat(np.arange(len(shards)), shards)
    asked = [int(owner[i]) for _, i in walked[:size]]
    at, left = 0, {n for n, count in enumerate(shards) if count}
    while at < size:  # as many shards as a group has are emptied before another is begun
        here: set[int] = set()
        end = at
        while end < size and (asked[end] in here or len(here) < group):
            here.add(asked[end])
            end += 1
        if end < size:
            assert sum(shards[n] for n in here) >= end - at
        at, left = end, left - here
    assert [order[position] for position in reversed(range(2 * size))] == walked[::-1]


def test_a_group_is_in_use_at_a_time():
    """A reader's memory: of 1000 shards no more than two groups in any stretch as long as a group."""
    order = SourceOrder([50] * 1000, 3, group=16)
    owners = [order[position][1] // 50 for position in range(20000)]
    for at in range(0, 19000, 700):
        assert len(set(owners[at : at + 16 * 50])) <= 32
    assert len(set(owners[:800])) == 16
    follows = sum(y == x + 1 for x, y in zip(owners, owners[1:], strict=False))
    assert follows < 20000 * 0.1


def test_epochs_and_seeds_have_orders_of_their_own():
    first, other = SourceOrder([20] * 12, 1, 4), SourceOrder([20] * 12, 2, 4)
    epochs = [[first[240 * e + i][1] for i in range(240)] for e in (0, 1)]
    assert epochs[0] != epochs[1] and epochs[0] != [other[i][1] for i in range(240)]


def test_a_source_without_samples_has_no_order():
    with pytest.raises(ValueError, match="without samples"):
        SourceOrder([0, 0], 0)


@settings(max_examples=50)
@given(
    weights=st.lists(st.sampled_from([0.0, 0.2, 1.0, 2.0, 50.0]), min_size=1, max_size=4).filter(any),
    seed=st.integers(0, 999),
)
def test_sources_share_the_positions_by_weight(weights, seed):
    """Whatever the sizes of their samples: no source is further from its share than the start and one sample allow."""
    rng, longest = np.random.default_rng(seed), 700
    means = rng.integers(5, 300, len(weights))
    turns = Turns(weights)
    begun = turns.start(512, seed, 3)
    spent = list(begun)
    for _ in range(4000):
        k = turns.next(spent)
        assert weights[k] > 0
        spent[k] += int(min(rng.geometric(1 / means[k]), longest))
    had = np.array(spent) - begun
    exact = had.sum() * np.array(weights) / sum(weights)
    slack = (512 * len(weights) / sum(weights) + longest / min(w for w in weights if w)) * np.array(weights)
    assert (np.abs(had - exact) <= slack * len(weights)).all()


def test_lanes_do_not_begin_in_step():
    turns = Turns([1.0, 1.0, 1.0])
    firsts = Counter(turns.next(turns.start(2048, 5, lane)) for lane in range(300))
    assert min(firsts.values()) > 60 and set(firsts) == {0, 1, 2}


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0]])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        Turns(weights)


def test_seeds_are_the_same_in_another_process():
    code = "from salad_ds.data.order import stable_seed; print(stable_seed(1, 'a', (2, 'b')))"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": "77", "PYTHONPATH": "."}
    )
    assert int(other.stdout) == stable_seed(1, "a", (2, "b"))
