"""What a shard holds: samples, their keys, and how file names map to both.

A shard is a WebDataset tar: the files ``<key>.json`` and ``<key>.flac`` (or another audio ending) side by side are one
sample. Everything up to the first dot of the base name is the key, as webdataset itself has it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from salad_ds.audio import FORMATS
from salad_ds.data.shard_ref import ShardRef
from salad_ds.errors import DataError

SCHEMA = 1
SLACK = 0.05
"""Seconds by which a duration may be rounded or overstate its recording, and a last word overhang it."""
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


@dataclass(frozen=True)
class Sample:
    """One utterance (``audio`` set) or one text (``audio`` None).

    ``meta``: schema, id, text, source; for speech also duration (s), sample_rate, speaker, language.
    ``audio``: the bytes of a file of format ``audio_format``.
    """

    key: str
    meta: dict[str, Any]
    audio: bytes | None = None
    audio_format: str = "flac"

    @property
    def text(self) -> str:
        return self.meta["text"]


@dataclass(frozen=True)
class IndexEntry:
    """Where a sample lies: ``json`` = (offset, bytes) in ``shard``; ``audio`` = (offset, bytes, format) or None.
    ``duration``: seconds, 0 for a text."""

    key: str
    shard: ShardRef
    json: tuple[int, int]
    audio: tuple[int, int, str] | None
    duration: float
    n_words: int


def make_key(name: str) -> str:
    """A key for ``name``: itself where it is one, else its safe characters and six of its digest, so that names that
    differ keep different keys."""
    if KEY.fullmatch(name):
        return name
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")[-72:].lstrip("_-") or "x"
    return f"{safe}-{hashlib.blake2b(name.encode(), digest_size=3).hexdigest()}"


def check_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise DataError(f"key {key!r} is not 1-80 letters, digits, '-' and '_'", "make keys with samples.make_key")


def split_name(name: str) -> tuple[str, str]:
    """``(key as webdataset has it, lower-case ending)`` of a tar member; ``("", "")`` for one without an ending.

    Raises DataError for a name that leads out of the archive.
    """
    if name.startswith(("/", "\\")) or ".." in name.split("/") or "\0" in name:
        raise DataError(f"member {name!r} leads out of the archive", "do not use this archive")
    match = re.fullmatch(r"((?:.*/|)[^./]+)\.([^/]*)", name)
    return (match[1], match[2].lower()) if match else ("", "")


def own_key(wds_key: str) -> str:
    """webdataset's ``__key__`` → our key: directories of a foreign tar become part of the name."""
    return wds_key.removeprefix("./").replace("/", "__")


def parse_meta(raw: bytes, key: str) -> dict[str, Any]:
    """The sample's JSON with ``text`` stripped and ``id`` present. DataError (``what`` is the reason) if unusable."""
    try:
        meta = json.loads(raw)
    except (ValueError, RecursionError):
        raise DataError("JSON does not parse", "mend or remove the sample") from None
    if not isinstance(meta, dict):
        raise DataError("JSON is not an object", "mend or remove the sample")
    if meta.get("schema", SCHEMA) != SCHEMA:
        raise DataError(f"schema {meta['schema']} is not {SCHEMA}", "write the shards with this version")
    text = meta.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DataError("no text", "mend or remove the sample")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # "\ud800" is good JSON; no tokenizer takes it
            raise DataError("text holds half a character", "mend or remove the sample") from None
    meta["text"] = text.strip()
    meta.setdefault("id", key)
    return meta


def is_audio(ending: str) -> bool:
    return ending in FORMATS
