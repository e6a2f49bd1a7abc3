"""The PyTorch row backend against autograd in float64 on the logits themselves."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.distill import rows_torch
from salad_ds.distill.reference import reference_distill
from salad_ds.distill.rows import DenseRows, RowSettings
from salad_ds.distill.rows_torch import distill_rows
from salad_ds.distill.targets import DenseTargets, GhostTargets, HiddenTargets
from tests.distill.inputs import FORMS, gap, ghost, make, peaked, sparse


def defined(logits, targets, labels, row, weight):
    """(loss [C], gradient) in float64: the logits are hidden states whose head is the identity."""
    z = logits.detach().double().requires_grad_()
    if isinstance(targets, DenseTargets) and (row.teacher_scale != 1 or row.teacher_softcap):
        targets = HiddenTargets(targets.log_probs.double(), torch.eye(z.shape[1]).double(), row.teacher_scale,
                                row.teacher_softcap)
    loss = reference_distill(z, torch.eye(z.shape[1]), targets, labels, row.alpha, logit_scale=row.logit_scale,
                             logit_softcap=row.softcap, temperature=row.temperature)
    return loss.detach(), torch.autograd.grad((loss * weight).sum(), z)[0]


def case(form, rows, vocabulary, seed, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, vocabulary, generator=g) * 4).to(dtype)
    labels = torch.randint(0, vocabulary, (rows,), generator=g)
    log_q = peaked(rows, vocabulary, seed + 1)
    targets = {"dense": DenseTargets(log_q), "sparse": sparse(log_q, 5, 4, seed), "ghost": ghost(log_q, 5)}.get(form)
    return logits, targets, labels


def rows_of(targets):
    return DenseRows(targets.log_probs.clone()) if isinstance(targets, DenseTargets) else targets


@settings(max_examples=60)
@given(
    form=st.sampled_from(["dense", "sparse", "ghost", "none"]), rows=st.integers(1, 9), vocabulary=st.integers(12, 300),
    seed=st.integers(0, 999), alpha=st.sampled_from([0.0, 0.3, 1.0]), scale=st.sampled_from([1.0, 0.4, 2.0]),
    cap=st.sampled_from([None, 5.0]), heat=st.sampled_from([1.0, 0.7, 3.0]), weighted=st.booleans(),
    said=st.sampled_from([(1.0, None), (0.5, None), (1.5, 6.0)]),
)
def test_losses_and_gradient(form, rows, vocabulary, seed, alpha, scale, cap, heat, weighted, said):
    logits, targets, labels = case(form, rows, vocabulary, seed)
    dense = form == "dense"
    row = RowSettings(0.0 if form == "none" else alpha, scale, cap, heat if dense else 1.0, *(said if dense else ()))
    weight = torch.linspace(-1, 2, rows) if weighted else torch.ones(rows)
    loss, gradient = defined(logits, targets, labels, row, weight)
    z = logits.clone()
    out = distill_rows(z, rows_of(targets), labels, row, True, weight if weighted else None)
    torch.testing.assert_close((row.alpha * out.kl + (1 - row.alpha) * out.nll).double(), loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(z.double(), gradient, rtol=1e-4, atol=2e-6)
    only = distill_rows(logits.clone(), rows_of(targets), labels, row, False)
    for a, b in zip(only, out, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("form", FORMS[:3])
def test_rows_at_a_time_do_not_matter(form, monkeypatch):
    logits, targets, labels = case(form, 23, 100, 3)
    whole = logits.clone()
    at_once = distill_rows(whole, rows_of(targets), labels, RowSettings(0.5), True)
    monkeypatch.setattr(rows_torch, "CACHE_BYTES", 1500)
    monkeypatch.setattr(rows_torch, "THREAD_BYTES", 1500)
    assert rows_torch.rows_at_a_time(400, logits.device) < 23
    parts = distill_rows(logits, rows_of(targets), labels, RowSettings(0.5), True)
    assert torch.equal(logits, whole)
    assert all(torch.equal(a, b) for a, b in zip(parts, at_once, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("form", ["dense", "sparse", "ghost", "none"])
def test_the_gradient_has_the_logits_dtype_and_is_computed_in_better(dtype, form):
    logits, targets, labels = case(form, 7, 200, 5, dtype)
    row = RowSettings(0.0 if form == "none" else 0.5, softcap=20.0)
    loss, gradient = defined(logits, targets, labels, row, torch.ones(7))
    out = distill_rows(logits, rows_of(targets), labels, row, True)
    assert logits.dtype == dtype and out.kl.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    total = row.alpha * out.kl.double() + (1 - row.alpha) * out.nll.double()
    assert gap(total, loss) <= (1e-7 if dtype == torch.float64 else 1e-5)  # targets are float32
    assert gap(logits, gradient) <= {torch.bfloat16: 4e-3, torch.float16: 6e-4, torch.float64: 1e-7}[dtype]


def test_a_ghost_tail_is_exact_however_small():
    """200 nats below the top: in float32 the tail's probabilities are 0, and one minus the rest knows nothing of it."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 50, generator=g) - torch.tensor([[15.0], [60.0], [200.0]])
    logits[:, :4] = torch.tensor([1.0, 2.0, 0.5, 1.5])
    probs = torch.tensor([0.4, 0.3, 0.1, 0.19]).expand(3, -1)
    targets = GhostTargets(torch.arange(4).expand(3, -1).contiguous(), probs, torch.full((3,), 0.01))
    loss, gradient = defined(logits, targets, None, RowSettings(), torch.ones(3))
    out = distill_rows(logits, targets, None, RowSettings(), True)
    torch.testing.assert_close(out.kl.double(), loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(logits.double(), gradient, rtol=1e-5, atol=1e-9)


def test_a_ghost_without_tail():
    """All tokens kept, a tail without mass, or nothing but a tail: no NaN, and the KL of what is there."""
    log_q = peaked(2, 6, 0)
    everything = GhostTargets(torch.arange(6).expand(2, -1).contiguous(), log_q.exp(), torch.zeros(2))
    few = GhostTargets(torch.tensor([[0, 1], [2, 3]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.zeros(2))
    for targets in (everything, few):
        logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
        z = logits.clone()
        out = distill_rows(z, targets, None, RowSettings(), True)
        told = torch.zeros(2, 6).scatter(1, targets.ids, targets.probs).double()
        right = torch.nn.functional.kl_div(logits.double().log_softmax(-1), told, reduction="none").sum(-1)
        torch.testing.assert_close(out.kl.double(), right, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(z.double(), logits.double().softmax(-1) - told, rtol=1e-5, atol=1e-6)

    z = torch.randn(2, 6)
    out = distill_rows(z, GhostTargets(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0), torch.ones(2)), None,
                       RowSettings(), True)
    assert out.kl.abs().max() < 1e-6 and z.abs().max() < 1e-6


def test_a_teacher_may_rule_tokens_out():
    logits, targets, labels = case("dense", 4, 30, 2)
    said = targets.log_probs.clone()
    said[:, 10:] = -torch.inf
    z = logits.clone()
    out = distill_rows(z, DenseRows(said.clone()), labels, RowSettings(0.5), True)
    q = said.double().softmax(-1)
    right = torch.special.xlogy(q, q).sum(-1) - (q * logits.double().log_softmax(-1)).sum(-1)
    torch.testing.assert_close(out.kl.double(), right, rtol=1e-5, atol=1e-6)
    assert z.isfinite().all() and out.entropy.isfinite().all()


@pytest.mark.parametrize("size", [1e-2, 1e-3])
def test_a_small_divergence_keeps_its_digits(size):
    """KL ≈ size² / 2, of two distributions whose log-probabilities are some ten nats; float32 alone would see 1e-6."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 50_000, generator=g) * 3
    said = logits + size * torch.randn(logits.shape, generator=g)
    q, p = said.double().log_softmax(-1), logits.double().log_softmax(-1)
    right = (q.exp() * (q - p)).sum(-1)
    out = distill_rows(logits.clone(), DenseRows(said), None, RowSettings(), False)
    assert right.max() < size**2
    assert (out.kl.double() - right).abs().max() <= 1e-8 + 1e-3 * right.max()


def test_logits_of_any_size_give_finite_losses():
    logits = torch.tensor([[3e38, -3e38, 0.0, 1.0], [1e4, 1e4, -1e4, 0.0], [-200.0, -201.0, -202.0, -203.0]])
    labels = torch.tensor([0, 1, 3])
    out = distill_rows(logits, None, labels, RowSettings(0.0), True)
    torch.testing.assert_close(out.nll, torch.tensor([0.0, math.log(2), 3.4402]), rtol=1e-4, atol=1e-6)
    assert logits.isfinite().all()


def test_make_covers_the_forms():
    """Every form that the op takes has a case in these tests."""
    assert {type(make(form, 2, 12, 3)[2]).__name__ for form in FORMS} == {
        "DenseTargets", "SparseTargets", "GhostTargets", "HiddenTargets", "NoneType"}
