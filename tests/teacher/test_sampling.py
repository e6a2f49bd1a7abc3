"""Top-k and draws: exact where they promise to be, without bias elsewhere, and a function of the text alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.distill.targets import SparseTargets
from salad_ds.errors import StoreError
from salad_ds.teacher.sampling import Record, join, summarise, uniforms


def key_of(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=16).digest()


def dense(targets: SparseTargets, vocab: int) -> torch.Tensor:
    return torch.zeros(len(targets), vocab, dtype=torch.float64).scatter_add_(1, targets.ids, targets.weights.double())


def peaked(rows: int, vocab: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 5), vocab=st.integers(1, 300), k=st.integers(1, 40),
       m=st.integers(0, 20), scale=st.floats(0.0, 40.0))
def test_record_of_any_logits(seed: int, rows: int, vocab: int, k: int, m: int, scale: float) -> None:
    logits = peaked(rows, vocab, seed, scale)
    record = summarise(logits, k, uniforms(seed, key_of(seed), rows, m))
    probs = logits.float().softmax(-1).double().numpy()
    k = min(k, vocab)
    assert record.top_ids.shape == (rows, k) and (np.diff(record.top_ids, axis=1) > 0).all()
    kept = np.take_along_axis(probs, record.top_ids, 1)
    np.testing.assert_allclose(np.exp(record.top_log_probs), kept, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(np.sort(kept, 1), np.sort(probs, 1)[:, vocab - k:], rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(record.tail, 1 - kept.sum(1), atol=2e-6)
    entropy = -(probs * np.log(np.maximum(probs, 1e-300))).sum(1)
    np.testing.assert_allclose(record.entropy, entropy, rtol=1e-4, atol=1e-5)
    assert (np.diff(record.drawn_ids, axis=1) >= 0).all()
    for row in range(rows):  # a draw is never one of the top, and never without mass
        if record.tail[row] > 0:
            assert not set(record.drawn_ids[row]) & set(record.top_ids[row])
            assert (probs[row, record.drawn_ids[row]] > 0).all()
    sums = record.targets().weights.double().sum(1).numpy()
    np.testing.assert_allclose(sums, 1.0 if m else 1.0 - record.tail, atol=2e-6)


def test_mean_over_draws_is_the_distribution_and_its_kl() -> None:
    """Over many texts (the source of the random numbers) every weight lies within its standard error of the truth."""
    vocab, k, m, trials = 60, 6, 4, 6000
    logits = peaked(1, vocab, seed=3, scale=1.2)
    probs = logits.softmax(-1)[0]
    student = peaked(1, vocab, seed=4).log_softmax(-1)[0]
    draws = np.concatenate([uniforms(0, key_of(trial), 1, m) for trial in range(trials)])
    targets = summarise(logits.expand(trials, -1), k, draws).targets()
    weights = dense(targets, vocab)
    error = (weights.mean(0) - probs).abs()
    assert (error <= 4.0 * weights.std(0) / trials**0.5 + 1e-6).all()  # 60 tests: 4 is 3 corrected for their number
    kl = -targets.entropy.double() - (targets.weights.double() * student[targets.ids]).sum(1)
    true = float((probs * (probs.log() - student)).sum())
    assert abs(float(kl.mean()) - true) <= 3.0 * float(kl.std()) / trials**0.5 + 1e-5
    # the top alone is off by far more than that
    top = -targets.entropy.double() - (targets.weights[:, :k].double() * student[targets.ids[:, :k]]).sum(1)
    assert abs(float(top.mean()) - true) > 20 * float(kl.std()) / trials**0.5


def test_strata_never_spread_more_than_independent_draws() -> None:
    vocab, m, trials = 200, 8, 4000
    logits = peaked(1, vocab, seed=5, scale=1.0)
    probs = logits.softmax(-1)[0]
    draws = np.concatenate([uniforms(1, key_of(trial), 1, m) for trial in range(trials)])
    weights = dense(summarise(logits.expand(trials, -1), 1, draws).targets(), vocab)
    top = int(probs.argmax())
    tail = 1 - probs[top]
    independent = probs * (tail - probs) / m
    independent[top] = 0
    statistic = peaked(1, vocab, seed=6)[0]
    mean = (probs * statistic).sum() - probs[top] * statistic[top]
    spread = tail * (probs * statistic**2).sum() - tail * probs[top] * statistic[top] ** 2 - mean**2
    assert float((weights @ statistic).var()) <= 1.1 * float(spread) / m
    assert float(weights.var(0).sum()) <= 1.02 * float(independent.sum())


def test_draws_depend_on_seed_text_and_row_alone() -> None:
    np.testing.assert_array_equal(uniforms(0, key_of(1), 9, 4), uniforms(0, key_of(1), 9, 4))
    np.testing.assert_array_equal(uniforms(0, key_of(1), 9, 4)[:5], uniforms(0, key_of(1), 5, 4))
    assert not np.array_equal(uniforms(0, key_of(1), 9, 4), uniforms(0, key_of(2), 9, 4))
    assert not np.array_equal(uniforms(0, key_of(1), 9, 4), uniforms(1, key_of(1), 9, 4))
    # A store is added to for years: these numbers must never change.
    assert uniforms(0, bytes(16), 1, 2).tolist() == [[0.6595285054445054, 0.09581493194177082]]
    many = uniforms(3, key_of(5), 1000, 10)
    assert many.min() >= 0 and many.max() < 1 and abs(many.mean() - 0.5) < 0.01


def test_chunks_do_not_matter() -> None:
    logits, draws = peaked(20, 500), uniforms(0, key_of(0), 20, 8)
    whole = summarise(logits, 10, draws)
    parts = join([summarise(logits[at:at + 7], 10, draws[at:at + 7]) for at in range(0, 20, 7)])
    for name in Record.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_logits_that_are_not_finite_are_refused() -> None:
    logits = peaked(2, 50)
    logits[1, 3] = float("nan")
    with pytest.raises(StoreError, match="not finite"):
        summarise(logits, 5, uniforms(0, key_of(0), 2, 3))


def test_masked_vocabulary_rows_are_never_drawn() -> None:
    logits = peaked(4, 50)
    logits[:, 30:] = -torch.inf
    record = summarise(logits, 5, uniforms(0, key_of(0), 4, 64))
    assert record.drawn_ids.max() < 30 and np.isfinite(record.entropy).all()
