"""A student at its measurement: loaded when the first corpus asks for it, with its teacher, on every rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from salad_ds.config import Recipe, SourceConfig
from salad_ds.measure.blocks import BlockFile, Work, device_of, run_blocks
from salad_ds.measure.divergences import what_counts
from salad_ds.measure.sequences import Order, planner_for
from salad_ds.model.build import require_recipe
from salad_ds.model.salad import SaladForConditionalGeneration
from salad_ds.teacher.forward import check_tokenizer
from salad_ds.teacher.identity import teacher_identity
from salad_ds.teacher.live import LiveTeacher, lone_teacher
from salad_ds.teacher.ranks import Ranks
from salad_ds.text import tokenizer_identity

Loader = Callable[[], tuple[SaladForConditionalGeneration, PreTrainedTokenizerBase]]


@dataclass
class Bench:
    """``checkpoint``: the student's name. ``load`` builds it when it is needed; ``identity`` names its weights."""

    recipe: Recipe
    checkpoint: str
    load: Loader
    identity: str
    ranks: Ranks

    @cached_property
    def student(self) -> tuple[SaladForConditionalGeneration, PreTrainedTokenizerBase]:
        device = device_of(self.ranks)
        model, tokenizer = self.load()
        require_recipe(model, tokenizer, self.recipe.model)
        check_tokenizer(self.recipe.teacher.llm or self.recipe.model.llm, tokenizer_identity(tokenizer))
        return model.to(device), tokenizer

    @property
    def model(self) -> SaladForConditionalGeneration:
        return self.student[0]

    @cached_property
    def teacher(self) -> LiveTeacher:
        return lone_teacher(self.recipe, next(self.model.parameters()).device)

    def order(self, path: str, kind: str = "speech", cached: bool = False) -> Order:
        """The samples of the shards at ``path``. ``cached``: take their frames from sidecars where the recipe does."""
        recipe = self.recipe if cached else replace(self.recipe, data=replace(self.recipe.data, features="audio"))
        planner = planner_for(recipe, [SourceConfig(kind=kind, path=path)], *self.student)
        return Order(planner, recipe.measure.seed)

    def made_from(self, *settings: Any, **others: Any) -> dict[str, Any]:
        """What a result depends on: the student, the teacher, settings, and the digests ``others`` of corpora."""
        return {
            "student": self.identity,
            "settings": what_counts(self.recipe, self.recipe.measure.seed, *settings),
            "teacher": teacher_identity(self.recipe.teacher.llm or self.recipe.model.llm),
            **others,
        }

    def file(self, name: str, made_from: dict[str, Any]) -> BlockFile:
        return BlockFile(self.path(f"{name}.rows.jsonl"), made_from)

    def path(self, name: str) -> Path:
        """Where what is measured of this student lies, beside the main result."""
        return self.recipe.path(f"measure/{self.checkpoint}") / name

    def run(self, file: BlockFile, order: Order, items: int, work: Work, label: str) -> None:
        """Measure what ``file`` lacks. A collective."""
        label = f"{label} {self.checkpoint}"
        run_blocks(self.ranks, file, order, items, work, label, self.recipe.data.max_bad_share)
