"""The rows of a chunk on a GPU: the backend in Triton (interface: ``rows.py``, kernels: ``rows_triton_kernels.py``).

What it should cost, *expected, not measured*: a logit in bfloat16 is read twice and written once, 6 bytes, or 4 where
the second read hits a cache (at 152k columns 132 to 264 rows of 304 KB are alive, 40 to 80 MB; an H200's L2 has 50).
At 4.8 TB/s that is 0.8 to 1.3 ps, beside 3 · 2 · H flops of the three products at 600 TFLOP/s: 20 ps for H = 2048,
36 ps for 3584. So 4 to 6 % of the products' time, or 2 to 4 %; a dense bfloat16 teacher adds 2 to 4 bytes, which makes
it 6 to 10 %, or 4 to 6 %. The instructions compiled for sm_90, 13 per logit for both passes together, need half that
time; with a soft cap they are the limit (57 per logit, about 1.9 ps).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from salad_ds.config import MOST_KEPT
from salad_ds.distill import rows_triton_kernels as kernels
from salad_ds.distill.rows import DenseRows, RowLosses, RowSettings, RowTeacher
from salad_ds.distill.targets import GhostTargets, SparseTargets

THREADS = ((160 << 10, 1024), (32 << 10, 512), (8 << 10, 256), (0, 128))
"""(bytes of a row of logits from which on, threads of a program). An SM has room for 1,024 to 2,048 threads of these
kernels, so a long row has at most one other beside it, and what is alive stays near the size of the L2. A table and no
autotuning: a first step that tries variants would cost more than the best of them saves."""


@dataclass(frozen=True)
class Launch:
    """A kernel with what it is compiled for: ``constants`` by name, ``threads`` of a program."""

    kernel: Any
    constants: dict[str, Any]
    threads: int


def distill_rows(logits: Tensor, teacher: RowTeacher, labels: Tensor | None, settings: RowSettings, gradient: bool,
                 row_weight: Tensor | None = None) -> RowLosses:  # fmt: skip
    """A ``RowBackend``. Beyond its contract: the rows of ``logits`` and of a dense teacher may be a stride apart that
    is larger than V, and 16-byte loads want that stride to be a multiple of 16 (columns ≥ V are never touched). Ids and
    labels may be any integer dtype.

    Raises ValueError for shapes that disagree, more than ``MOST_KEPT`` kept tokens, a dtype that is not floating, a
    temperature ≠ 1 with a teacher that is not dense, and a scale, cap or temperature that is not positive.
    """
    count, columns = logits.shape
    plan = plan_launch(logits.dtype, columns, teacher, labels is not None, settings, gradient)
    _check(logits, teacher, labels, row_weight)
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    out = torch.empty(4, count, dtype=exact, device=logits.device)
    if count == 0:
        return RowLosses(*out)
    mix = torch.empty_like(out[:2])
    mix[0].fill_(settings.alpha if teacher is not None else 0.0)
    mix[1].fill_(1 - settings.alpha if labels is not None else 0.0)
    if row_weight is not None:
        mix *= row_weight
    labels = out if labels is None else labels  # an argument must be there; the kernel does not read it
    warp = torch.cuda.get_device_properties(logits.device).warp_size if logits.is_cuda else 32
    with torch.cuda.device_of(logits):
        if isinstance(teacher, DenseRows):
            other = teacher.logits
            plan.kernel[(count,)](logits, other, labels, mix, out, logits.stride(0), other.stride(0), count, columns,
                                  **plan.constants, num_warps=plan.threads // warp)  # fmt: skip
        else:
            ids, weights, tail = _few(teacher, out)
            plan.kernel[(count,)](logits, ids, weights, tail, labels, mix, out, logits.stride(0), ids.stride(0),
                                  weights.stride(0), count, columns, ids.shape[1], **plan.constants,
                                  num_warps=plan.threads // warp)  # fmt: skip
    return RowLosses(*out)


def plan_launch(dtype: torch.dtype, columns: int, teacher: RowTeacher, labelled: bool, settings: RowSettings,
                gradient: bool) -> Launch:  # fmt: skip
    """Which kernel, compiled how, for logits of ``dtype`` with that many columns."""
    if not dtype.is_floating_point or dtype.itemsize < 2:
        raise ValueError(f"logits are {dtype}, not float64, float32, bfloat16 or float16")
    for name in ("logit_scale", "softcap", "temperature", "teacher_scale", "teacher_softcap"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}, not positive")
    threads = next(threads for least, threads in THREADS if columns * dtype.itemsize >= least)
    constants: dict[str, Any] = {
        "LABELS": labelled,
        "NLL": labelled and settings.alpha != 1,
        "GRADIENT": gradient,
        "SCALE": float(settings.logit_scale),
        "CAP": float(settings.softcap or 0.0),
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
        "VEC": 16 // dtype.itemsize,
    }
    if isinstance(teacher, DenseRows):
        constants |= {
            "LANES": threads,
            "TEACHER_SCALE": float(settings.teacher_scale),
            "TEACHER_CAP": float(settings.teacher_softcap or 0.0),
            "TEMPERATURE": float(settings.temperature),
        }
        return Launch(kernels.dense_kernel, constants, threads)
    if teacher is not None and settings.temperature != 1:
        raise ValueError(f"temperature {settings.temperature} needs a dense teacher; this one kept a few tokens at 1")
    kept = 1 if teacher is None else max(1, teacher.ids.shape[1])
    if kept > MOST_KEPT:
        raise ValueError(f"{kept} kept tokens per position; at most {MOST_KEPT} fit")
    threads = max(threads, min(512, kept // 2))  # the comparison of all tokens with all must fit into registers
    forms = {SparseTargets: kernels.SPARSE, GhostTargets: kernels.GHOST}
    constants |= {
        "LANES": 2 * threads,  # two loads under way at once
        "FORM": kernels.NO_TEACHER if teacher is None else forms[type(teacher)],
        "KEPT": max(16, triton.next_power_of_2(kept)),
    }
    return Launch(kernels.few_tokens_kernel, constants, threads)


def _check(logits: Tensor, teacher: RowTeacher, labels: Tensor | None, row_weight: Tensor | None) -> None:
    """The kernels trust the addresses that they are given."""
    count, columns = logits.shape
    if logits.stride(1) != 1:
        raise ValueError("the columns of logits do not lie side by side")
    if isinstance(teacher, DenseRows):
        if teacher.logits.shape != logits.shape or teacher.logits.stride(1) != 1:
            raise ValueError(f"teacher [C, V] is {tuple(teacher.logits.shape)}, logits {tuple(logits.shape)}")
    elif teacher is not None and len(teacher) != count:
        raise ValueError(f"teacher is for {len(teacher)} rows, logits for {count}")
    for name, value in (("labels", labels), ("row_weight", row_weight)):
        if value is not None and value.shape != (count,):
            raise ValueError(f"{name} [C] is {tuple(value.shape)}, logits {tuple(logits.shape)}")


def _few(teacher: SparseTargets | GhostTargets | None, unused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, weights and the number beside them, side by side in memory as the kernel wants it."""
    if teacher is None:
        return unused, unused, unused
    weights, rest = (teacher.weights, teacher.entropy) if isinstance(teacher, SparseTargets) else (
        teacher.probs, teacher.tail)  # fmt: skip
    return tuple(value.contiguous() for value in (teacher.ids, weights, rest))  # type: ignore[return-value]
