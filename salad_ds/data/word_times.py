"""Word times: the sidecar ``<shard>.words.jsonl`` beside a speech shard.

First line: {"schema": 1, "engine", "shard_sha256", "dropped": {reason: [keys]}, "settings": {...}}; then one line
{"key", "words": [[start, end, score], ...]} per aligned sample, one entry per whitespace word of its text. A sample
without a line has no usable word times.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad_ds.data.samples import SCHEMA
from salad_ds.errors import DataError
from salad_ds.files import sha256_file, write_text

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


def words_path(shard: str | Path) -> Path:
    return Path(shard).with_name(Path(shard).stem + ".words.jsonl")


def write_words(shard_path: str | Path, engine: str, words: Mapping[str, Sequence[Word]],
                dropped: Mapping[str, Sequence[str]] | None = None, settings: Mapping[str, Any] | None = None,
                shard_sha256: str | None = None) -> Path:
    """Write the sidecar of ``shard_path`` whole. ``dropped``: {reason: [keys]}. ``shard_sha256`` saves hashing the tar.

    Raises DataError for times that are not finite, ordered and non-negative, or scores outside [0, 1].
    """
    path = words_path(shard_path)
    head = {"schema": SCHEMA, "engine": engine, "shard_sha256": shard_sha256 or sha256_file(shard_path),
            "dropped": {reason: sorted(keys) for reason, keys in sorted((dropped or {}).items())},
            "settings": dict(settings or {})}
    lines = [json.dumps(head, ensure_ascii=False)]
    for key, times in words.items():
        check_words(times, f"{path}: {key}")
        rows = [[round(word.start, 4), round(word.end, 4), round(word.score, 4)] for word in times]
        lines.append(json.dumps({"key": key, "words": rows}, ensure_ascii=False, separators=(",", ":")))
    write_text(path, "\n".join(lines) + "\n")
    return path


def check_words(words: Sequence[Word], name: str) -> None:
    """Words follow each other: 0 ≤ start ≤ end, starts never fall, scores in [0, 1]."""
    last = 0.0
    for number, word in enumerate(words):
        sound = all(math.isfinite(value) for value in (word.start, word.end, word.score))
        if not (sound and last <= word.start <= word.end and 0 <= word.score <= 1):
            raise DataError(f"{name}: word {number} has times {word.start}-{word.end}, score {word.score}", MEND)
        last = word.start


def read_head(path: Path) -> dict[str, Any]:
    """The first line of a sidecar. Raises DataError for a damaged one or another schema."""
    try:
        with open(path, encoding="utf-8") as file:
            head = json.loads(file.readline())
        if not isinstance(head, dict) or head["schema"] != SCHEMA or not isinstance(head["shard_sha256"], str):
            raise KeyError("schema")
        if not isinstance(head["engine"], str) or not isinstance(head["dropped"], dict):
            raise KeyError("engine")
    except (ValueError, KeyError, OSError):
        raise DataError(f"{path} is not word times of schema {SCHEMA}", MEND) from None
    return head


def read_words(shard: Path, shard_sha256: str) -> WordTimes | None:
    """The sidecar of ``shard``, or None where there is none.

    Raises DataError, by name, for a sidecar of another tar and for a damaged line.
    """
    path = words_path(shard)
    if not path.is_file():
        return None
    head = read_head(path)
    if head["shard_sha256"] != shard_sha256:
        raise DataError(f"{path} holds the word times of another {shard.name}", MEND)
    words: dict[str, list[Word]] = {}
    with open(path, encoding="utf-8") as file:
        file.readline()
        for number, line in enumerate(file, 2):
            try:
                row = json.loads(line)
                times = [Word(float(start), float(end), float(score)) for start, end, score in row["words"]]
                words[row["key"]] = times
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{path}: line {number} is damaged", MEND) from None
            check_words(times, f"{path}: {row['key']}")
    return WordTimes(head["engine"], head["shard_sha256"], head["dropped"], head.get("settings", {}), words)
