"""The index of a shard: where in the tar each sample's bytes lie, so that any sample is one read away.

``<stem>.index.json`` is a JSON object with one sample per line, so that one sample's entry can be read alone:

    {"schema": 1, "shard_sha256": …, "rejected": {reason: {"count", "examples"}}, "samples": [
    {"key", "json": [offset, size], "audio": [offset, size, format] | null, "duration", "n_words"},
    …
    ]}

It is made by scanning the tar, for our own shards as for foreign ones, so that there is one way to read a tar.
"""

from __future__ import annotations

import contextlib
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

from salad_ds.audio import probe
from salad_ds.config import StorageConfig
from salad_ds.data import sources, storage
from salad_ds.data.lines import Lines, read_lines
from salad_ds.data.rejections import Rejections
from salad_ds.data.samples import SCHEMA, IndexEntry, is_audio, own_key, parse_meta, split_name
from salad_ds.data.shard_ref import Shard, shard_ref, sidecar_path
from salad_ds.data.sources import Source, Walk
from salad_ds.data.storage import Missing, Place
from salad_ds.errors import DataError
from salad_ds.text import count_words

MEND = "delete it; it is made again from the tar"
LONGEST_JSON = 16 << 20
LONGEST_SOUND = 1e9
"""Seconds; what claims more is measured."""


def index_path(shard: Shard) -> Place:
    return sidecar_path(shard, ".index.json")


# ---- from the tar


def scan(shard: Shard, sha256: str | None = None, rejections: Rejections | None = None,
         settings: StorageConfig | None = None, leave_out: Callable[[dict[str, Any]], str] | None = None,
         left_out: Rejections | None = None, source: Source | None = None) -> dict[str, Any]:
    """The index of ``shard``, from the headers and JSON of the tar itself; sound is read only where the JSON has no
    duration. Samples that cannot be used are not in it; they are counted, and by name in ``rejections``. ``leave_out``:
    a sample's JSON → why it is not wanted, or ""; counted in ``left_out``. ``source``: the tar, if it is open already.

    Raises DataError for a tar that is damaged.
    """
    ref, samples, keys = shard_ref(shard), [], set()
    rejections = Rejections() if rejections is None else rejections
    walk = Walk(source or sources.open_source(ref.place, settings))
    try:
        for key, files, fault in members(walk):
            try:
                if fault:
                    raise DataError(fault)
                if key in keys:
                    raise DataError("duplicate key")
                keys.add(key)
                row, meta = describe(walk, key, files)
                why = leave_out(meta) if leave_out else ""
                if not why:
                    samples.append(row)
                elif left_out is not None:
                    left_out.add(why, key)
            except DataError as error:
                rejections.add(error.what.split(" (")[0], key, error.what)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataError(f"{ref} is not a whole tar ({error})", "copy or prepare this shard again") from None
    return {"schema": SCHEMA, "shard_sha256": sha256 or sources.sha256_of(ref.place, settings),
            "rejected": rejections.table(), "samples": samples}


Files = dict[str, tuple[int, int, bytes]]
"""{ending: (offset, size, content of a JSON)}"""


def members(walk: Walk) -> Iterator[tuple[str, Files, str]]:
    """``(key, files, what is wrong with the name or "")`` in the tar's order: a run of members with one key is one
    sample. The walk goes forward only."""
    key, files, fault = "", Files(), ""
    with tarfile.open(fileobj=walk, mode="r:") as tar:  # type: ignore[call-overload]
        for member in tar:
            tar.members = []  # tarfile keeps every header otherwise
            new, ending, bad = identify(member.name)
            if not member.isreg() or not new:
                continue  # links and devices are never followed
            if (new, bad) != (key, fault):
                if files:
                    yield key, files, fault
                key, files, fault = new, {}, bad
            raw = b""
            if ending == "json" and member.size <= LONGEST_JSON:
                walk.seek(member.offset_data)
                raw = walk.read(member.size)
            files.setdefault(ending, (member.offset_data, member.size, raw))
    if files:
        yield key, files, fault


def identify(name: str) -> tuple[str, str, str]:
    """``(our key, ending, what is wrong with the name)`` of a member; the key is empty for one that is no sample's."""
    written = name.encode("utf-8", "backslashreplace").decode()
    if written != name:  # tarfile gives bytes that are no UTF-8 as halves of characters
        return re.sub(r"\.[^/]*$", "", written), "", f"name is not UTF-8 ({written})"
    try:
        wds_key, ending = split_name(name)
    except DataError:
        return re.sub(r"\.[^/]*$", "", name), "", f"path leads out of the archive ({name!r})"
    return own_key(wds_key), ending, ""


def describe(walk: Walk, key: str, files: Files) -> tuple[dict[str, Any], dict[str, Any]]:
    """``(row of the index, the sample's JSON)``. Raises DataError for a sample that cannot be used."""
    if "json" not in files:
        raise DataError("no JSON")
    audio = next(((*files[ending][:2], ending) for ending in files if is_audio(ending)), None)
    meta = parse_meta(files["json"][2], key)
    told, duration = meta.get("duration"), 0.0
    if audio is not None and not audio[1]:
        raise DataError("audio of zero bytes")
    if audio is not None and isinstance(told, (int, float)) and 0 < told < LONGEST_SOUND:
        duration = float(told)
    elif audio is not None:
        try:
            walk.seek(audio[0])
            duration = probe(walk.read(audio[1]))[0]
        except DataError:
            raise DataError("audio does not decode") from None
    row = {"key": key, "json": list(files["json"][:2]), "audio": list(audio) if audio else None,
           "duration": round(duration, 6), "n_words": count_words(meta["text"])}
    return row, meta


# ---- on disk


def dump(index: dict[str, Any]) -> bytes:
    """The index as the file holds it."""
    head = json.dumps({name: value for name, value in index.items() if name != "samples"}, ensure_ascii=False)
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in index["samples"])
    return f'{head[:-1]}, "samples": [\n{rows}{chr(10) if rows else ""}]}}\n'.encode()


def write_index(shard: Shard, sha256: str | None = None,
                settings: StorageConfig | None = None) -> dict[str, Any]:
    index = scan(shard, sha256, settings=settings)
    storage.write_bytes(index_path(shard), dump(index), settings)
    return index


def read_index(shard: Shard, sha256: str | None = None,
               settings: StorageConfig | None = None, make: bool = True) -> dict[str, Any]:
    """The index of ``shard``; made where it is missing, unless ``make`` is false. ``sha256``: the shard's, if known.

    Raises DataError for an index of another schema or another tar, storage.Missing for none.
    """
    path = index_path(shard)
    try:
        index = json.loads(storage.read_bytes(path, settings))
    except Missing:
        if not make:
            raise
        index = scan(shard, sha256, settings=settings)
        with contextlib.suppress(DataError, OSError):  # a directory that one may only read: it stays in memory
            storage.write_bytes(path, dump(index), settings)
        return index
    except ValueError:
        raise DataError(f"{storage.shown(path)} is damaged", MEND) from None
    check_head(index, shard, sha256)
    return index


def check_head(index: Any, shard: Shard, sha256: str | None) -> None:
    path = storage.shown(index_path(shard))
    if not isinstance(index, dict) or index.get("schema") != SCHEMA:
        raise DataError(f"{path} is not an index of schema {SCHEMA}", MEND)
    if sha256 is not None and index.get("shard_sha256") != sha256:
        raise DataError(f"{path} was made from another {shard_ref(shard).name}", MEND)


class IndexLines:
    """An index of which one entry at a time is parsed. Made where it is missing.

    Raises DataError as read_index does.
    """

    def __init__(self, shard: Shard, sha256: str | None, settings: StorageConfig) -> None:
        self.ref, path = shard_ref(shard), index_path(shard)
        try:
            self.lines, raw = read_lines(path, settings)
        except Missing:
            raw = dump(read_index(self.ref, sha256, settings))
            self.lines = Lines(raw)
        head = self._head(raw)
        if head is None:  # somebody else's layout of the same JSON
            raw = dump(read_index(self.ref, sha256, settings))
            self.lines = Lines(raw)
            head = self._head(raw)
        check_head(head, self.ref, sha256)

    def _head(self, raw: bytes) -> Any:
        first = self.lines[0] if len(self.lines) else b""
        if not first.endswith(b'"samples": [') or not raw.endswith(b"\n]}\n"):
            return None
        try:
            return json.loads(first + b"]}")
        except ValueError:
            return None

    def __len__(self) -> int:
        return len(self.lines) - 2

    def __getitem__(self, number: int) -> IndexEntry:
        if not 0 <= number < len(self):
            raise IndexError(number)
        try:
            return entry_of(self.ref, json.loads(self.lines[number + 1].rstrip(b",")))
        except ValueError:
            raise DataError(f"{storage.shown(index_path(self.ref))} is damaged", MEND) from None

    @property
    def size(self) -> int:
        """Bytes in memory, roughly."""
        return self.lines.size + 1000


def entry_of(shard: Shard, row: dict[str, Any]) -> IndexEntry:
    """Raises DataError for a row that is none."""
    try:
        return IndexEntry(row["key"], shard_ref(shard), (row["json"][0], row["json"][1]),
                          (row["audio"][0], row["audio"][1], row["audio"][2]) if row["audio"] else None,
                          float(row["duration"]), int(row["n_words"]))
    except (KeyError, IndexError, TypeError, ValueError):
        raise DataError(f"{storage.shown(index_path(shard))} is damaged", MEND) from None


def entries(shard: Shard, index: dict[str, Any]) -> list[IndexEntry]:
    """Raises DataError for an index whose rows are none."""
    try:
        return [entry_of(shard, row) for row in index["samples"]]
    except (KeyError, TypeError):
        raise DataError(f"{storage.shown(index_path(shard))} is damaged", MEND) from None
