"""What the distillation op accepts: everything else is refused by a ValueError, before any work, never ignored."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from salad_ds.distill.rows import RowSettings
from salad_ds.distill.targets import GhostTargets, HiddenTargets, SparseTargets, Targets


def student(hidden: Tensor, weight: Tensor, vocabulary: int, labels: Tensor | None, settings: RowSettings,
            reduction: str, chunk: int | None) -> None:
    """Shapes, dtypes and settings of the student's side."""
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden [N, H] and weight [V, H] disagree: {tuple(hidden.shape)}, {tuple(weight.shape)}")
    if hidden.dtype != weight.dtype or not hidden.is_floating_point() or hidden.device != weight.device:
        raise ValueError(f"hidden and weight differ: {hidden.dtype} on {hidden.device}, "
                         f"{weight.dtype} on {weight.device}")
    if not 1 <= vocabulary <= len(weight):
        raise ValueError(f"vocab_size {vocabulary} exceeds the {len(weight)} rows of weight" if vocabulary > 0
                         else f"vocab_size is {vocabulary}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}, not mean, sum or none")
    if not 0.0 <= settings.alpha <= 1.0:
        raise ValueError(f"alpha is {settings.alpha}, not between 0 and 1")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk_rows is {chunk}")
    positive = {"logit_scale": settings.logit_scale, "logit_softcap": settings.softcap,
                "temperature": settings.temperature, "the teacher's logit_scale": settings.teacher_scale,
                "the teacher's logit_softcap": settings.teacher_softcap}
    for name, value in positive.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}, not a positive number")
    if labels is None and settings.alpha < 1:
        raise ValueError("alpha < 1 needs labels")
    if labels is not None and labels.shape != hidden.shape[:1]:
        raise ValueError(f"labels are for {len(labels)} positions, hidden for {len(hidden)}")
    if labels is not None and labels.dtype != torch.int64:
        raise ValueError(f"labels are {labels.dtype}, not int64")


def teacher(targets: Targets | None, hidden: Tensor, vocabulary: int, settings: RowSettings) -> None:
    """Whether the targets can say what the settings ask of them."""
    if targets is None:
        if settings.alpha > 0:
            raise ValueError("alpha > 0 needs teacher targets")
        if settings.temperature != 1:
            raise ValueError(f"temperature {settings.temperature} needs teacher targets: the NLL has none")
        return
    if len(targets) != len(hidden):
        raise ValueError(f"targets are for {len(targets)} positions, hidden for {len(hidden)}")
    if isinstance(targets, SparseTargets | GhostTargets):
        if settings.temperature != 1:
            raise ValueError(f"temperature {settings.temperature} needs dense or hidden targets: a tail that was not "
                             "stored cannot be tempered again")
        return
    covered = targets.head if isinstance(targets, HiddenTargets) else targets.log_probs.t()
    if len(covered) < vocabulary:
        raise ValueError(f"the teacher covers {len(covered)} tokens, the student has {vocabulary}")
    if isinstance(targets, HiddenTargets) and (targets.hidden.dtype != targets.head.dtype
                                               or targets.hidden.shape[1] != targets.head.shape[1]):
        raise ValueError("the teacher's hidden states and head disagree: "
                         f"{tuple(targets.hidden.shape)} {targets.hidden.dtype}, "
                         f"{tuple(targets.head.shape)} {targets.head.dtype}")


def ids(name: str, tokens: Tensor, vocabulary: int) -> None:
    """Whether all are in the vocabulary; on a CPU only, for a GPU would have to be waited for."""
    if tokens.device.type == "cpu" and tokens.numel():
        least, most = (int(value) for value in tokens.aminmax())
        if least < 0 or most >= vocabulary:
            raise ValueError(f"{name} hold the token {least if least < 0 else most}, the vocabulary has {vocabulary}")
