"""Multiple-choice tasks: items, and the prompt in which they are asked, as data.

An item is *asked* in words that are read in the text condition and heard in the speech condition; what stands around
them (``before``, ``after``) and the options are text in both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data_prep.wordnet import wordnet_items
from salad_ds.assets import resolve
from salad_ds.config import Recipe
from salad_ds.data.order import stable_seed
from salad_ds.errors import RecipeError


@dataclass(frozen=True)
class Item:
    """``asked``: the words that are read or heard. ``options``: continuations, each with its leading space. ``answer``:
    index of the right one."""

    id: str
    asked: str
    options: tuple[str, ...]
    answer: int
    domain: str = ""


@dataclass(frozen=True)
class Task:
    """A prompt template and where its items come from. ``version`` changes with the template.

    ``before`` ends without a space: the one in front of a word belongs to that word's first token, and in training
    speech takes the place of whole words with their tokens.
    """

    name: str
    version: int
    before: str
    after: str
    load: Callable[[Recipe], list[Item]]

    def prompt(self, item: Item) -> str:
        return f"{self.before} {item.asked}{self.after}"


def wordnet_definition_to_word(recipe: Recipe) -> list[Item]:
    """Which of four common nouns does this WordNet definition define? The distractors are other items' nouns.

    Only held-out synsets: their definitions are in no training text that data_prep/wordnet.py writes.
    """
    source = next((corpus.source for corpus in recipe.corpora if corpus.kind == "wordnet"), "packaged:wordnet")
    items = sorted(
        wordnet_items(resolve(source), held_out=True),
        key=lambda item: hashlib.sha256(str(item.offset).encode()).hexdigest(),
    )
    words = sorted({item.word for item in items})
    chosen = []
    for item in items:
        rng = np.random.default_rng(stable_seed("wordnet options", item.offset))
        others = [words[i] for i in rng.permutation(len(words))[:8] if words[i] != item.word][:3]
        place = int(rng.integers(4))
        options = [*others[:place], item.word, *others[place:]]
        chosen.append(
            Item(f"{item.offset:08d}", item.definition, tuple(f" {word}" for word in options), place, item.domain)
        )
    return chosen


TASKS = {
    task.name: task
    for task in [
        Task("wordnet", 2, "Definition:", "\nWord:", wordnet_definition_to_word),
    ]
}


def load_task(name: str) -> Task:
    if name not in TASKS:
        raise RecipeError(f"evaluate.task is {name!r}", f"the tasks are {', '.join(TASKS)}")
    return TASKS[name]
