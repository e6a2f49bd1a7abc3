"""What identifies a shard: its name in the manifest, where its tar lies, and where its index and sidecars lie.

The tar may lie anywhere (a corpus that is read in place); what we know about it lies beside the manifest, under the
tar's stem: ``<stem>.index.json``, ``<stem>.words.jsonl``, ``<stem>.features.safetensors``.
"""

from __future__ import annotations

import itertools
import os
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from salad_ds.data import storage
from salad_ds.data.storage import Place
from salad_ds.errors import DataError

NAME = re.compile(r"(?!\.\.?$)[^/\\\0]+")


@dataclass(frozen=True)
class ShardRef:
    """``name``: ``<stem>.tar``, unique in its manifest. ``directory``: the manifest's. ``url``: where the tar lies, if
    not in that directory. Where the tar is a local file this is an ``os.PathLike`` of it."""

    name: str
    directory: Place
    url: Place = ""

    @property
    def place(self) -> Place:
        """Where the tar lies."""
        return storage.place_of(self.url) if self.url else storage.join(self.directory, self.name)

    @property
    def stem(self) -> str:
        return self.name.removesuffix(".tar")

    def __str__(self) -> str:
        return storage.shown(self.place)

    def __fspath__(self) -> str:
        path = storage.local(self.place)
        if path is None:
            raise TypeError(f"{self} is no local file")
        return str(path)


Shard = ShardRef | Path | str
"""A shard of a manifest, or a tar with its index and sidecars beside it."""


def shard_ref(shard: Shard) -> ShardRef:
    if isinstance(shard, ShardRef):
        return shard
    path = storage.local(shard)
    if path is not None:
        return ShardRef(path.name, path.parent)
    directory, _, name = str(shard).rpartition("/")
    return ShardRef(name, directory)


def sidecar_path(shard: Shard, ending: str) -> Place:
    """Where what belongs to a shard lies: beside the manifest, the tar's stem and ``ending``. A Path, or a URL."""
    ref = shard_ref(shard)
    return storage.join(ref.directory, ref.stem + ending)


class ShardRows(Sequence[dict[str, Any]]):
    """The shards of a manifest: ``[n]`` is row n as the manifest has it, ``ref(n)`` its ShardRef. Kept as columns,
    because there may be 100,000. ``first[n]``: number of the shard's first sample; ``first[-1]``: of all samples.

    Raises DataError for a name with a directory in it, for one that is there twice, and for a tar that is addressed by
    something other than an absolute path or a URL; KeyError, TypeError or ValueError for what is no row at all.
    """

    def __init__(self, rows: list[dict[str, Any]], directory: Place) -> None:
        self.directory, manifest = directory, storage.shown(storage.join(directory, "manifest.json"))
        self.names: list[str] = [row["name"] for row in rows]
        self.sha256: list[str] = [row["sha256"] for row in rows]
        self.bytes = array("q", (int(row.get("bytes", -1)) for row in rows))
        self.seconds = array("d", (float(row.get("seconds", 0.0)) for row in rows))
        self.first = array("q", [0, *itertools.accumulate(int(row["samples"]) for row in rows)])
        self.urls: list[str] | None = None
        if any("url" in row for row in rows):
            self.urls = [row.get("url", "") for row in rows]
        again = "prepare the corpus again"
        for name in self.names:
            if not NAME.fullmatch(name):
                raise DataError(f"{manifest} names a shard outside its directory ({name!r})", again)
        for url in filter(None, self.urls or ()):
            if not (storage.is_url(url) or os.path.isabs(url)):
                raise DataError(f"{manifest}: a shard lies at {url!r}, neither an absolute path nor a URL", again)
        if len(set(self.names)) < len(self.names):
            raise DataError(f"{manifest} names a shard twice", again)

    def __len__(self) -> int:
        return len(self.names)

    def ref(self, number: int) -> ShardRef:
        return ShardRef(self.names[number], self.directory, self.urls[number] if self.urls else "")

    @overload
    def __getitem__(self, number: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, number: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, number: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        row = {"name": self.names[number], "samples": self.first[number + 1] - self.first[number],
               "seconds": self.seconds[number], "sha256": self.sha256[number]}
        if self.bytes[number] >= 0:
            row["bytes"] = self.bytes[number]
        if self.urls and self.urls[number]:
            row["url"] = self.urls[number]
        return row


class ShardRefs(Sequence[ShardRef]):
    """The ShardRef of every row."""

    def __init__(self, rows: ShardRows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> ShardRef: ...

    @overload
    def __getitem__(self, number: slice) -> list[ShardRef]: ...

    def __getitem__(self, number: int | slice) -> ShardRef | list[ShardRef]:
        if isinstance(number, slice):
            return [self.rows.ref(i) for i in range(*number.indices(len(self)))]
        return self.rows.ref(number)
