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
from salad_ds.data import storage
from salad_ds.data.rejections import Rejections, merge_tables
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError
from salad_ds.progress import Progress
from salad_ds.teacher.ranks import Ranks
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
        self._append(array("I", ids).tobytes(), key)
        return True

    def _append(self, ids: bytes, key: bytes) -> None:
        self._place[key] = len(self.keys)
        self.keys.append(key)
        self._ids.frombytes(ids)
        self._ends.append(len(self._ids))

    def __len__(self) -> int:
        return len(self.keys)

    def ids(self, text: int) -> np.ndarray:
        """[L] uint32 token ids of a text."""
        return np.frombuffer(self._ids[self._ends[text]:self._ends[text + 1]], dtype=np.uint32)

    def lengths(self) -> np.ndarray:
        return np.diff(np.frombuffer(self._ends, dtype=np.uint64).astype(np.int64))

    def parts(self) -> tuple[list[bytes], np.ndarray, np.ndarray]:
        """What ``extend`` takes: keys, lengths, and the token ids of all texts behind each other."""
        return self.keys, self.lengths(), np.frombuffer(self._ids, dtype=np.uint32)

    def extend(self, keys: list[bytes], lengths: np.ndarray, ids: np.ndarray) -> int:
        """Put in the texts of another pool; how many of them were there."""
        repeated, end = 0, 0
        for key, length in zip(keys, lengths.tolist(), strict=True):
            begin, end = end, end + length
            if key in self._place:
                repeated += 1
            else:
                self._append(ids[begin:end].tobytes(), key)
        return repeated


def recipe_directories(recipe: Recipe) -> list[str]:
    """The shard directories a recipe trains on, each once, as named. Measuring asks a live teacher: it needs none."""
    return list(dict.fromkeys(source.path for stage in recipe.stages.values() for source in stage.sources))


def collect(directories: Mapping[str, Path], tokenizer: PreTrainedTokenizerBase, context: int,
            ranks: Ranks | None = None, quiet: bool = False) -> tuple[TextPool, dict[str, Any]]:
    """Every distinct text below ``directories``, and what was left out. ``ranks`` share the reading; each gets it all.

    ``directories``: by the name the recipe gives them (an artefact must not depend on where a work directory lies).
    The second value: ``{"sources": {name: digest}, "missing": [name], "skipped": rejection table,
    "repeated": texts met again}``. A directory that does not exist yet is noted and passed over, because the texts of a
    later stage are added by a later run. Raises DataError for shards that are damaged.
    """
    pool, rejections, start = TextPool(), Rejections(), start_token(tokenizer)
    rank, size = (ranks.rank, ranks.size) if ranks is not None else (0, 1)
    quiet = quiet or rank > 0
    sources: dict[str, str] = {}
    missing: list[str] = []
    repeated = 0
    for name, directory in directories.items():
        if not storage.exists(directory):
            missing.append(name)
            if not quiet:
                print(f"precompute: {directory} does not exist yet; its texts can be added later", file=sys.stderr)
            continue
        shards = ShardSet.open(directory)
        sources[name] = shards.digest
        begin, end = (len(shards) * place // size for place in (rank, rank + 1))
        with Progress(f"texts of {name}", end - begin, "texts", quiet=quiet) as progress:
            for index in range(begin, end):
                try:
                    sample = shards.read(index, audio=False)
                    text = tokenize(tokenizer, sample.meta["text"], start, context)
                    if len(text.ids) < 2:
                        raise DataError("the text has no token", "remove the sample")
                    repeated += not pool.add(text.ids, text.key)
                except DataError as error:
                    rejections.add(error.what, f"{name}[{index}]")
                progress.update()
    if ranks is not None and size > 1:
        parts = ranks.gather((pool.parts(), rejections.table(), repeated))
        pool = TextPool()
        repeated = sum(part[2] for part in parts) + sum(pool.extend(*part[0]) for part in parts)
        table = merge_tables([part[1] for part in parts])
    else:
        table = rejections.table()
    return pool, {"sources": sources, "missing": missing, "skipped": table, "repeated": repeated}
