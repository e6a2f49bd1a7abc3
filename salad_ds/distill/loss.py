"""The one public op: hidden states in, distillation loss out, never more than one chunk of logits alive.

    loss = alpha · KL(teacher ‖ student) + (1 − alpha) · NLL          (SALAD, 'The objective')

The gradient is computed in the forward pass, chunk by chunk, with three matrix products (logits, dX, dW), in the manner
of Liger's fused linear losses; backward only scales *both* gradients by what comes from above. dW leaves through
autograd, never through ``.grad``, so that ZeRO's hooks see it. Softmax, loss and the accumulation of dW are float32
(float64 for float64 input) whatever the inputs are.

Trade-off: dX [N, H] and dW [V, H] live from forward to backward; in exchange nothing of size N × V ever exists, and the
weight need not be gathered again in backward under ZeRO-3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from salad_ds.distill.targets import DenseTargets, HiddenTargets, SparseTargets, Targets

CHUNK_BYTES = {"cpu": 48 << 20, "cuda": 512 << 20}
"""Float32 logits alive at a time. On CPU a chunk should stay near the last-level cache."""


class DistillOutput(NamedTuple):
    """A tuple, because ZeRO-3 looks for tensors in a module's outputs in tuples, lists and dictionaries only: without
    them it does not gather the head's weight for backward.

    ``loss``: scalar (or [N] for reduction 'none'), differentiable. The rest are metrics without gradient, each [N],
    float32, nats: ``kl`` and ``entropy`` (0 without a teacher), ``nll`` (0 without labels)."""

    loss: Tensor
    kl: Tensor
    nll: Tensor
    entropy: Tensor


def fused_linear_distill(
    hidden: Tensor,
    weight: Tensor,
    targets: Targets | None = None,
    labels: Tensor | None = None,
    alpha: float = 1.0,
    *,
    reduction: str = "mean",
    vocab_size: int | None = None,
    logit_scale: float = 1.0,
    logit_softcap: float | None = None,
    ignore_index: int = -100,
    chunk_rows: int | None = None,
) -> DistillOutput:
    """Distillation (and next-token) loss of ``softmax(logit_scale · hidden @ weight.T)``, fused with the projection.

    hidden [N, H] and weight [V, H]: the student's last hidden states and its head, any float dtype.
    targets: what the teacher says about the N positions; None needs ``alpha == 0``.
    labels [N] int64: the token that follows; needed where ``alpha < 1``. A label of ``ignore_index`` makes the whole
    position cost nothing. ``reduction``: 'mean' over the positions that count, 'sum', or 'none'.
    ``vocab_size``: rows of ``weight`` beyond it are padding and never enter the softmax.
    ``logit_softcap`` c: logits are c·tanh(logits / c) (Gemma-2), applied after ``logit_scale``.

    No positions, or only ignored ones: loss 0 and zero gradients for both inputs.
    Raises ValueError for shapes that disagree and for a loss whose inputs are missing.
    """
    positions = hidden.shape[0]
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden [N, H] and weight [V, H] disagree: {tuple(hidden.shape)}, {tuple(weight.shape)}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}, not mean, sum or none")
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is {alpha}, not between 0 and 1")
    if targets is None and alpha > 0:
        raise ValueError("alpha > 0 needs teacher targets")
    if labels is None and alpha < 1:
        raise ValueError("alpha < 1 needs labels")
    for name, value in (("targets", targets), ("labels", labels)):
        if value is not None and len(value) != positions:
            raise ValueError(f"{name} are for {len(value)} positions, hidden for {positions}")
    rows = vocab_size or weight.shape[0]
    if rows > weight.shape[0]:
        raise ValueError(f"vocab_size {rows} exceeds the {weight.shape[0]} rows of weight")
    chunk = chunk_rows or max(16, CHUNK_BYTES.get(hidden.device.type, 256 << 20) // (4 * rows))
    counted = None if labels is None else labels != ignore_index
    settings = _Settings(alpha, rows, logit_scale, logit_softcap, chunk, reduction, torch.is_grad_enabled())
    loss, kl, nll, entropy = _FusedLinearDistill.apply(hidden, weight, targets, labels, counted, settings)
    return DistillOutput(loss, kl, nll, entropy)


@dataclass(frozen=True)
class _Settings:
    alpha: float
    vocabulary: int
    logit_scale: float
    softcap: float | None
    chunk: int
    reduction: str
    learning: bool
    """Whether gradients are wanted: inside the op autograd cannot be asked."""


class _FusedLinearDistill(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        weight: Tensor,
        targets: Targets | None,
        labels: Tensor | None,  # type: ignore[override]
        counted: Tensor | None,
        settings: _Settings,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        positions = hidden.shape[0]
        live = weight[: settings.vocabulary]
        kl, nll, entropy = (torch.zeros(positions, dtype=exact, device=hidden.device) for _ in range(3))
        need_x, need_w = (needed and settings.learning for needed in ctx.needs_input_grad[:2])
        per_row = settings.reduction == "none"
        if per_row and need_w:
            # dW of a sum over rows that backward will weight differently cannot be formed yet: keep the inputs instead.
            ctx.replay = (targets, labels, counted, settings)
            ctx.save_for_backward(hidden, weight)
            need_x = need_w = False
        else:
            ctx.replay = None
        dx = torch.zeros_like(hidden) if need_x else None
        dw = torch.zeros(weight.shape, dtype=exact, device=weight.device) if need_w else None
        index = torch.arange(positions, device=hidden.device) if counted is None else counted.nonzero()[:, 0]
        for picked in index.split(settings.chunk):
            whole = len(picked) == positions
            h = hidden if whole else hidden[picked]
            part = targets if targets is None or whole else targets.rows(picked)
            y = None if labels is None else labels[picked]
            row_kl, row_nll, row_entropy, gradient = _chunk(h, live, part, y, settings, exact, need_x or need_w)
            kl[picked], nll[picked], entropy[picked] = row_kl, row_nll, row_entropy
            if gradient is not None:
                coarse = gradient.to(hidden.dtype)
                if dx is not None:
                    dx[picked] = coarse @ live
                if dw is not None:
                    if exact == hidden.dtype:
                        dw[: settings.vocabulary].addmm_(coarse.t(), h)
                    else:
                        dw[: settings.vocabulary] += coarse.t() @ h
        total = settings.alpha * kl + (1 - settings.alpha) * nll
        if per_row:
            loss = total
        else:
            scale = 1.0 / max(len(index), 1) if settings.reduction == "mean" else 1.0
            loss = total.sum() * scale
            if dx is not None:
                dx *= scale
            if dw is not None:
                dw *= scale
        if ctx.replay is None:
            ctx.save_for_backward(dx, None if dw is None else dw.to(weight.dtype))
        ctx.mark_non_differentiable(kl, nll, entropy)
        return loss, kl, nll, entropy

    @staticmethod
    def backward(ctx, upstream: Tensor, *_: Tensor):  # type: ignore[override]
        if ctx.replay is None:
            dx, dw = ctx.saved_tensors
            if dx is not None:
                dx = dx * (upstream[:, None] if upstream.ndim else upstream).to(dx.dtype)
            return dx, None if dw is None else dw * upstream.to(dw.dtype), None, None, None, None
        hidden, weight = ctx.saved_tensors
        targets, labels, counted, settings = ctx.replay
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        live = weight[: settings.vocabulary]
        dx = torch.zeros_like(hidden)
        dw = torch.zeros(weight.shape, dtype=exact, device=weight.device)
        index = torch.arange(len(hidden), device=hidden.device) if counted is None else counted.nonzero()[:, 0]
        for picked in index.split(settings.chunk):
            part = None if targets is None else targets.rows(picked)
            y = None if labels is None else labels[picked]
            *_, gradient = _chunk(hidden[picked], live, part, y, settings, exact, True)
            coarse = (gradient * upstream[picked, None].to(exact)).to(hidden.dtype)
            dx[picked] = coarse @ live
            dw[: settings.vocabulary] += coarse.t() @ hidden[picked]
        return dx, dw.to(weight.dtype), None, None, None, None


def _chunk(
    h: Tensor,
    w: Tensor,
    targets: Targets | None,
    labels: Tensor | None,
    settings: _Settings,
    exact: torch.dtype,
    need_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """KL, NLL, teacher entropy [C] and the gradient of alpha·KL + (1−alpha)·NLL by ``h @ w.T`` [C, V] of one chunk."""
    alpha = settings.alpha
    z = (h @ w.t()).to(exact)
    if settings.logit_scale != 1.0:
        z *= settings.logit_scale
    if settings.softcap is not None:
        z = torch.tanh(z / settings.softcap)
        slope = (1 - z.square()) if need_gradient else None
        z = z * settings.softcap
    lse = z.logsumexp(-1)
    zero = torch.zeros_like(lse)
    kl = nll = entropy = zero
    teacher: Tensor | None = None
    mass: Tensor | float = 1.0
    if isinstance(targets, SparseTargets):
        weights = targets.weights.to(exact)
        entropy = targets.entropy.to(exact)
        mass = weights.sum(-1)
        kl = mass * lse - (weights * z.gather(1, targets.ids)).sum(-1) - entropy
    elif targets is not None:
        log_q = _dense_log_probs(targets, w.shape[0], exact).clamp_min(torch.finfo(exact).min)
        teacher = log_q.exp()
        entropy = -(teacher * log_q).sum(-1)
        # As the mean of a difference: the difference of two means loses the digits of a small KL.
        kl = (teacher * (log_q - (z - lse[:, None]))).sum(-1)
    if labels is not None:
        nll = lse - z.gather(1, labels[:, None])[:, 0]
    if not need_gradient:
        return kl, nll, entropy, None
    p = z.sub_(lse[:, None]).exp_()
    if isinstance(targets, SparseTargets):
        p *= (alpha * mass + (1 - alpha))[:, None]
        p.scatter_add_(1, targets.ids, -alpha * weights)
    elif teacher is not None:
        p -= alpha * teacher
    if labels is not None and alpha < 1:
        p[torch.arange(len(labels), device=p.device), labels] -= 1 - alpha
    if settings.softcap is not None:
        p *= slope
    if settings.logit_scale != 1.0:
        p *= settings.logit_scale
    return kl, nll, entropy, p


def _dense_log_probs(targets: DenseTargets | HiddenTargets, vocabulary: int, exact: torch.dtype) -> Tensor:
    if isinstance(targets, DenseTargets):
        if targets.log_probs.shape[1] < vocabulary:
            raise ValueError(f"targets cover {targets.log_probs.shape[1]} tokens, the student has {vocabulary}")
        return targets.log_probs[:, :vocabulary].to(exact)
    if targets.head.shape[0] < vocabulary:
        raise ValueError(f"the teacher's head covers {targets.head.shape[0]} tokens, the student has {vocabulary}")
    return F.log_softmax((targets.hidden @ targets.head[:vocabulary].t()).to(exact), dim=-1)
