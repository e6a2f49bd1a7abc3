"""What a backend of the distillation loss does: one chunk of logits in, losses and the gradient by those logits out.

``loss.py`` does the three matrix products and the bookkeeping; a backend does everything between the first product and
the other two, row by row: softmax, KL, NLL, and the gradient, written *into* the logits, so that nothing else of their
size is alive. Backends: ``rows_torch`` (any device, the CPU's fast path) and ``rows_triton`` (CUDA).

Shape letters: C rows of a chunk, V vocabulary, K kept tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from salad_ds.distill.targets import GhostTargets, SparseTargets


@dataclass(frozen=True)
class RowSettings:
    """``alpha``: share of the distillation in the loss. Student: z = cap(logit_scale · logits), with
    cap(x) = c·tanh(x / c) for ``softcap`` c. Teacher logits (dense only) likewise, with their own scale and cap.

    ``temperature`` T: KL of softmax(teacher / T) from softmax(z / T), times T² (Hinton et al., arXiv 1503.02531), so
    that the gradient keeps its size; NLL is always at T = 1. T ≠ 1 needs a dense teacher."""

    alpha: float = 1.0
    logit_scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0
    teacher_scale: float = 1.0
    teacher_softcap: float | None = None


class DenseRows(NamedTuple):
    """A teacher's logits [C, V], before its scale, cap and temperature; any float dtype; normalised by the backend (so
    log-probabilities will do). Entries of -inf have probability 0. May be overwritten."""

    logits: Tensor


RowTeacher = DenseRows | SparseTargets | GhostTargets | None


class RowLosses(NamedTuple):
    """``kl`` (with its T²), ``nll``, ``entropy`` (of the teacher, at the temperature), ``lse`` (of the student's z, at
    T = 1): [C], float32 (float64 for float64 logits), nats; zeros where there is no teacher or are no labels."""

    kl: Tensor
    nll: Tensor
    entropy: Tensor
    lse: Tensor


class RowBackend(Protocol):
    """``logits`` [C, V] contiguous, float32, bfloat16, float16 or float64, without padded vocabulary rows. With
    ``gradient`` they are overwritten by
    ``row_weight · ∂(alpha · kl + (1 − alpha) · nll) / ∂logits`` in their own dtype (computed in float32 or better);
    otherwise their content is lost or kept as the backend likes. ``labels`` [C] int64, all valid. ``row_weight`` [C]
    or None for ones."""

    def __call__(self, logits: Tensor, teacher: RowTeacher, labels: Tensor | None, settings: RowSettings,
                 gradient: bool, row_weight: Tensor | None = None) -> RowLosses: ...
