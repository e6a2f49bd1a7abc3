"""Definition → word: which of four common nouns does this WordNet definition define? 589 items, no download.

The source is Debian's ``wordnet-base`` (``packaged:wordnet``); see data_prep/wordnet.py for its records. Asked is
``a well-defined track or path``, the options are `` lane`` and three other items' nouns.
"""

from __future__ import annotations

import hashlib

import numpy as np

from data_prep.wordnet import wordnet_items
from salad_ds.assets import resolve
from salad_ds.config import Recipe, TaskConfig
from salad_ds.data.order import stable_seed
from salad_ds.evaluate.tasks.items import Item


def source_of(task: TaskConfig, recipe: Recipe) -> str:
    """The task's, else the one that the recipe prepares texts from, else the packaged one."""
    return task.source or next((c.source for c in recipe.corpora if c.kind == "wordnet"), "packaged:wordnet")


def items_of(source: str) -> list[Item]:
    """All items, in the order of a hash, so that the first few are of all domains.

    Only held-out synsets: their definitions are in no training text that data_prep/wordnet.py writes.
    """
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
