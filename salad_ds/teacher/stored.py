"""Targets from a store, for training: the same call as a live teacher's, no teacher in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from salad_ds.config import Recipe
from salad_ds.distill.targets import SparseTargets, Targets, concatenate
from salad_ds.teacher.forward import check_tokenizer, default_device, load_teacher
from salad_ds.teacher.identity import teacher_identity
from salad_ds.teacher.live import LiveTeacher
from salad_ds.teacher.sampling import join
from salad_ds.teacher.store import TeacherStore
from salad_ds.text import tokenizer_identity

Request = tuple[tuple[int, ...], Tensor]
"""(token ids of a text, document start included; rows [n] int64 of it). Row i is about ids[i + 1] given ids[..i]."""


class Teacher(Protocol):
    """What training asks of a teacher."""

    def targets(self, requests: Sequence[Request]) -> Targets:
        """Targets of the requested rows, request after request: sum of the rows' counts positions."""


class StoredTeacher:
    """Targets from a TeacherStore, on the CPU; safe from several threads."""

    def __init__(self, store: TeacherStore) -> None:
        self.store = store

    def targets(self, requests: Sequence[Request]) -> SparseTargets:
        """[N, K] targets, N = rows of all requests. Raises StoreError naming a text that the store lacks."""
        if not requests:
            return concatenate([])
        return join([self.store.record(ids, rows) for ids, rows in requests]).targets()


def open_teacher(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, device: torch.device | str | None = None,
                 offload: bool = False) -> Teacher:
    """The teacher that ``teacher.mode`` asks for. Raises StoreError for a store that is not this recipe's."""
    reference = recipe.teacher.llm or recipe.model.llm
    if recipe.teacher.mode == "live":
        check_tokenizer(reference, tokenizer_identity(tokenizer))
        forward = load_teacher(reference, device or default_device(), offload=offload)
        return LiveTeacher(forward, recipe.teacher.batch_tokens)
    return StoredTeacher(TeacherStore.open(recipe.path(recipe.teacher.store), teacher_identity(reference),
                                           tokenizer_identity(tokenizer), tokenizer))
