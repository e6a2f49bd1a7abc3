"""The index of a shard: where in the tar each sample's bytes lie, so that any sample is one or two preads away.

``<shard>.index.json`` = {"schema": 1, "shard_sha256", "samples": [{"key", "json": [offset, size],
"audio": [offset, size, format] | null, "duration", "n_words"}], "rejected": {reason: {"count", "examples"}}}.
It is made by scanning the tar, for our own shards as for foreign ones, so that there is one way to read a tar.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

from salad_ds.audio import probe
from salad_ds.data.rejections import Rejections
from salad_ds.data.samples import SCHEMA, IndexEntry, is_audio, own_key, parse_meta, split_name
from salad_ds.errors import DataError
from salad_ds.files import read_json, sha256_file, write_json
from salad_ds.text import split_words


def index_path(shard: Path) -> Path:
    return shard.with_name(shard.stem + ".index.json")


def scan(shard: Path, sha256: str | None = None) -> dict[str, Any]:
    """The index of ``shard``, from the tar itself. Samples that cannot be used are left out and counted.

    Raises DataError for a tar that is damaged or has a member that leads out of it.
    """
    try:
        found = members(shard)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{shard} is not a whole tar ({error})", "copy or prepare this shard again") from None
    rejections, samples = Rejections(), []
    keys: set[str] = set()
    with open(shard, "rb", buffering=0) as file:
        for key, files in found:
            try:
                if key in keys:
                    raise DataError("duplicate key")
                keys.add(key)
                samples.append(describe(file, key, files))
            except DataError as error:
                rejections.add(error.what.split(" (")[0], key, error.what)
    return {"schema": SCHEMA, "shard_sha256": sha256 or sha256_file(shard), "samples": samples,
            "rejected": rejections.table()}


def members(shard: Path) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """``(key, {ending: (offset, size)})`` in the tar's order: a run of members with one key is one sample."""
    found: list[tuple[str, dict[str, tuple[int, int]]]] = []
    with tarfile.open(shard, mode="r:") as tar:
        for member in tar:
            wds_key, ending = split_name(member.name)
            if not member.isreg() or not wds_key:
                continue  # links and devices are never followed
            key = own_key(wds_key)
            if not found or found[-1][0] != key:
                found.append((key, {}))
            found[-1][1].setdefault(ending, (member.offset_data, member.size))
            tar.members = []  # type: ignore[assignment]  # tarfile keeps every header otherwise
    return found


def describe(file: Any, key: str, files: dict[str, tuple[int, int]]) -> dict[str, Any]:
    if "json" not in files:
        raise DataError("no JSON")
    audio = next(((*files[ending], ending) for ending in files if is_audio(ending)), None)
    meta = parse_meta(_read(file, files["json"]), key)
    duration = meta.get("duration")
    if audio is not None and not (isinstance(duration, (int, float)) and duration > 0):
        try:
            duration = probe(_read(file, audio[:2]))[0]
        except DataError:
            raise DataError("audio does not decode") from None
    return {"key": key, "json": list(files["json"]), "audio": list(audio) if audio else None,
            "duration": round(float(duration), 6) if audio else 0.0, "n_words": len(split_words(meta["text"]))}


def _read(file: Any, place: tuple[int, int]) -> bytes:
    file.seek(place[0])
    return file.read(place[1])


def write_index(shard: Path, sha256: str | None = None) -> dict[str, Any]:
    index = scan(shard, sha256)
    write_json(index_path(shard), index)
    return index


def read_index(shard: Path, sha256: str | None = None) -> dict[str, Any]:
    """The index of ``shard``; made where it is missing. ``sha256``: the shard's, if known.

    Raises DataError for an index of another schema or another tar.
    """
    path = index_path(shard)
    if not path.is_file():
        return write_index(shard, sha256)
    index = read_json(path)
    if not isinstance(index, dict) or index.get("schema") != SCHEMA:
        raise DataError(f"{path} is not an index of schema {SCHEMA}", "delete it; it is made again from the tar")
    if sha256 is not None and index.get("shard_sha256") != sha256:
        raise DataError(f"{path} was made from another {shard.name}", "delete it; it is made again from the tar")
    return index


def entries(shard: Path, index: dict[str, Any]) -> list[IndexEntry]:
    try:
        return [IndexEntry(row["key"], shard, (row["json"][0], row["json"][1]),
                           (row["audio"][0], row["audio"][1], row["audio"][2]) if row["audio"] else None,
                           float(row["duration"]), int(row["n_words"])) for row in index["samples"]]
    except (KeyError, IndexError, TypeError, ValueError):
        raise DataError(f"{index_path(shard)} is damaged", "delete it; it is made again from the tar") from None
