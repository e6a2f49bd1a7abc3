"""Students, teachers and targets that the tests of the loss share."""

from __future__ import annotations

import torch
from torch import Tensor

from salad_ds.distill import DenseTargets, GhostTargets, HiddenTargets, SparseTargets, Targets

FORMS = ("dense", "sparse", "ghost", "hidden", "none")


def peaked(rows: int, vocabulary: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Log-probabilities with a natural-language shape: a few tokens hold most of the mass."""
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocabulary, generator=g, dtype=dtype) * 4).log_softmax(-1)


def sparse(log_q: Tensor, k: int, m: int, seed: int) -> SparseTargets:
    q = log_q.exp()
    top = q.topk(k)
    tail = q.scatter(1, top.indices, 0.0)
    mass = tail.sum(-1, keepdim=True)
    drawn = torch.multinomial(tail, m, replacement=True, generator=torch.Generator().manual_seed(seed))
    return SparseTargets(
        torch.cat([top.indices, drawn], 1), torch.cat([top.values, (mass / m).expand(-1, m)], 1), -(q * log_q).sum(-1)
    )


def ghost(log_q: Tensor, k: int) -> GhostTargets:
    top = log_q.exp().topk(k)
    return GhostTargets(top.indices, top.values, log_q.exp().scatter(1, top.indices, 0.0).sum(-1))


def make(form: str, rows: int, vocabulary: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0,
         said: int | None = None) -> tuple[Tensor, Tensor, Targets | None, Tensor]:
    """(hidden, weight, targets, labels); both inputs learn. ``said``: tokens the teacher speaks of, at most all."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=g, dtype=dtype)
    weight = torch.randn(vocabulary, width, generator=g, dtype=dtype) * 0.3
    labels = torch.randint(0, said or vocabulary, (rows,), generator=g)
    log_q = peaked(rows, said or vocabulary, seed + 1, dtype)
    targets = {
        "dense": lambda: DenseTargets(log_q),
        "sparse": lambda: sparse(log_q, 6, 4, seed),
        "ghost": lambda: ghost(log_q, 6),
        "hidden": lambda: HiddenTargets(
            torch.randn(rows, 7, generator=g, dtype=dtype), torch.randn(vocabulary, 7, generator=g, dtype=dtype),
            logit_scale=0.7, logit_softcap=5.0,
        ),
        "none": lambda: None,
    }[form]()
    return hidden.requires_grad_(), weight.requires_grad_(), targets, labels


def gap(found: Tensor, exact: Tensor) -> float:
    """Relative error in the Euclidean norm."""
    found, exact = found.detach().double(), exact.detach().double()
    return float((found - exact).norm() / exact.norm())
