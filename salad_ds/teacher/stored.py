"""Targets from a store, for training: the same call as a live teacher's, no teacher in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from salad_ds.config import Recipe
from salad_ds.distill.targets import Targets
from salad_ds.errors import StoreError
from salad_ds.teacher.forward import check_tokenizer, default_device
from salad_ds.teacher.live import live_teacher
from salad_ds.teacher.precompute import store_settings
from salad_ds.teacher.store import TeacherStore
from salad_ds.text import tokenizer_identity

Request = tuple[tuple[int, ...], Tensor]
"""(token ids of a text, document start included; rows [n] int64 of it). Row i is about ids[i + 1] given ids[..i]."""


class Teacher(Protocol):
    """What training asks of a teacher."""

    ahead: bool
    """Whether it may be asked ahead of the step, by other threads."""

    def targets(self, requests: Sequence[Request]) -> Targets:
        """Targets of the requested rows, request after request: sum of the rows' counts positions."""


class StoredTeacher:
    """Targets from a TeacherStore, on the CPU; safe from several threads. ``tail``: what they say of the tokens outside
    the top, see ``TeacherConfig``; by default what the store is made for. Raises StoreError for a store without it."""

    ahead = True

    def __init__(self, store: TeacherStore, tail: str | None = None) -> None:
        self.store, self.tail = store, tail or store.rule.tails[0]
        if self.tail not in store.rule.tails:
            raise StoreError(f"the teacher store {store.directory} cannot give teacher.tail {self.tail}",
                             f"set it to {' or '.join(store.rule.tails)}, or teacher.store to another directory")

    def targets(self, requests: Sequence[Request]) -> Targets:
        """[N, K] targets, N = rows of all requests. Raises StoreError naming a text that the store lacks."""
        return self.store.targets(requests, self.tail)


def open_teacher(recipe: Recipe, tokenizer: PreTrainedTokenizerBase,
                 device: torch.device | str | None = None) -> Teacher:
    """The teacher that ``teacher.mode`` asks for. Raises StoreError for a store that is not this recipe's, RecipeError
    for a teacher with another tokenizer or fewer tokens than the student."""
    reference = recipe.teacher.llm or recipe.model.llm
    if recipe.teacher.mode == "live":
        check_tokenizer(reference, tokenizer_identity(tokenizer))
        return live_teacher(recipe, device or default_device(), recipe.teacher.placement)
    wanted = store_settings(recipe, tokenizer_identity(tokenizer))
    store = TeacherStore.open(recipe.path(recipe.teacher.store), wanted.teacher, wanted.tokenizer, tokenizer)
    store.require(wanted)  # the stage's digest names the recipe's settings
    return StoredTeacher(store, recipe.teacher.tail)
