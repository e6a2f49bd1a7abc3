"""A teacher beside the student: exact targets without a store, for the price of its forward pass at every step.

Worth it where the store would not fit a disk, or for a few steps. The targets are hidden states and the head, so that
the distillation op can make the distribution chunk by chunk; a teacher whose logits are not ``hidden @ head.T`` gives
log-probabilities instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from salad_ds.distill.targets import DenseTargets, HiddenTargets
from salad_ds.teacher.forward import TeacherForward


class LiveTeacher:
    """Exact targets for (text, rows), addressed as in a store. ``batch_tokens``: positions of one forward pass."""

    def __init__(self, teacher: TeacherForward, batch_tokens: int = 2048) -> None:
        self.teacher, self.batch_tokens = teacher, batch_tokens

    def targets(self, requests: Sequence[tuple[tuple[int, ...], Tensor]]) -> HiddenTargets | DenseTargets:
        """[N, H] hidden states and the head (or [N, V] log-probabilities), on the teacher's device.

        N = rows of all requests, in their order. A text that is asked for twice is read once.
        """
        head, device = self.teacher.head, self.teacher.device
        texts = sorted({tuple(ids) for ids, _ in requests}, key=len)
        states: dict[tuple[int, ...], Tensor] = {}
        while texts:
            batch = [texts.pop()]
            while texts and (len(batch) + 1) * len(batch[0]) <= self.batch_tokens:
                batch.append(texts.pop())
            states.update(zip(batch, self.teacher.rows(batch), strict=True))
        rows = [states[tuple(ids)][rows.to(device)] for ids, rows in requests]
        width = self.teacher.vocab if head is None else head.shape[1]
        joined = torch.cat(rows) if rows else torch.zeros(0, width, dtype=self.teacher.dtype, device=device)
        if head is None:
            return DenseTargets(joined.float().log_softmax(-1))
        return HiddenTargets(joined, head)
