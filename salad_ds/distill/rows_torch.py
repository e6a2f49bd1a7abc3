"""The row backend in plain PyTorch: every device, and the fast path of a CPU.

A CPU spends its time on memory, not on exponentials: a fresh buffer costs ten times as much as one that is used again
(page faults), and a pass over rows that have left the cache costs as much as their softmax. So a part of the rows is
taken at a time, and everything happens to it in place while it is in the cache: ``torch.softmax(z, out=z)`` is the only
pass with exponentials, and the normaliser is read off its result. Not too small a part, though: at the end of every
operation the threads wait for each other, which takes long on a machine that has more to do than cores.

No difference of large numbers is ever formed. log p = (z − max) + log max p, with log max p between −log V and 0; the
KL of a dense teacher is the mean of a difference, never the difference of two means; the mass of a ghost tail is a sum
of its own, never one minus the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from salad_ds.distill.rows import DenseRows, RowLosses, RowSettings, RowTeacher
from salad_ds.distill.targets import GhostTargets, SparseTargets

CACHE_BYTES, THREAD_BYTES = 16 << 20, 1 << 20
"""Rows at a time on a CPU: a part of the last-level cache, or as much as the threads' own caches hold."""
DEVICE_BYTES = 64 << 20
"""Rows at a time elsewhere: enough to fill a GPU."""


def distill_rows(
    logits: Tensor,
    teacher: RowTeacher,
    labels: Tensor | None,
    settings: RowSettings,
    gradient: bool,
    row_weight: Tensor | None = None,
) -> RowLosses:
    """See ``rows.RowBackend``. float64 logits are computed in float64, all others in float32."""
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    losses = RowLosses(*(torch.zeros(len(logits), dtype=exact, device=logits.device) for _ in RowLosses._fields))
    step = rows_at_a_time(logits.shape[1] * exact.itemsize, logits.device)
    scratch = _Scratch(min(step, len(logits)), logits.shape[1], exact, logits.device)
    for start in range(0, len(logits), step):
        rows = slice(start, min(start + step, len(logits)))
        z = logits[rows] if logits.dtype == exact else scratch("logits", logits[rows])
        part = _block(z, _part(teacher, rows), None if labels is None else labels[rows], settings, gradient,
                      None if row_weight is None else row_weight[rows].to(exact), scratch)
        for whole, value in zip(losses, part, strict=True):
            if value is not None:
                whole[rows] = value
        if gradient and z.dtype != logits.dtype:
            logits[rows] = z
    return losses


def rows_at_a_time(row_bytes: int, device: torch.device) -> int:
    if device.type != "cpu":
        return max(1, DEVICE_BYTES // row_bytes)
    threads = torch.get_num_threads()
    return max(threads, max(CACHE_BYTES, THREAD_BYTES * threads) // row_bytes)


class _Scratch:
    """Named buffers of one block's size, made when first asked for and used again for every block."""

    def __init__(self, rows: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = (rows, width), dtype, device
        self.held: dict[str, Tensor] = {}

    def __call__(self, name: str, like: Tensor) -> Tensor:
        """A copy of ``like``, in the exact dtype."""
        return self.empty(name, len(like)).copy_(like)

    def empty(self, name: str, rows: int) -> Tensor:
        if name not in self.held:
            self.held[name] = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        return self.held[name][:rows]


def _part(teacher: RowTeacher, rows: slice) -> RowTeacher:
    if isinstance(teacher, DenseRows):
        return DenseRows(teacher.logits[rows])
    return None if teacher is None else teacher.rows(rows)


def _block(z: Tensor, teacher: RowTeacher, labels: Tensor | None, settings: RowSettings, gradient: bool,
           weight: Tensor | None, scratch: _Scratch) -> tuple[Tensor | None, ...]:
    """(kl, nll, entropy, lse) of a few rows ``z``, which become the gradient. ``weight``: [C] or None."""
    slope = _transform(z, settings.logit_scale, settings.softcap, scratch if gradient else None)
    if slope is None and settings.logit_scale != 1:  # a factor of the whole row, like the weight
        weight = torch.full_like(z[:, 0], settings.logit_scale) if weight is None else weight * settings.logit_scale
    if isinstance(teacher, DenseRows):
        result = _dense(z, teacher.logits, labels, settings, gradient, weight, scratch)
    elif isinstance(teacher, GhostTargets):
        result = _ghost(z, teacher, labels, settings, gradient, weight)
    else:
        result = _sparse(z, teacher, labels, settings, gradient, weight)
    if gradient:
        if labels is not None and settings.alpha < 1:
            share = torch.full_like(z[:, :1], settings.alpha - 1)
            z.scatter_add_(1, labels[:, None], share if weight is None else share * weight[:, None])
        if slope is not None:
            z.mul_(slope)
    return result


def _transform(z: Tensor, scale: float, cap: float | None, scratch: _Scratch | None) -> Tensor | None:
    """``z`` becomes cap(scale · z); returns its derivative where there is a cap and a scratch is given."""
    if cap is None:
        if scale != 1:
            z.mul_(scale)
        return None
    z.mul_(scale / cap).tanh_()
    slope = None
    if scratch is not None:
        slope = torch.mul(z, z, out=scratch.empty("slope", len(z)))
        slope.mul_(-scale).add_(scale)
    z.mul_(cap)
    return slope


def _sparse(z: Tensor, teacher: SparseTargets | None, labels: Tensor | None, settings: RowSettings, gradient: bool,
            weight: Tensor | None) -> tuple[Tensor | None, ...]:
    """Weighted tokens, or none: KL = −Σ w log p − entropy, gradient = (Σ w) p − w."""
    top = z.amax(-1)
    at_labels = None if labels is None else z.gather(1, labels[:, None])[:, 0]
    at_ids = None if teacher is None else z.gather(1, teacher.ids)
    torch.softmax(z, -1, out=z)
    below = z.amax(-1).log()  # log p of the most likely token
    nll = None if at_labels is None else (top - at_labels) - below
    kl = entropy = factor = None
    if teacher is not None and at_ids is not None:
        weights, entropy = teacher.weights.to(z.dtype), teacher.entropy.to(z.dtype)
        log_p = (at_ids - top[:, None]) + below[:, None]
        kl = -(weights * log_p).sum(-1, dtype=torch.float64) - entropy
        factor = settings.alpha * weights.sum(-1) + (1 - settings.alpha)
    if gradient:
        if weight is not None:
            factor = weight if factor is None else factor * weight
        if factor is not None:
            z.mul_(factor[:, None])
        if teacher is not None and settings.alpha > 0:
            share = -settings.alpha * weights
            z.scatter_add_(1, teacher.ids, share if weight is None else share * weight[:, None])
    return kl, nll, entropy, top - below


def _ghost(z: Tensor, teacher: GhostTargets, labels: Tensor | None, settings: RowSettings, gradient: bool,
           weight: Tensor | None) -> tuple[Tensor | None, ...]:
    """K tokens and the tail as one event.

    With the K tokens out of the way, the softmax of the rest is r, the student's distribution *inside* its tail, and
    its normaliser gives the tail's mass s exactly, however small. The gradient there is r (s Q − q_tail), Q = Σ q.
    """
    alpha, q, tail = settings.alpha, teacher.probs.to(z.dtype), teacher.tail.to(z.dtype)
    at_ids = z.gather(1, teacher.ids)
    at_labels = None if labels is None else z.gather(1, labels[:, None])[:, 0]
    z.scatter_(1, teacher.ids, -torch.inf)
    rest_top = z.amax(-1)
    top = torch.maximum(rest_top, at_ids.amax(-1)) if at_ids.shape[1] else rest_top
    at_ids -= top[:, None]
    if teacher.ids.shape[1] < z.shape[1]:
        torch.softmax(z, -1, out=z)
        rest = (rest_top - top) - z.amax(-1).log()
    else:  # no tail
        z.zero_()
        rest = rest_top
    norm = torch.logaddexp(rest, at_ids.logsumexp(-1))
    log_p, log_s = at_ids - norm[:, None], rest - norm
    own = torch.special.xlogy(q, q).sum(-1) + torch.special.xlogy(tail, tail)
    missed = torch.where(tail > 0, tail * (tail.log() - log_s), torch.zeros_like(tail))
    p, s = log_p.exp(), log_s.exp()
    given = q.sum(-1) + tail
    excess = p.sum(-1, dtype=torch.float64) + s - 1  # see _dense
    kl = (q * (torch.where(q > 0, q.log(), log_p) - log_p)).sum(-1, dtype=torch.float64) + missed + given * excess
    nll = None if at_labels is None else (top - at_labels) + norm
    if gradient:
        share = alpha * given + (1 - alpha)
        inside, outside = share[:, None] * p - alpha * q, share * s - alpha * tail
        z.mul_((outside if weight is None else outside * weight)[:, None])
        z.scatter_(1, teacher.ids, inside if weight is None else inside * weight[:, None])
    return kl, nll, -own, top + norm


def _dense(z: Tensor, teacher: Tensor, labels: Tensor | None, settings: RowSettings, gradient: bool,
           weight: Tensor | None, scratch: _Scratch) -> tuple[Tensor | None, ...]:
    """The whole distribution: KL = T² Σ q (log q − log p), gradient = alpha T (p_T − q_T) + (1 − alpha) p.

    The sum of p − q, which is zero but for rounding, is added to the KL: by log p its derivative is then p − q instead
    of −q, so that where both are close no rounding of log p is seen, that of its normaliser least of all.
    """
    alpha, heat = settings.alpha, settings.temperature
    t = teacher if teacher.dtype == z.dtype else scratch("teacher", teacher)
    _transform(t, settings.teacher_scale, settings.teacher_softcap, None)
    top = z.amax(-1)
    at_labels = None if labels is None else z.gather(1, labels[:, None])[:, 0]
    warm = z
    if heat != 1:
        t.div_(heat)
        warm = torch.div(z, heat, out=scratch.empty("warm", len(z)))
        torch.log_softmax(warm, -1, out=warm)
    torch.log_softmax(z, -1, out=z)
    below = z.amax(-1)
    # A token that the teacher rules out counts nothing; −inf would make it not a number.
    torch.log_softmax(t, -1, out=t).clamp_(min=torch.finfo(t.dtype).min / 2)
    q = torch.exp(t, out=scratch.empty("probabilities", len(z)))
    entropy = -torch.linalg.vecdot(q, t)
    kl = torch.linalg.vecdot(q, t.sub_(warm))
    nll = None if at_labels is None else (top - at_labels) - below
    kl = (kl + warm.exp_().sub_(q).sum(-1)) * heat**2
    if gradient:
        if heat != 1:
            z.exp_().mul_(1 - alpha).add_(warm, alpha=alpha * heat)
        elif alpha < 1:
            z.add_(q, alpha=1 - alpha)
        if weight is not None:
            z.mul_(weight[:, None])
    return kl, nll, entropy, top - below
