"""Which group of a set an utterance belongs to: a field of its metadata, or its cluster in the selection."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import pyarrow.parquet as pq

from salad_ds.config import Recipe
from salad_ds.files import sha256_file

NONE = "(none)"
"""The group of samples that lack the field."""


class Groups:
    """``by``: the field, or "" for one group. Without a field ``cluster`` in the metadata, a text's cluster is looked
    up in the selection's ``texts.parquet``."""

    def __init__(self, recipe: Recipe, by: str) -> None:
        self.by = by
        path = recipe.path(recipe.select.out) / "selection/texts.parquet"
        self.path = path if by == "cluster" and path.is_file() else None

    def made_from(self) -> dict[str, str]:
        return {"clusters": sha256_file(self.path)} if self.path is not None else {}

    @cached_property
    def clusters(self) -> dict[bytes, str]:
        """Text → cluster, some 100 bytes per text."""
        if self.path is None:
            return {}
        found = {}
        for batch in pq.ParquetFile(self.path).iter_batches(columns=["text", "cluster"]):
            for row in batch.to_pylist():
                found[key_of(row["text"])] = str(row["cluster"])
        return found

    def of(self, _: str, meta: dict[str, Any]) -> str:
        """The group of a sample with this metadata."""
        if not self.by:
            return ""
        value = meta.get(self.by)
        if value is None and self.by == "cluster":
            value = self.clusters.get(key_of(meta["text"]))
        return NONE if value is None or value == "" else str(value)


def key_of(text: str) -> bytes:
    return hashlib.blake2b(text.strip().encode(), digest_size=12).digest()
