"""The public loss op against its float64 definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.distill import DenseTargets, HiddenTargets, SparseTargets, fused_linear_distill
from salad_ds.distill.reference import reference_distill


def peaked(rows: int, vocabulary: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Log-probabilities with a natural-language shape: a few tokens hold most of the mass."""
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocabulary, generator=g, dtype=dtype) * 4).log_softmax(-1)


def sparse(log_q: torch.Tensor, k: int, m: int, seed: int) -> SparseTargets:
    q = log_q.exp()
    top = q.topk(k)
    tail = q.scatter(1, top.indices, 0.0)
    mass = tail.sum(-1, keepdim=True)
    drawn = torch.multinomial(tail, m, replacement=True, generator=torch.Generator().manual_seed(seed))
    return SparseTargets(
        torch.cat([top.indices, drawn], 1), torch.cat([top.values, (mass / m).expand(-1, m)], 1), -(q * log_q).sum(-1)
    )


def make(form: str, rows: int, vocabulary: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=g, dtype=dtype)
    weight = torch.randn(vocabulary, width, generator=g, dtype=dtype) * 0.3
    labels = torch.randint(0, vocabulary, (rows,), generator=g)
    log_q = peaked(rows, vocabulary, seed + 1, dtype)
    targets = {
        "dense": lambda: DenseTargets(log_q),
        "sparse": lambda: sparse(log_q, 6, 4, seed),
        "hidden": lambda: HiddenTargets(
            torch.randn(rows, 7, generator=g, dtype=dtype), torch.randn(vocabulary, 7, generator=g, dtype=dtype)
        ),
        "none": lambda: None,
    }[form]()
    return hidden.requires_grad_(), weight.requires_grad_(), targets, labels


@pytest.mark.parametrize("form", ["dense", "sparse", "hidden"])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("extra", [{}, {"vocab_size": 83}, {"logit_scale": 0.5}, {"logit_softcap": 3.0}])
def test_loss_and_gradients_agree_with_the_definition(form, alpha, extra):
    hidden, weight, targets, labels = make(form, 23, 97, 11)
    if "vocab_size" in extra:
        labels = labels % extra["vocab_size"]
        if form == "sparse":
            targets.ids %= extra["vocab_size"]
        elif form == "dense":
            targets.log_probs = targets.log_probs[:, :83].log_softmax(-1)
    labels[3] = labels[20] = -100
    ours = fused_linear_distill(hidden, weight, targets, labels, alpha, chunk_rows=5, **extra)
    (ours.loss * 3.0).backward()
    got_x, got_w = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    definition = reference_distill(hidden, weight, targets, labels, alpha, **extra).sum() / 21
    (definition * 3.0).backward()
    assert ours.loss.item() == pytest.approx(definition.item(), rel=1e-5)
    torch.testing.assert_close(got_x, hidden.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(got_w, weight.grad, rtol=1e-4, atol=1e-6)
    if "vocab_size" in extra:
        assert got_w[83:].abs().max() == 0


@pytest.mark.parametrize("form", ["dense", "sparse", "hidden", "none"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck_in_float64(form, reduction):
    hidden, weight, targets, labels = make(form, 7, 19, 5, torch.float64)
    alpha = 0.0 if form == "none" else 0.7

    def loss(x, w):
        return fused_linear_distill(x, w, targets, labels, alpha, reduction=reduction, chunk_rows=3).loss

    assert torch.autograd.gradcheck(loss, (hidden, weight))


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 40),
    chunk=st.integers(1, 50),
    seed=st.integers(0, 99),
    form=st.sampled_from(["dense", "sparse"]),
)
def test_the_chunk_size_does_not_matter(rows, chunk, seed, form):
    hidden, weight, targets, labels = make(form, rows, 61, 8, seed=seed)
    whole = fused_linear_distill(hidden, weight, targets, labels, 0.6, chunk_rows=rows)
    dx, dw = torch.autograd.grad(whole.loss, (hidden, weight))
    parts = fused_linear_distill(hidden, weight, targets, labels, 0.6, chunk_rows=chunk)
    px, pw = torch.autograd.grad(parts.loss, (hidden, weight))
    torch.testing.assert_close(parts.loss, whole.loss, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(px, dx, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pw, dw, rtol=1e-5, atol=1e-6)


def test_a_student_that_equals_its_teacher_has_no_divergence_and_no_gradient():
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 32, generator=g).requires_grad_()
    weight = torch.randn(4096, 32, generator=g).requires_grad_()
    targets = HiddenTargets(hidden.detach().clone(), weight.detach().clone())
    out = fused_linear_distill(hidden, weight, targets)
    out.loss.backward()
    assert abs(out.loss.item()) <= 1e-6
    assert hidden.grad.abs().max() <= 1e-6 and weight.grad.abs().max() <= 1e-6


def test_sampling_the_tail_leaves_the_gradient_unbiased():
    """Mean over many draws of exact top-k + sampled tail equals the full-distribution gradient within 4 standard
    errors."""
    hidden, weight, _, _ = make("dense", 4, 200, 6)
    log_q = (torch.randn(4, 200, generator=torch.Generator().manual_seed(5)) * 1.5).log_softmax(-1)
    full = torch.autograd.grad(fused_linear_distill(hidden, weight, DenseTargets(log_q)).loss, hidden)[0]
    draws = torch.stack(
        [
            torch.autograd.grad(fused_linear_distill(hidden, weight, sparse(log_q, 8, 8, seed)).loss, hidden)[0]
            for seed in range(600)
        ]
    )
    error = (draws.mean(0) - full).abs() / (draws.std(0) / 600**0.5)
    assert error.max() < 4.0
    assert draws.std(0).max() > 1e-3, "the draws do not vary: nothing was tested"


@pytest.mark.parametrize("labels", [torch.zeros(0, dtype=torch.long), torch.full((5,), -100)])
def test_nothing_to_learn_gives_zero_loss_and_zero_gradients(labels):
    rows = len(labels)
    hidden, weight = torch.randn(rows, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    out = fused_linear_distill(hidden, weight, DenseTargets(peaked(rows, 30, 0)), labels, 0.5)
    out.loss.backward()
    assert out.loss.item() == 0.0
    assert hidden.grad.shape == hidden.shape and not hidden.grad.any()
    assert weight.grad.shape == weight.shape and not weight.grad.any()


def test_bfloat16_is_no_worse_than_torchs_own():
    hidden, weight, targets, labels = make("dense", 64, 500, 32)
    exact = reference_distill(hidden, weight, targets, labels, 1.0).mean()
    h, w = hidden.detach().bfloat16(), weight.detach().bfloat16()
    torchs = reference_distill(h, w, targets, labels, 1.0).mean()
    ours = fused_linear_distill(h, w, targets, labels).loss
    assert abs(ours.item() - exact.item()) <= abs(torchs.item() - exact.item()) + 1e-2


@pytest.mark.parametrize(
    "call, message",
    [
        (dict(targets=None), "needs teacher targets"),
        (dict(labels=None, alpha=0.5), "needs labels"),
        (dict(alpha=1.5), "alpha is 1.5"),
        (dict(reduction="median"), "median"),
        (dict(vocab_size=999), "exceeds"),
        (dict(labels=torch.zeros(3, dtype=torch.long)), "are for 3 positions"),
    ],
)
def test_contradictions_are_refused(call, message):
    hidden, weight, targets, labels = make("dense", 4, 20, 3)
    with pytest.raises(ValueError, match=message):
        fused_linear_distill(hidden, weight, **{"targets": targets, "labels": labels, **call})
