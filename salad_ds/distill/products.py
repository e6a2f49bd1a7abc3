"""The three matrix products of the distillation loss, each with the fastest exact routine of its device.

- CUDA, bf16 and fp16: dW is accumulated in float32 inside the product (``addmm`` with ``out_dtype``), so that neither a
  second [V, H] nor a pass over it is needed.
- CPU, float32: oneDNN where that is faster (onednn.py). It cannot be told where to write, so it is taken in blocks of
  the vocabulary that are still in the cache when they are copied or added to where they belong.

Shape letters: C rows of a chunk, V vocabulary, H width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from salad_ds import onednn

BLOCK = 8192
"""Rows of the vocabulary at a time."""


def project(hidden: Tensor, weight: Tensor, logits: Tensor) -> None:
    """``logits`` [C, V] = hidden [C, H] @ weight [V, H].T"""
    if not _with_onednn(logits):
        torch.mm(hidden, weight.t(), out=logits)
        return
    for start in range(0, len(weight), BLOCK):
        logits[:, start : start + BLOCK] = onednn.product(hidden, weight[start : start + BLOCK])


def by_hidden(gradient: Tensor, weight: Tensor, dx: Tensor, scale: float) -> None:
    """``dx`` [C, H] = scale · gradient [C, V] @ weight [V, H]; ``dx`` has the dtype of the others or float32."""
    if _with_onednn(gradient):
        torch.mul(onednn.product(gradient, weight.t()), scale, out=dx)
    elif dx.dtype == gradient.dtype:
        torch.addmm(dx, gradient, weight, beta=0.0, alpha=scale, out=dx)
    else:
        torch.mul(torch.mm(gradient, weight).to(dx.dtype), scale, out=dx)


def by_weight(gradient: Tensor, hidden: Tensor, dw: Tensor, first: bool, scale: float) -> None:
    """``dw`` [V, H] += scale · gradient [C, V].T @ hidden [C, H]; ``first``: it is overwritten instead.

    ``dw`` has the dtype of the others or float32.
    """
    turned = gradient.t()
    if _with_onednn(gradient):
        columns = (hidden * scale).t().contiguous()
        _in_blocks(dw, first, lambda rows: onednn.product(turned[rows], columns))
    elif dw.dtype == gradient.dtype:
        torch.addmm(dw, turned, hidden, beta=0.0 if first else 1.0, alpha=scale, out=dw)
    elif gradient.is_cuda and _accumulates(gradient.dtype, gradient.device):
        torch.addmm(dw, turned, hidden, out_dtype=dw.dtype, beta=0.0 if first else 1.0, alpha=scale, out=dw)
    else:
        _in_blocks(dw, first, lambda rows: torch.mm(turned[rows], hidden).to(dw.dtype).mul_(scale))


def _in_blocks(dw: Tensor, first: bool, product: Callable[[slice], Tensor]) -> None:
    for start in range(0, len(dw), BLOCK):
        rows = slice(start, start + BLOCK)
        if first:
            dw[rows] = product(rows)
        else:
            dw[rows] += product(rows)


@lru_cache
def _accumulates(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this build of PyTorch adds a product of ``dtype`` to a float32 matrix on this device."""
    total, part = torch.zeros(16, 16, device=device), torch.ones(16, 16, dtype=dtype, device=device)
    try:
        torch.addmm(total, part, part, out_dtype=torch.float32, out=total)
    except (RuntimeError, NotImplementedError, TypeError):
        return False
    return bool((total == 16).all())


def _with_onednn(like: Tensor) -> bool:
    return like.device.type == "cpu" and like.dtype == torch.float32 and bool(torch.backends.mkldnn.enabled) \
        and onednn.is_faster()
