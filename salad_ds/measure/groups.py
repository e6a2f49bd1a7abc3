"""Which group of a set an utterance belongs to: a field of its metadata, its cluster in the selection, or whether the
selection drew it."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import pyarrow.parquet as pq

from salad_ds.config import Recipe
from salad_ds.errors import DataError
from salad_ds.files import sha256_file

NONE = "(none)"
"""The group of samples that lack the field."""


DRAWN, LEFT = "drawn", "left"
TABLES = {"cluster": "texts.parquet", "drawn": "selected.parquet"}
"""``by`` → the selection's table that tells the group of a text."""


class Groups:
    """``by``: the field, or "" for one group. Without a field ``cluster`` in the metadata, a text's cluster is looked
    up in the selection's ``texts.parquet``; ``drawn`` are the texts of its ``selected.parquet``, ``left`` all others.

    Raises DataError for ``drawn`` where nothing was selected.
    """

    def __init__(self, recipe: Recipe, by: str) -> None:
        self.by = by
        path = recipe.path(recipe.select.out) / "selection" / TABLES.get(by, "")
        if by == "drawn" and not path.is_file():
            raise DataError(f"{path} is missing: no text is drawn yet",
                            "run salad-ds select, or measure by another field")
        self.path = path if by in TABLES and path.is_file() else None

    def made_from(self) -> dict[str, str]:
        named = "clusters" if self.by == "cluster" else self.by
        return {named: sha256_file(self.path)} if self.path is not None else {}

    @cached_property
    def told(self) -> dict[bytes, str]:
        """Text → group, some 100 bytes per text of the table."""
        if self.path is None:
            return {}
        found = {}
        for batch in pq.ParquetFile(self.path).iter_batches(columns=["text", "cluster"]):
            for row in batch.to_pylist():
                found[key_of(row["text"])] = DRAWN if self.by == "drawn" else str(row["cluster"])
        return found

    def of(self, _: str, meta: dict[str, Any]) -> str:
        """The group of a sample with this metadata."""
        if not self.by:
            return ""
        if self.by == "drawn":
            return self.told.get(key_of(meta["text"]), LEFT)
        value = meta.get(self.by)
        if value is None and self.by == "cluster":
            value = self.told.get(key_of(meta["text"]))
        return NONE if value is None or value == "" else str(value)


def key_of(text: str) -> bytes:
    return hashlib.blake2b(text.strip().encode(), digest_size=12).digest()
