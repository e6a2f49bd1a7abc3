"""What is kept: exact to the stated error where it promises to be, without bias everywhere, and a function of the text
alone. Every distribution goes through the bytes of a store."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.errors import StoreError
from salad_ds.teacher.sampled import Sampled
from salad_ds.teacher.sampling import ENTROPY_STEPS, Rule, Tail, join, nothing, uniforms
from salad_ds.teacher.topk import TopK
from tests.teacher.records import assert_same, dense, key_of, logits_of, through_bytes

BOTH = pytest.mark.parametrize("rule", [TopK(6, 4), Sampled(12)], ids=["topk", "sampled"])


def kept(rule: Rule, logits: torch.Tensor, seed: int = 0):
    return rule.keep(logits, uniforms(seed, key_of(seed), len(logits), rule.uniforms))


def check_rows(probs: np.ndarray, record, rule: Rule) -> None:
    """What holds of every row of any rule."""
    assert (record.exact + record.drawn >= 1).all()
    begin = np.cumsum(record.exact) - record.exact, np.cumsum(record.drawn) - record.drawn
    for row in range(len(record)):
        top = record.ids[begin[0][row]:][:record.exact[row]]
        drawn = record.drawn_ids[begin[1][row]:][:record.drawn[row]]
        assert len({*top, *drawn}) == len(top) + len(drawn)  # no token twice
        assert (probs[row, drawn] > 0).all()
        rest = np.delete(probs[row], top)
        assert not len(top) or not len(rest) or probs[row, top].min() >= rest.max() * (1 - 1e-5)
    entropy = -(probs * np.log(np.maximum(probs, 1e-300))).sum(1)
    np.testing.assert_allclose(record.fields[:, 0] / ENTROPY_STEPS, np.minimum(entropy, 4095 / ENTROPY_STEPS),
                               atol=0.5 / ENTROPY_STEPS + 2e-5)


@settings(max_examples=100)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 5), vocab=st.integers(1, 300), k=st.integers(1, 40),
       m=st.integers(0, 20), scale=st.floats(0.0, 40.0))
def test_topk_of_any_logits(seed: int, rows: int, vocab: int, k: int, m: int, scale: float) -> None:
    logits, rule = logits_of(rows, vocab, seed, scale), TopK(k, m)
    record = kept(rule, logits, seed)
    assert_same(through_bytes(record, rule, vocab), record)
    probs = logits.float().softmax(-1).double().numpy()
    check_rows(probs, record, rule)
    k = min(k, vocab)
    assert (record.exact == k).all() and (record.drawn <= m).all()
    truth = probs[np.repeat(np.arange(rows), k), record.ids]
    targets = rule.targets(record, "ghost")
    got = targets.probs.double().numpy()
    sums = got.sum(1) + targets.tail.double().numpy()
    np.testing.assert_allclose(sums, 1.0, atol=1e-6)
    # The error that topk.py states, before all is scaled to 1, which is what the errors sum up to at most.
    bound = np.where(truth < 2.0**-8, truth / 4, np.minimum(truth / 4, 2.0**-10)) + 2.0**-60
    scale_error = bound.reshape(rows, k).sum(1) + 2.0**-11
    assert (np.abs(got.ravel() - truth) <= bound * 1.01 + truth * np.repeat(scale_error, k) * 1.1 + 1e-6).all()
    tail = 1 - truth.reshape(rows, k).sum(1)
    assert (np.abs(targets.tail.numpy() - tail) <= tail * (2.0**-10 + 1.1 * scale_error) + 3e-6).all()
    renormalised = rule.targets(record, "renormalise")
    np.testing.assert_allclose(renormalised.weights.double().sum(1).numpy(), 1.0, atol=1e-6)
    if m:
        sparse = rule.targets(record, "draws")
        np.testing.assert_allclose(sparse.weights.double().sum(1).numpy(), 1.0, atol=1e-6)
        assert sparse.ids.shape[1] <= k + m and (sparse.weights >= 0).all()


@settings(max_examples=150)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 5), vocab=st.integers(1, 300), resolution=st.integers(1, 120),
       scale=st.floats(0.0, 40.0))
def test_sampled_of_any_logits(seed: int, rows: int, vocab: int, resolution: int, scale: float) -> None:
    logits, rule = logits_of(rows, vocab, seed, scale), Sampled(resolution)
    record = kept(rule, logits, seed)
    assert_same(through_bytes(record, rule, vocab), record)
    probs = logits.float().softmax(-1).double().numpy()
    check_rows(probs, record, rule)
    assert (record.exact + record.drawn <= resolution + 1).all()
    weights = dense(targets := rule.targets(record), vocab).numpy()
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-6)
    assert (weights >= 0).all()
    row = np.repeat(np.arange(rows), record.exact)
    assert (np.abs(weights[row, record.ids] - probs[row, record.ids]) <= 0.5 / resolution + 1e-5).all()
    clear = (probs >= 1.001 / resolution).sum(1), (probs >= 0.999 / resolution).sum(1)
    assert (clear[0] <= record.exact).all() and (record.exact <= clear[1]).all()
    assert targets.ids.shape[1] <= resolution + 1


@BOTH
def test_the_mean_through_the_bytes_is_the_distribution_and_its_kl(rule: Rule) -> None:
    """Over many texts (the source of the random numbers) every weight lies within its standard error of the truth."""
    vocab, trials = 60, 8000
    logits = logits_of(1, vocab, seed=3, scale=1.2)
    probs, student = logits.float().softmax(-1).double()[0], logits_of(1, vocab, seed=4).log_softmax(-1)[0]
    chance = np.concatenate([uniforms(0, key_of(trial), 1, rule.uniforms) for trial in range(trials)])
    record = through_bytes(rule.keep(logits.expand(trials, -1), chance), rule, vocab)
    targets = rule.targets(record, "draws")
    weights = dense(targets, vocab)
    error = (weights.mean(0) - probs).abs()
    assert (weights.std(0) > 0).all()  # rounded or drawn, each
    assert (error <= 3.9 * weights.std(0) / trials**0.5 + 2e-6).all()  # 60 tests: 3.9 is 3 for one of them
    kl = -targets.entropy.double() - (targets.weights.double() * student[targets.ids]).sum(1)
    true = float((probs * (probs.log() - student)).sum())
    assert abs(float(kl.mean()) - true) <= 3.0 * float(kl.std()) / trials**0.5 + 0.5 / ENTROPY_STEPS
    if isinstance(rule, TopK):  # without the draws it is off by far more than that
        top = rule.targets(record, "renormalise")
        assert (dense(top, vocab).mean(0) - probs).abs().max() > 20 * float((weights.std(0) / trials**0.5).max())


def test_sampled_noise_is_the_tail_over_the_resolution() -> None:
    vocab, trials, rule = 200, 4000, Sampled(30)
    logits = logits_of(1, vocab, seed=5, scale=2.5)
    probs = logits.softmax(-1)[0]
    chance = np.concatenate([uniforms(1, key_of(trial), 1, rule.uniforms) for trial in range(trials)])
    weights = dense(rule.targets(rule.keep(logits.expand(trials, -1), chance)), vocab)
    tail = float(probs[probs < 1 / 30].sum())
    noise = float(weights.var(0).sum())
    assert 0.6 * tail / 30 <= noise <= 1.15 * tail / 30  # no more than draws with replacement from the tail
    assert noise < 0.5 * float((probs * (1 - probs)).sum()) / 30  # than draws from the whole


@settings(max_examples=80)
@given(seed=st.integers(0, 10**6), vocab=st.integers(1, 400), count=st.integers(0, 30), empty=st.floats(0, 1),
       uniform=st.floats(0, 1, exclude_max=True))
def test_draws_are_systematic(seed: int, vocab: int, count: int, empty: float, uniform: float) -> None:
    """They are the tokens under equally distant ticks over the running sum, found by way of the blocks or not."""
    rng = np.random.default_rng(seed)
    mass = (rng.exponential(size=vocab) ** 3 * (rng.random(vocab) >= empty)).astype(np.float32)
    mass[rng.integers(vocab)] += 1e-3
    tail = Tail(torch.from_numpy(mass[None]))
    assert float(tail.total[0]) == pytest.approx(mass.astype(float).sum(), rel=1e-6)
    ids, valid = tail.draw(torch.tensor([count]), torch.tensor([uniform], dtype=torch.float64))
    ids = ids[valid]
    assert len(ids) == count and (np.diff(ids) >= 0).all() and (mass[ids] > 0).all()
    share = mass.astype(float) / mass.astype(float).sum()
    ends, ticks = np.cumsum(share), (np.arange(count) + uniform) / max(count, 1)
    assert (ends[ids] >= ticks - 1e-6).all() and (ends[ids] - share[ids] <= ticks + 1e-6).all()


def test_chance_depends_on_seed_text_and_row_alone() -> None:
    np.testing.assert_array_equal(uniforms(0, key_of(1), 9, 4), uniforms(0, key_of(1), 9, 4))
    np.testing.assert_array_equal(uniforms(0, key_of(1), 9, 4)[:5], uniforms(0, key_of(1), 5, 4))
    assert not np.array_equal(uniforms(0, key_of(1), 9, 4), uniforms(0, key_of(2), 9, 4))
    assert not np.array_equal(uniforms(0, key_of(1), 9, 4), uniforms(1, key_of(1), 9, 4))
    # A store is added to for years: these numbers must never change.
    assert uniforms(0, bytes(16), 1, 2).tolist() == [[0.6595285054445054, 0.09581493194177082]]
    many = uniforms(3, key_of(5), 1000, 10)
    assert many.min() >= 0 and many.max() < 1 and abs(many.mean() - 0.5) < 0.01


@BOTH
def test_chunks_do_not_matter(rule: Rule) -> None:
    logits, chance = logits_of(20, 500), uniforms(0, key_of(0), 20, rule.uniforms)
    whole = rule.keep(logits, chance)
    assert_same(join([rule.keep(logits[at:at + 7], chance[at:at + 7]) for at in range(0, 20, 7)]), whole)


@BOTH
def test_logits_that_are_not_finite_are_refused(rule: Rule) -> None:
    logits = logits_of(2, 50)
    logits[1, 3] = float("nan")
    with pytest.raises(StoreError, match="not finite"):
        kept(rule, logits)


@BOTH
def test_masked_vocabulary_rows_are_never_drawn(rule: Rule) -> None:
    logits = logits_of(4, 50, scale=0.3)
    logits[:, 30:] = -torch.inf
    record = kept(rule, logits)
    assert len(record.drawn_ids) and record.drawn_ids.max() < 30 and record.ids.max(initial=0) < 30
    few = logits_of(4, 50)
    few[:, 3:] = -torch.inf  # fewer than are kept: the others have next to no probability
    weights = dense(rule.targets(through_bytes(kept(rule, few), rule, 50), "draws"), 50)
    assert float(weights[:, 3:].max()) < 1e-18
    np.testing.assert_allclose(weights[:, :3].numpy(), few[:, :3].softmax(-1).numpy(), atol=0.06)


def test_a_flat_row_and_one_token() -> None:
    for vocab, rule in ((64, Sampled(64)), (65, Sampled(64)), (7, Sampled(64)), (1, Sampled(5)), (1, TopK(3, 2)),
                        (64, TopK(1, 63)), (2, TopK(1, 9))):
        record = through_bytes(kept(rule, torch.zeros(3, vocab)), rule, vocab)
        weights = dense(rule.targets(record, "draws"), vocab)
        np.testing.assert_allclose(weights.sum(1).numpy(), 1.0, atol=1e-6)
        assert vocab > 2 or float(weights.min()) > 0.2


@BOTH
def test_no_rows(rule: Rule) -> None:
    for tail in rule.tails:
        targets = rule.targets(nothing(rule), tail)
        assert len(targets) == 0 and targets.ids.ndim == 2
    assert len(kept(rule, torch.zeros(0, 9))) == 0


def test_what_no_teacher_can_have_said_is_refused() -> None:
    for rule in (TopK(4, 3), Sampled(9)):
        record = kept(rule, logits_of(3, 40, scale=1.0))
        record.exponents[0] += 50
        with pytest.raises(StoreError, match="no teacher can have said"):
            rule.targets(record, "draws")
    record = kept(Sampled(9), logits_of(3, 40, scale=1.0))
    record.drawn[0], record.drawn_ids = record.drawn[0] - 1, record.drawn_ids[1:]
    with pytest.raises(StoreError, match="no teacher can have said"):
        Sampled(9).targets(record)
