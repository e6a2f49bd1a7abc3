"""The loss written as its definition: dense, float64, by autograd. For tests and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from salad_ds.distill.targets import GhostTargets, HiddenTargets, SparseTargets, Targets


def reference_distill(
    hidden: Tensor,
    weight: Tensor,
    targets: Targets | None,
    labels: Tensor | None,
    alpha: float,
    vocab_size: int | None = None,
    logit_scale: float = 1.0,
    logit_softcap: float | None = None,
    temperature: float = 1.0,
    ignore_index: int = -100,
) -> Tensor:
    """alpha · KL + (1 − alpha) · NLL for each of the N positions, [N] float64; ignored positions are 0."""
    logits = capped(hidden.double() @ weight.double()[:vocab_size].t() * logit_scale, logit_softcap)
    log_p = logits.log_softmax(-1)
    total = torch.zeros(len(hidden), dtype=torch.float64, device=hidden.device)
    if isinstance(targets, SparseTargets):
        dense = torch.zeros_like(log_p).scatter_add(1, targets.ids, targets.weights.double())
        total = total + alpha * (-(dense * log_p).sum(-1) - targets.entropy.double())
    elif isinstance(targets, GhostTargets):
        others = torch.ones_like(log_p, dtype=torch.bool).scatter(1, targets.ids, False)
        tail = log_p.masked_fill(~others, -torch.inf).logsumexp(-1, keepdim=True)
        events = torch.cat([log_p.gather(1, targets.ids), tail], 1)
        told = torch.cat([targets.probs, targets.tail[:, None]], 1).double()
        total = total + alpha * kl_div(events, told, reduction="none").sum(-1)
    elif targets is not None:
        if isinstance(targets, HiddenTargets):
            said = targets.hidden.double() @ targets.head.double()[:vocab_size].t() * targets.logit_scale
            said = capped(said, targets.logit_softcap)
        else:
            said = targets.log_probs.double()[:, :vocab_size]
        log_q = (said / temperature).log_softmax(-1)
        log_p_t = (logits / temperature).log_softmax(-1)
        total = total + alpha * temperature**2 * kl_div(log_p_t, log_q, log_target=True, reduction="none").sum(-1)
    if labels is None:
        return total
    nll = -log_p.gather(1, labels.clamp_min(0)[:, None])[:, 0]
    return torch.where(labels != ignore_index, total + (1 - alpha) * nll, torch.zeros_like(total))


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)
