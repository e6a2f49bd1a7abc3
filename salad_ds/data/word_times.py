"""Word times: the sidecar ``<stem>.words.jsonl`` of a speech shard.

First line: {"schema": 1, "engine", "shard_sha256", "words_sha256", "dropped": {reason: [keys]}, "settings": {...}};
then one line {"key", "words": [[start, end, score], ...]} per aligned sample, one entry per whitespace word of its
text. A sample without a line has no usable word times. ``words_sha256`` is of all lines but the first, so that the
first line says what the sidecar is.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from salad_ds.config import StorageConfig
from salad_ds.data import sources, storage
from salad_ds.data.lines import read_lines
from salad_ds.data.samples import SCHEMA
from salad_ds.data.shard_ref import Shard, shard_ref, sidecar_path
from salad_ds.data.storage import Missing, Place
from salad_ds.errors import DataError

MEND = "delete it and align again"


@dataclass(frozen=True)
class Word:
    """When a whitespace word of the text is spoken: seconds from the start of the audio; ``score`` in [0, 1]."""

    start: float
    end: float
    score: float


@dataclass(frozen=True)
class WordTimes:
    """A sidecar in memory."""

    engine: str
    shard_sha256: str
    dropped: dict[str, list[str]]
    settings: dict[str, Any]
    words: dict[str, list[Word]]


def words_path(shard: Shard) -> Place:
    return sidecar_path(shard, ".words.jsonl")


def write_words(shard: Shard, engine: str, words: Mapping[str, Sequence[Word]],
                dropped: Mapping[str, Sequence[str]] | None = None, settings: Mapping[str, Any] | None = None,
                shard_sha256: str | None = None, storage_settings: StorageConfig | None = None) -> Place:
    """Write the sidecar of ``shard`` whole. ``dropped``: {reason: [keys]}. ``shard_sha256`` saves hashing the tar.

    Raises DataError for times that are not finite, ordered and non-negative, or scores outside [0, 1].
    """
    path, lines = words_path(shard), []
    for key, times in words.items():
        check_words(times, f"{storage.shown(path)}: {key}")
        rows = [[round(word.start, 4), round(word.end, 4), round(word.score, 4)] for word in times]
        lines.append(json.dumps({"key": key, "words": rows}, ensure_ascii=False, separators=(",", ":")) + "\n")
    body = "".join(lines).encode()
    sha256 = shard_sha256 or sources.sha256_of(shard_ref(shard).place, storage_settings)
    head = {"schema": SCHEMA, "engine": engine, "shard_sha256": sha256,
            "words_sha256": hashlib.sha256(body).hexdigest(),
            "dropped": {reason: sorted(keys) for reason, keys in sorted((dropped or {}).items())},
            "settings": dict(settings or {})}
    storage.write_bytes(path, json.dumps(head, ensure_ascii=False).encode() + b"\n" + body, storage_settings)
    return path


def check_words(words: Sequence[Word], name: str) -> None:
    """Words follow each other: 0 ≤ start ≤ end, starts never fall, scores in [0, 1]."""
    last = 0.0
    for number, word in enumerate(words):
        sound = all(math.isfinite(value) for value in (word.start, word.end, word.score))
        if not (sound and last <= word.start <= word.end and 0 <= word.score <= 1):
            raise DataError(f"{name}: word {number} has times {word.start}-{word.end}, score {word.score}", MEND)
        last = word.start


def parse_head(line: bytes, path: Place) -> dict[str, Any]:
    """Raises DataError for a damaged first line, or another schema."""
    try:
        head = json.loads(line)
        if not isinstance(head, dict) or head["schema"] != SCHEMA or not isinstance(head["shard_sha256"], str):
            raise KeyError("schema")
        if not isinstance(head["engine"], str) or not isinstance(head["dropped"], dict):
            raise KeyError("engine")
    except (ValueError, KeyError):
        raise DataError(f"{storage.shown(path)} is not word times of schema {SCHEMA}", MEND) from None
    return head


def read_head(path: Place, settings: StorageConfig | None = None) -> dict[str, Any] | None:
    """The first line of a sidecar; None where there is none. Raises DataError for a damaged one or another schema."""
    try:
        return parse_head(sources.first_line(path, settings), path)
    except Missing:
        return None


def words_identity(shard: Shard, settings: StorageConfig | None = None) -> str:
    """What the sidecar of ``shard`` holds, from its first line alone; "" where there is none."""
    path = words_path(shard)
    head = read_head(path, settings)
    if head is None:
        return ""
    # Sidecars that somebody else wrote may say nothing about their lines.
    return json.dumps(head) if "words_sha256" in head else sources.sha256_of(path, settings)


def parse_words(line: bytes, name: str) -> tuple[str, list[Word]]:
    """``(key, its words)``. Raises DataError for a damaged line and for times that cannot be."""
    try:
        row = json.loads(line)
        key, words = row["key"], [Word(float(start), float(end), float(score)) for start, end, score in row["words"]]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{name} is damaged", MEND) from None
    check_words(words, f"{name.rsplit(': ', 1)[0]}: {key}")
    return key, words


def check_owner(head: dict[str, Any], shard: Shard, shard_sha256: str) -> None:
    if head["shard_sha256"] != shard_sha256:
        raise DataError(f"{storage.shown(words_path(shard))} holds the word times of another {shard_ref(shard).name}",
                        MEND)


def read_words(shard: Shard, shard_sha256: str, settings: StorageConfig | None = None) -> WordTimes | None:
    """The whole sidecar of ``shard``, or None where there is none.

    Raises DataError, by name, for a sidecar of another tar and for a damaged line.
    """
    path = words_path(shard)
    try:
        raw = storage.read_bytes(path, settings)
    except Missing:
        return None
    first, *rest = raw.removesuffix(b"\n").split(b"\n")
    head = parse_head(first, path)
    check_owner(head, shard, shard_sha256)
    words = dict(parse_words(line, f"{storage.shown(path)}: line {number}") for number, line in enumerate(rest, 2))
    return WordTimes(head["engine"], head["shard_sha256"], head["dropped"], head.get("settings", {}), words)


KEY = re.compile(rb'\{"key": ?("(?:[^"\\]|\\.)*")')


class WordLines:
    """A sidecar of which one sample's words at a time are parsed. A damaged line costs its sample.

    Raises storage.Missing where there is none, DataError for one of another tar or schema.
    """

    def __init__(self, shard: Shard, shard_sha256: str, settings: StorageConfig | None = None) -> None:
        self.path = words_path(shard)
        self.lines, raw = read_lines(self.path, settings)
        rows = raw.split(b"\n")
        check_owner(parse_head(rows[0], self.path), shard, shard_sha256)
        # Hashes in order, and the line of each: eight to twelve bytes per sample, whatever the length of its key.
        hashes = np.array([hash(key_of(row)) for row in rows[1:len(self.lines)]], np.int64)
        order = np.argsort(hashes, kind="stable")
        self.hashes, self.numbers = hashes[order], (order + 1).astype(np.uint32)

    @property
    def size(self) -> int:
        """Bytes in memory, roughly."""
        return self.lines.size + self.hashes.nbytes + self.numbers.nbytes + 1000

    def words(self, key: str) -> list[Word] | None:
        """Raises DataError for a damaged line, and for times that cannot be."""
        wanted = hash(key)
        place = int(np.searchsorted(self.hashes, wanted))
        while place < len(self.hashes) and self.hashes[place] == wanted:
            number = int(self.numbers[place])
            found, words = parse_words(self.lines[number], f"{storage.shown(self.path)}: line {number + 1}")
            if found == key:
                return words
            place += 1
        return None


def key_of(line: bytes) -> str:
    """The key of a line, without reading its times; "" where it has none."""
    match = KEY.match(line)
    try:
        return json.loads(match[1]) if match else str(json.loads(line)["key"])
    except (ValueError, KeyError, TypeError):
        return ""
