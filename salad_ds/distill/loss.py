"""The one public op: hidden states in, distillation loss out, never more than one chunk of logits alive.

    loss = alpha · KL(teacher ‖ student) + (1 − alpha) · NLL          (SALAD, 'The objective')

The gradient is computed in the forward pass, chunk by chunk, with three matrix products (logits, dX, dW; a fourth makes
the logits of a teacher given by its hidden states), in the manner of Liger's fused linear losses; backward only scales
*both* gradients by what comes from above. dW leaves through autograd, never through ``.grad``, so that ZeRO's hooks see
it. Softmax, loss and the accumulation of dW are float32 (float64 for float64 input) whatever the inputs are; the logits
themselves have the dtype of the inputs, as with an ordinary head.

Trade-off: dX [N, H] and dW [V, H] live from forward to backward; in exchange nothing of size N × V ever exists, and the
weight need not be gathered again in backward under ZeRO-3.

What happens between the products is a backend's (rows, backend); the chunk's size is chosen in chunks, and what the op
refuses stands in accepted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from salad_ds.distill import accepted, products
from salad_ds.distill import backend as backends
from salad_ds.distill.chunks import chunk_rows as chosen_rows
from salad_ds.distill.rows import DenseRows, RowBackend, RowLosses, RowSettings, RowTeacher
from salad_ds.distill.targets import DenseTargets, GhostTargets, HiddenTargets, SparseTargets, Targets


class DistillOutput(NamedTuple):
    """A tuple, because ZeRO-3 looks for tensors in a module's outputs in tuples, lists and dictionaries only: without
    them it does not gather the head's weight for backward.

    ``loss``: scalar (or [N] for reduction 'none'), differentiable. The rest are metrics without gradient, each [N],
    float32, nats, 0 at ignored positions: ``kl`` and ``entropy`` of the teacher (0 without one), ``nll`` (0 without
    labels), ``lse`` (log-sum-exp of the student's logits, after scale and cap)."""

    loss: Tensor
    kl: Tensor
    nll: Tensor
    entropy: Tensor
    lse: Tensor


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
    temperature: float = 1.0,
    ignore_index: int = -100,
    chunk_rows: int | None = None,
    backend: str | None = None,
) -> DistillOutput:
    """Distillation (and next-token) loss of ``softmax(logit_scale · hidden @ weight.T)``, fused with the projection.

    hidden [N, H] and weight [V, H]: the student's last hidden states and its head, of one float dtype; under autocast
    both are cast to its dtype, as nn.Linear casts them.
    targets: what the teacher says about the N positions; None needs ``alpha == 0``.
    labels [N] int64: the token that follows; needed where ``alpha < 1``. A label of ``ignore_index`` makes the whole
    position cost nothing: it is not computed, and may hold anything. ``reduction``: 'mean' over the positions that
    count, 'sum', or 'none' (which, for a weight that learns, computes the logits a second time in backward).
    ``vocab_size``: rows of ``weight`` beyond it are padding and never enter the softmax.
    ``logit_softcap`` c: logits are c·tanh(logits / c) (Gemma-2), applied after ``logit_scale``.
    ``temperature`` T: T² · KL between the distributions at T (Hinton et al., arXiv 1503.02531), for dense and hidden
    targets; the NLL stays at 1.
    ``chunk_rows``: positions at a time, instead of the choice of ``chunks.chunk_rows``. ``backend``: see ``backend``.

    No positions, or only ignored ones: loss 0 and zero gradients for both inputs.
    Raises ValueError for shapes, dtypes and ids that disagree, for a loss whose inputs are missing, and for settings
    that cannot be honoured. Ids are looked at on a CPU only (on a GPU that would wait for it). A second derivative is
    refused by a RuntimeError.
    """
    hidden, weight = _under_autocast(hidden, weight)
    settings = RowSettings(alpha, logit_scale, logit_softcap, temperature)
    if isinstance(targets, HiddenTargets):
        settings = replace(settings, teacher_scale=targets.logit_scale, teacher_softcap=targets.logit_softcap)
    vocabulary = weight.shape[0] if vocab_size is None else vocab_size
    accepted.student(hidden, weight, vocabulary, labels, settings, reduction, chunk_rows)
    accepted.teacher(targets, hidden, vocabulary, settings)
    index = None
    if labels is not None:
        index = (labels != ignore_index).nonzero()[:, 0]
        index = None if len(index) == len(labels) else index
        accepted.ids("labels", labels if index is None else labels[index], vocabulary)
    if isinstance(targets, SparseTargets | GhostTargets):
        accepted.ids("targets", targets.ids if index is None else targets.ids[index], vocabulary)
    counted = len(hidden) if index is None else len(index)
    chunk = chunk_rows or chosen_rows(counted, vocabulary, hidden.dtype, hidden.device)
    call = _Call(settings, vocabulary, chunk, reduction, index, torch.is_grad_enabled(),
                 backends.rows(hidden.device, backend))
    return DistillOutput(*_FusedLinearDistill.apply(hidden, weight, targets, labels, call))


def _under_autocast(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    kind = hidden.device.type
    if not torch.is_autocast_enabled(kind) or hidden.dtype == torch.float64:
        return hidden, weight
    dtype = torch.get_autocast_dtype(kind)
    return hidden.to(dtype), weight.to(dtype)


@dataclass(frozen=True)
class _Call:
    """``index``: the positions that count, None for all of them. ``learning``: whether gradients are wanted (inside the
    op autograd cannot be asked)."""

    settings: RowSettings
    vocabulary: int
    chunk: int
    reduction: str
    index: Tensor | None
    learning: bool
    rows: RowBackend


class _Context(FunctionCtx):
    """What torch hands to both passes: ``replay`` and ``dtype`` are what forward leaves for backward, the rest is
    torch's own."""

    replay: tuple[Targets | None, Tensor | None, _Call] | None
    dtype: torch.dtype
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor | None, ...]


class _FusedLinearDistill(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, hidden: Tensor, weight: Tensor, targets: Targets | None, labels: Tensor | None,
                call: _Call) -> tuple[Tensor, ...]:
        need_x, need_w = (needed and call.learning for needed in ctx.needs_input_grad[:2])
        per_row = call.reduction == "none"
        # dW of a sum over rows that backward will weight differently cannot be formed yet: keep the inputs instead.
        ctx.replay = (targets, labels, call) if per_row and need_w else None
        counted = len(hidden) if call.index is None else len(call.index)
        scale = 1.0 / max(counted, 1) if call.reduction == "mean" else 1.0
        wanted = (need_x, need_w) if ctx.replay is None else (False, False)
        with torch.autocast(hidden.device.type, enabled=False):
            losses, dx, dw = _chunks(hidden, weight, targets, labels, call, wanted, scale, None)
        ctx.dtype = hidden.dtype
        kept = (dx, dw) if ctx.replay is None else (hidden, weight)
        ctx.save_for_backward(*kept)  # type: ignore[arg-type]  # None will do as well
        alpha = call.settings.alpha
        shares = [share * part for share, part in ((alpha, losses.kl), (1 - alpha, losses.nll)) if share]
        loss = shares[0] if len(shares) == 1 else shares[0] + shares[1]
        loss = loss if per_row else loss.sum() * scale
        ctx.mark_non_differentiable(*losses)
        return loss, *losses

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.replay is not None:
            hidden, weight = ctx.saved_tensors
            targets, labels, call = ctx.replay
            assert hidden is not None and weight is not None
            with torch.autocast(hidden.device.type, enabled=False):
                _, dx, dw = _chunks(hidden, weight, targets, labels, call, ctx.needs_input_grad[:2], 1.0, upstream)
            return dx, dw, None, None, None
        # In place, for dW is as large as the weight; unless the graph is kept, and may be asked again.
        kept = torch._C._autograd._get_current_graph_task_keep_graph()
        factor = upstream.reshape(-1, 1)  # not a scalar: the product is then formed in the wider dtype of the two
        scaled = [None if value is None else torch.mul(value, factor, out=torch.empty_like(value) if kept else value)
                  for value in ctx.saved_tensors]
        return *(None if value is None else value.to(ctx.dtype) for value in scaled), None, None, None


def _chunks(hidden: Tensor, weight: Tensor, targets: Targets | None, labels: Tensor | None, call: _Call,
            wanted: tuple[bool, ...], scale: float, row_weight: Tensor | None,
            ) -> tuple[RowLosses, Tensor | None, Tensor | None]:
    """Losses [N], dX [N, H] and dW [V, H] (None where not wanted) of Σ row_weight · scale · loss.

    Gradients are in the inputs' dtype, but float32 for float16: loss scaling comes only in backward, and until then
    they could be too small for it.
    """
    exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    given = exact if hidden.dtype == torch.float16 else hidden.dtype
    index, need_x, need_w = call.index, *wanted
    h = (hidden if index is None else hidden[index]).contiguous()
    y, by_row = (value if value is None or index is None else value[index] for value in (labels, row_weight))
    live, counted = weight[: call.vocabulary], len(h)
    losses = RowLosses(*(torch.zeros(counted, dtype=exact, device=h.device) for _ in RowLosses._fields))
    dx = torch.empty_like(h, dtype=given) if need_x else None
    total = None
    if need_w:  # one chunk is one product, which is accumulated in float32 within; several need a float32 matrix
        total = torch.empty(weight.shape, dtype=given if counted <= call.chunk else exact, device=h.device)
    logits = torch.empty(min(call.chunk, counted), call.vocabulary, dtype=h.dtype, device=h.device)
    teacher = _TeacherRows(targets, index, len(logits), call.vocabulary)
    for start in range(0, counted, call.chunk):
        rows = slice(start, min(start + call.chunk, counted))
        z = logits[: rows.stop - start]
        products.project(h[rows], live, z)
        part = call.rows(z, teacher(rows), None if y is None else y[rows], call.settings, need_x or need_w,
                         None if by_row is None else by_row[rows])
        for whole, value in zip(losses, part, strict=True):
            whole[rows] = value
        if dx is not None:
            products.by_hidden(z, live, dx[rows], scale)
        if total is not None:
            products.by_weight(z, h[rows], total[: call.vocabulary], start == 0, scale)
    if total is not None:
        total[call.vocabulary if counted else 0 :].zero_()
        total = total.to(given)
    if index is not None:
        losses = RowLosses(*(_spread(part, index, len(hidden)) for part in losses))
        dx = None if dx is None else _spread(dx, index, len(hidden))
    return losses, dx, total


def _spread(rows: Tensor, index: Tensor, positions: int) -> Tensor:
    """The rows at their places among zeros."""
    return rows.new_zeros(positions, *rows.shape[1:]).index_copy_(0, index, rows)


class _TeacherRows:
    """The teacher's part for a chunk of the counted positions; dense logits in one buffer for all chunks."""

    def __init__(self, targets: Targets | None, index: Tensor | None, rows: int, vocabulary: int) -> None:
        self.targets, self.index, self.vocabulary = targets, index, vocabulary
        whole = targets.hidden if isinstance(targets, HiddenTargets) else \
            targets.log_probs if isinstance(targets, DenseTargets) else None
        self.logits = None if whole is None else whole.new_empty(rows, vocabulary)

    def __call__(self, rows: slice) -> RowTeacher:
        if self.targets is None:
            return None
        part = self.targets.rows(rows if self.index is None else self.index[rows])
        if isinstance(part, SparseTargets | GhostTargets):
            return part
        assert self.logits is not None
        logits = self.logits[: rows.stop - rows.start]
        if isinstance(part, HiddenTargets):
            products.project(part.hidden.contiguous(), part.head[: self.vocabulary], logits)
        else:
            logits.copy_(part.log_probs[:, : self.vocabulary])
        return DenseRows(logits)
