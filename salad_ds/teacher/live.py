"""A teacher beside the student: exact targets without a store, for the price of its forward pass at every step.

Worth it where the store would not fit a disk, or for a few steps. The targets are hidden states and the head, so that
the distillation op can make the distribution chunk by chunk; a teacher whose logits are not a product with its head
gives log-probabilities instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from salad_ds.config import Recipe
from salad_ds.distill.targets import DenseTargets, HiddenTargets
from salad_ds.teacher.forward import TeacherForward, load_teacher, shared_vocabulary


class LiveTeacher:
    """Exact targets for (text, rows), addressed as in a store. ``batch_tokens``: positions of one forward pass.
    ``vocab``: rows of the student's head, to which those of the teacher's are cut; by default all are kept.

    With a sharded teacher, ``targets`` is a collective: every rank calls it equally often, with whatever requests.
    """

    ahead = False
    """It shares the device with the student: it is asked in the step."""

    def __init__(self, teacher: TeacherForward, batch_tokens: int = 2048, vocab: int | None = None) -> None:
        self.teacher, self.batch_tokens, self.vocab = teacher, batch_tokens, vocab or teacher.vocab

    def targets(self, requests: Sequence[tuple[tuple[int, ...], Tensor]]) -> HiddenTargets | DenseTargets:
        """[N, H] hidden states and the head (or [N, V] log-probabilities), on the teacher's device.

        N = rows of all requests, in their order. A text that is asked for twice is read once.
        """
        head, device = self.teacher.head, self.teacher.device
        passes = self._batches({tuple(ids) for ids, _ in requests})
        idle = self.teacher.together(len(passes)) - len(passes)  # known before the first pass, which needs all ranks
        states: dict[tuple[int, ...], Tensor] = {}
        for batch in passes:
            states.update(zip(batch, self.teacher.rows(batch), strict=True))
        self.teacher.idle(idle)
        rows = [states[tuple(ids)][rows.to(device)] for ids, rows in requests]
        width = self.teacher.vocab if head is None else head.shape[1]
        joined = torch.cat(rows) if rows else torch.zeros(0, width, dtype=self.teacher.dtype, device=device)
        if head is None:
            return DenseTargets(joined[:, :self.vocab].float().log_softmax(-1))
        return HiddenTargets(joined, head[:self.vocab], self.teacher.logit_scale, self.teacher.logit_softcap)

    def _batches(self, texts: set[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
        """The texts, the longest first, in batches of at most ``batch_tokens`` positions, padding included."""
        batches: list[list[tuple[int, ...]]] = []
        for ids in sorted(texts, key=lambda ids: (-len(ids), ids)):
            if not batches or (len(batches[-1]) + 1) * len(batches[-1][0]) > self.batch_tokens:
                batches.append([])
            batches[-1].append(ids)
        return batches


def live_teacher(recipe: Recipe, device: torch.device | str, placement: str) -> LiveTeacher:
    """The recipe's teacher, in memory. Raises AssetError for one that cannot be loaded, RecipeError for one that has
    fewer tokens than the student."""
    vocab = shared_vocabulary(recipe)
    forward = load_teacher(recipe.teacher.llm or recipe.model.llm, device, placement=placement)
    return LiveTeacher(forward, recipe.teacher.batch_tokens, vocab)


def lone_teacher(recipe: Recipe, device: torch.device | str) -> LiveTeacher:
    """The same for one process alone: a teacher that training spreads over many is streamed from host memory here."""
    return live_teacher(recipe, device, "device" if recipe.teacher.placement == "device" else "offload")
