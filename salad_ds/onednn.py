"""Float32 matrix products on CPUs where PyTorch's own are slow.

PyTorch calls MKL, which takes its AVX-512 kernels only on Intel's processors. On others oneDNN, which is part of
PyTorch too, is twice as fast in the same precision (``python -m tests.bench.products``). ``use`` gives the products of
models to it: ``aten::mm`` and ``aten::addmm`` of float32 on the CPU, which is what linear layers come to, forward and
backward.
"""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

VARIABLE = "SALAD_DS_ONEDNN"
"""Set to 0, everything is left to PyTorch."""
WORTH = 1 << 22
"""Multiplications from which on the way through Python and oneDNN's own preparations are paid back."""


@lru_cache
def is_faster() -> bool:
    """Whether this is a CPU on which MKL leaves AVX-512 aside, and nobody has forbidden it."""
    cpu = Path("/proc/cpuinfo")
    return (
        os.environ.get(VARIABLE, "1") != "0"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and cpu.is_file()
        and "GenuineIntel" not in cpu.read_text()
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [M, K] @ weight [N, K].T + bias [N], float32"""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@lru_cache
def use() -> None:
    """From now on, in this process. Does nothing where PyTorch's own way is the faster one."""
    if not is_faster():
        return
    with warnings.catch_warnings():  # that a kernel is overridden
        warnings.simplefilter("ignore")
        for name, kernel in (("mm", _mm), ("addmm", _addmm)):
            LIBRARY.impl(name, kernel, "CPU")


LIBRARY = torch.library.Library("aten", "IMPL")
"""Kernels stay registered as long as this lives."""


def _mm(left: Tensor, right: Tensor) -> Tensor:
    if _fits(left, right):
        return product(left, right.t())
    return torch.mm(left, right, out=_room(left, right))  # PyTorch's, which stays as it is


def _addmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    if beta == alpha == 1 and bias.dim() == 1 and bias.is_contiguous() and bias.dtype == left.dtype \
            and bias.shape[0] == right.shape[1] and _fits(left, right):
        return product(left, right.t(), bias)
    return torch.addmm(bias, left, right, beta=beta, alpha=alpha, out=_room(left, right))


def _room(left: Tensor, right: Tensor) -> Tensor:
    """For the product; for what is none, anything: PyTorch says so."""
    return left.new_empty(left.shape[0], right.shape[1]) if left.dim() == right.dim() == 2 else left.new_empty(0)


def _fits(left: Tensor, right: Tensor) -> bool:
    return (
        left.dim() == right.dim() == 2
        and left.dtype == right.dtype == torch.float32
        and left.shape[1] == right.shape[0]
        and left.numel() * right.shape[1] >= WORTH
        and bool(torch.backends.mkldnn.enabled)
        and _dense(left)
        and _dense(right)
    )


def _dense(matrix: Tensor) -> bool:
    """Whether its rows or its columns lie in one piece each, and apart."""
    (rows, columns), (down, across) = matrix.shape, matrix.stride()
    return (across == 1 and down >= columns) or (down == 1 and across >= rows)
