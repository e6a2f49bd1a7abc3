"""Which texts the teacher has to read: every distinct text of every source, as token ids.

Text is the key, so a text that occurs in several corpora, or twice in one, is there once. A text longer than the
context is cut by ``text.tokenize`` with ``max_tokens = data.context``, exactly as training cuts it: both ask for the
same key.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from salad_ds.config import Recipe
from salad_ds.data.rejections import Rejections
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError
from salad_ds.progress import Progress
from salad_ds.text import start_token, tokenize


class TextPool:
    """Distinct texts, compactly: 4 bytes per token and some hundred per text."""

    def __init__(self) -> None:
        self._ids, self._ends = array("I"), array("Q", [0])
        self._place: dict[bytes, int] = {}
        self.keys: list[bytes] = []

    def add(self, ids: tuple[int, ...], key: bytes) -> bool:
        """Put a text in; False if it was there."""
        if key in self._place:
            return False
        self._place[key] = len(self.keys)
        self.keys.append(key)
        self._ids.extend(ids)
        self._ends.append(len(self._ids))
        return True

    def __len__(self) -> int:
        return len(self.keys)

    def ids(self, text: int) -> np.ndarray:
        """[L] uint32 token ids of a text."""
        return np.frombuffer(self._ids[self._ends[text]:self._ends[text + 1]], dtype=np.uint32)

    def lengths(self) -> np.ndarray:
        return np.diff(np.frombuffer(self._ends, dtype=np.uint64).astype(np.int64))


def recipe_directories(recipe: Recipe) -> list[str]:
    """The shard directories a recipe trains on, each once, as named. Measuring asks a live teacher: it needs none."""
    return list(dict.fromkeys(source.path for stage in recipe.stages.values() for source in stage.sources))


def collect(directories: Mapping[str, Path], tokenizer: PreTrainedTokenizerBase, context: int,
            quiet: bool = False) -> tuple[TextPool, dict[str, Any]]:
    """Every distinct text below ``directories``, and what was left out.

    ``directories``: by the name the recipe gives them (an artefact must not depend on where a work directory lies).
    The second value: ``{"sources": {name: digest}, "missing": [name], "skipped": rejection table,
    "repeated": texts met again}``. A directory that does not exist yet is noted and passed over, because the texts of a
    later stage are added by a later run. Raises DataError for shards that are damaged.
    """
    pool, rejections, start = TextPool(), Rejections(), start_token(tokenizer)
    sources: dict[str, str] = {}
    missing, repeated = [], 0
    for name, directory in directories.items():
        if not directory.exists():
            missing.append(name)
            if not quiet:
                print(f"precompute: {directory} does not exist yet; its texts can be added later", file=sys.stderr)
            continue
        shards = ShardSet.open(directory)
        sources[name] = shards.digest
        with Progress(f"texts of {name}", len(shards), "texts", quiet=quiet) as progress:
            for index in range(len(shards)):
                try:
                    sample = shards.read(index, audio=False)
                    text = tokenize(tokenizer, sample.meta["text"], start, context)
                    if len(text.ids) < 2:
                        raise DataError("the text has no token", "remove the sample")
                    repeated += not pool.add(text.ids, text.key)
                except DataError as error:
                    rejections.add(error.what, f"{name}[{index}]")
                progress.update()
    return pool, {"sources": sources, "missing": missing, "skipped": rejections.table(), "repeated": repeated}
