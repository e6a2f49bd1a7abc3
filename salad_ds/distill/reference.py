"""The loss written as its definition: dense, float64, by autograd. For tests and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from salad_ds.distill.targets import DenseTargets, HiddenTargets, SparseTargets, Targets


def reference_distill(
    hidden: Tensor,
    weight: Tensor,
    targets: Targets | None,
    labels: Tensor | None,
    alpha: float,
    vocab_size: int | None = None,
    logit_scale: float = 1.0,
    logit_softcap: float | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """alpha · KL + (1 − alpha) · NLL for each of the N positions, [N] float64; ignored positions are 0."""
    logits = hidden.double() @ weight.double()[:vocab_size].t() * logit_scale
    if logit_softcap is not None:
        logits = logit_softcap * torch.tanh(logits / logit_softcap)
    log_p = logits.log_softmax(-1)
    total = torch.zeros(len(hidden), dtype=torch.float64, device=hidden.device)
    if isinstance(targets, SparseTargets):
        dense = torch.zeros_like(log_p).scatter_add(1, targets.ids, targets.weights.double())
        total = total + alpha * (-(dense * log_p).sum(-1) - targets.entropy.double())
    elif targets is not None:
        if isinstance(targets, HiddenTargets):
            log_q = (targets.hidden.double() @ targets.head.double()[:vocab_size].t()).log_softmax(-1)
        else:
            assert isinstance(targets, DenseTargets)
            log_q = targets.log_probs.double()[:, :vocab_size]
        total = total + alpha * torch.nn.functional.kl_div(log_p, log_q, log_target=True, reduction="none").sum(-1)
    if labels is None:
        return total
    counted = labels != ignore_index
    nll = -log_p.gather(1, labels.clamp_min(0)[:, None])[:, 0]
    return torch.where(counted, total + (1 - alpha) * nll, torch.zeros_like(total))
