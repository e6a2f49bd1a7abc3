"""What the kernel benchmark computes: four works, each by this package and by others.

A work is a forward and a backward pass to the hidden states and the head. The loss is alpha · KL + (1 − alpha) · NLL;
in the work ``hard`` it is the NLL alone. *Eager* is the loss as one writes it in PyTorch: logits, ``log_softmax`` in
float32, KL and NLL, ``backward()``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from salad_ds.distill import DenseTargets, HiddenTargets, SparseTargets, fused_linear_distill

ALPHA = 0.9
KEPT = 80
"""Tokens of a sparse row."""
WORKS = ("sparse", "dense", "hidden", "hard")


@dataclass
class Inputs:
    hidden: Tensor
    weight: Tensor
    labels: Tensor
    targets: SparseTargets | DenseTargets | HiddenTargets | None
    probs: Tensor | None = None
    """Of a dense teacher, for Liger."""


def make(work: str, rows: int, vocabulary: int, width: int, device: str, dtype: torch.dtype) -> Inputs:
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, device=device, dtype=dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, device=device, dtype=dtype).mul_(width**-0.5).requires_grad_()
    labels = torch.randint(0, vocabulary, (rows,), device=device)
    targets = None
    if work == "sparse":
        weights = torch.rand(rows, KEPT, device=device).pow_(8)
        weights /= weights.sum(-1, keepdim=True)
        targets = SparseTargets(torch.randint(0, vocabulary, (rows, KEPT), device=device), weights,
                                -torch.special.xlogy(weights, weights).sum(-1))
    elif work == "dense":
        logits = torch.randn(rows, vocabulary, device=device, dtype=torch.float32).mul_(3)
        targets = DenseTargets(torch.log_softmax(logits, -1, out=logits))
    elif work == "hidden":
        targets = HiddenTargets(torch.randn_like(hidden.detach()), torch.randn_like(weight.detach()).mul_(width**-0.5))
    given = Inputs(hidden, weight, labels, targets)
    if work == "dense" and not missing("Liger KL", device):
        given.probs = targets.log_probs.exp()
    return given


def ours(given: Inputs) -> Tensor:
    alpha = 0.0 if given.targets is None else ALPHA
    return fused_linear_distill(given.hidden, given.weight, given.targets, given.labels, alpha).loss


def eager(given: Inputs) -> Tensor:
    return written_out(given.hidden, given.weight, given.labels, given.targets)


def written_out(hidden: Tensor, weight: Tensor, labels: Tensor, targets) -> Tensor:
    log_p = F.linear(hidden, weight).float().log_softmax(-1)
    nll = F.nll_loss(log_p, labels)
    if targets is None:
        return nll
    if isinstance(targets, SparseTargets):
        kl = (-(targets.weights * log_p.gather(1, targets.ids)).sum(-1) - targets.entropy).mean()
    else:
        if isinstance(targets, DenseTargets):
            log_q = targets.log_probs
        else:
            with torch.no_grad():
                log_q = F.linear(targets.hidden, targets.head).float().log_softmax(-1)
        kl = F.kl_div(log_p, log_q, log_target=True, reduction="batchmean")
    return ALPHA * kl + (1 - ALPHA) * nll


@cache
def compiled() -> Callable:
    torch._dynamo.config.recompile_limit = 64  # one for each work and size; beyond the limit it would run uncompiled
    return torch.compile(written_out, dynamic=False)


def eager_compiled(given: Inputs) -> Tensor:
    return compiled()(given.hidden, given.weight, given.labels, given.targets)


def linear_cross_entropy(given: Inputs) -> Tensor:
    """PyTorch's own fused loss, chunked with the options it chooses by itself."""
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(given.hidden, given.weight, given.labels, options=options)


def liger_jsd(given: Inputs) -> Tensor:
    """Liger's loss on a teacher's hidden states; beta 0 is the KL from the teacher. It has no NLL: less work."""
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    return LigerFusedLinearJSD(jsd_beta=0.0)(given.hidden, given.weight, given.targets.hidden, given.targets.head)


def liger_kl(given: Inputs) -> Tensor:
    """Liger's loss on a teacher's probabilities. It has no NLL: less work."""
    from liger_kernel.transformers.fused_linear_kl_div import LigerFusedLinearKLDivLoss

    return LigerFusedLinearKLDivLoss()(given.hidden, given.weight, given.probs)


RIVALS: dict[str, dict[str, Callable[[Inputs], Tensor]]] = {
    "sparse": {"eager": eager, "torch.compile": eager_compiled},
    "dense": {"eager": eager, "Liger KL": liger_kl},
    "hidden": {"eager": eager, "torch.compile": eager_compiled, "Liger JSD": liger_jsd},
    "hard": {"eager": eager, "torch.compile": eager_compiled, "linear_cross_entropy": linear_cross_entropy},
}


def missing(rival: str, device: str) -> str:
    """Why a rival cannot run here; empty when it can."""
    if rival.startswith("Liger"):
        if not find_spec("liger_kernel"):
            return "not installed"
        return "" if device == "cuda" else "CUDA only"
    if rival == "torch.compile" and device == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:  # InvalidCxxCompiler, and what a broken compiler raises
            return f"no C++ compiler ({type(error).__name__})"
    if rival == "linear_cross_entropy" and not hasattr(F, "linear_cross_entropy"):
        return f"not in torch {torch.__version__}"
    return ""


def step(loss: Callable[[Inputs], Tensor], given: Inputs) -> None:
    given.hidden.grad = given.weight.grad = None
    loss(given).backward()
