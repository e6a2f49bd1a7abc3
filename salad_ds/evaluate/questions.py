"""One task of a recipe, ready to be asked: its items, their speech, and how many worked examples fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from salad_ds.config import Recipe, TaskConfig
from salad_ds.errors import DataError, RecipeError
from salad_ds.evaluate.models import Model
from salad_ds.evaluate.prompts import Piece, Prompt, Sound, pieces
from salad_ds.evaluate.tasks import Item, Spoken, Task, load_task, spoken
from salad_ds.teacher.ranks import Ranks

NO_SPEECH, TOO_LONG = "it has no speech", "it is longer than evaluate.context"


class Questions:
    """``items`` are asked, ``examples`` are shown before them. ``speech``: None where no model hears.

    An example without speech is left out, so that both conditions have the same ones; an item without speech stays, to
    be counted.
    """

    def __init__(self, task: Task, speech: Spoken | None, context: int) -> None:
        self.task, self.items, self.speech, self.context = task, task.items, speech, context
        self.examples = [one for one in task.examples if speech is None or one.id in speech]
        self.sounds = {} if speech is None else {
            item.id: Sound(item.id, speech) for item in self.everything if item.id in speech}
        self._fits: dict[str, tuple[list[int], list[str]]] = {}

    @classmethod
    def gather(cls, recipe: Recipe, settings: TaskConfig, ranks: Ranks, hears: bool) -> Questions:
        """Load a task and, where a model ``hears``, its speech: rank 0 makes what is missing."""
        task = load_task(settings, recipe)
        if not hears:
            return cls(task, None, recipe.evaluate.context)
        everything = [*task.items, *task.examples]
        ranks.first(lambda: len(spoken(recipe, task, everything)))
        return cls(task, spoken(recipe, task, everything), recipe.evaluate.context)

    @property
    def everything(self) -> list[Item]:
        return [*self.items, *self.examples]

    def made_from(self) -> dict[str, Any]:
        return {
            **self.task.made_from(),
            "speech": None if self.speech is None else self.speech.shards.identity(),
            "examples_used": [one.id for one in self.examples],
            "context": self.context,
        }

    def head(self) -> dict[str, Any]:
        """What every summary says of the task."""
        template = self.task.template
        told: dict[str, Any] = {
            "task": self.task.name,
            "of": len(self.items),
            "template": {"name": template.name, "version": template.version, "text": template.shown,
                         "between": template.between, "source": template.source},
            "shots": {"most": len(self.examples)},
            "context": self.context,
            "source": self.task.source,
            "records_left_out": self.task.left_out,
        }  # fmt: skip
        if self.speech is not None:
            rates = [self.speech.cer[item.id] for item in self.items if item.id in self.speech.cer]
            told["spoken"] = {
                "kind": "published" if self.task.speech else "synthetic",
                "directory": self.speech.directory.name,
                "made_from": self.speech.made_from,
                "clips": sum(item.id in self.speech for item in self.items),
                "missing": self.speech.missing,
                "cer": float(np.mean(rates)) if rates else None,
            }
        return told

    def layout(self, model: Model, item: Item, shots: int, asked: Callable[[Item], Piece]) -> Prompt:
        template = self.task.template
        parts = pieces(template, item, self.examples[:shots], asked)
        return model.prompt(parts, item.options, template.read(item.asked))

    def read(self, item: Item) -> Piece:
        return item.asked

    def heard(self, item: Item) -> Piece:
        if item.id not in self.sounds:
            raise DataError(NO_SPEECH, "see the rejections in the manifest of its speech")
        return self.sounds[item.id]

    def fits(self, model: Model) -> tuple[list[int], list[str]]:
        """Per item: how many worked examples fit ``evaluate.context`` positions with it, read as well as heard, and why
        it cannot be asked at all (else empty). The same for all models of a family.

        Raises RecipeError for a context that the model cannot read.
        """
        if model.limit is not None and self.context > model.limit:
            raise RecipeError(f"evaluate.context is {self.context}, and {model.name} reads {model.limit} positions",
                              "lower evaluate.context")
        if model.family not in self._fits:
            found = [self._fit(model, item) for item in self.items]
            self._fits[model.family] = [shots for shots, _ in found], [why for _, why in found]
        return self._fits[model.family]

    def _fit(self, model: Model, item: Item) -> tuple[int, str]:
        ways = [self.read] if self.speech is None else [self.heard, self.read]
        try:
            for shots in range(len(self.examples), -1, -1):
                if all(self.layout(model, item, shots, asked).context <= self.context for asked in ways):
                    return shots, ""
        except DataError as error:
            return 0, error.what
        return 0, TOO_LONG

    def prompts(self, model: Model, condition: str) -> tuple[list[Prompt | None], list[int], list[str]]:
        """(prompts, shots, reasons) in the order of the items; None where there is a reason against it."""
        shots, reasons = self.fits(model)
        if condition == "text":
            asked: Callable[[Item], Piece] = self.read
        else:
            def asked(item: Item) -> Piece:
                sound = self.heard(item)
                assert isinstance(sound, Sound)
                return model.question(sound)

        found: list[Prompt | None] = []
        why = list(reasons)
        for i, item in enumerate(self.items):
            prompt = None if why[i] else self.layout(model, item, shots[i], asked)
            if prompt is not None and model.limit is not None and prompt.context > model.limit:
                prompt, why[i] = None, f"what {model.name} is given is longer than it reads"  # a transcript may be
            found.append(prompt)
        return found, shots, why


def characters(options: Sequence[str]) -> list[int]:
    """Length of each option without the space in front of it."""
    return [len(option.strip()) for option in options]
