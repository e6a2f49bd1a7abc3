"""Every byte of a directory of shards, checked: what ``salad-ds lint`` says about speech, texts and word times.

A damaged shard does not keep the next one from being checked, and each fault names its file or sample.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from salad_ds.audio import decode
from salad_ds.data.samples import IndexEntry
from salad_ds.data.shard_index import entries, index_path, read_index, scan
from salad_ds.data.shard_set import AGAIN, ShardSet
from salad_ds.data.word_times import read_words, words_path
from salad_ds.environment import cores
from salad_ds.errors import DataError
from salad_ds.files import read_json, sha256_file

SLACK = 0.05
"""Seconds by which a duration may be rounded, and a last word overhang its recording."""
ALIGN_AGAIN = "delete it and align again"


@dataclass
class Checked:
    """What was read in ``name``, and what is wrong with it: ``faults``, each as (what, mend)."""

    name: str
    kind: str = ""
    shards: int = 0
    samples: int = 0
    seconds: float = 0.0
    """Of audio, as decoded."""
    timed: int = 0
    """Samples with word times."""
    dropped: int = 0
    """Samples that the aligner gave up, by its own record."""
    unaligned: int = 0
    """Shards that have not been aligned."""
    note: str = ""
    faults: list[tuple[str, str]] = field(default_factory=list)
    keys: array[int] = field(default_factory=lambda: array("Q"))
    """A 64-bit digest per key: corpora have tens of millions."""

    def fault(self, what: str, mend: str = "") -> None:
        self.faults.append((what, mend))

    def add(self, other: Checked) -> None:
        for name in ("samples", "seconds", "timed", "dropped", "unaligned"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.faults += other.faults
        self.keys.extend(other.keys)


def check_shards(name: str, directory: Path) -> Iterator[Checked]:
    """Check every shard of ``directory``, several at once; yields the growing result once per shard and at the end.

    A directory that does not exist is noted, not a fault.
    """
    row = Checked(name)
    if not directory.exists():
        row.note = "not there yet"
        yield row
        return
    path = directory / "manifest.json"
    try:
        if not path.is_file():
            ShardSet.open(directory)  # indexes tars that somebody else wrote, or says what is wrong
        manifest = read_json(path)
        row.kind = str(manifest["kind"])
        wanted = [(directory / Path(line["name"]).name, line, row.kind) for line in manifest["shards"]]
    except DataError as error:
        row.fault(error.what, error.mend)
        yield row
        return
    except (KeyError, TypeError):
        row.fault(f"{path} is not a manifest", "prepare the corpus again")
        yield row
        return
    with ThreadPoolExecutor(cores()) as pool:  # hashing and decoding leave Python
        for shard in pool.map(check_shard, wanted):
            row.shards += 1
            row.add(shard)
            yield row
    for key, times in repeated(row.keys, [path for path, *_ in wanted]).items():
        row.fault(f"{directory}: the key {key} is there {times} times", "give every sample a key of its own")
    if row.unaligned:
        row.note = f"{row.unaligned} shards not aligned yet"
    yield row


def check_shard(wanted: tuple[Path, dict[str, Any], str]) -> Checked:
    """One tar with its index and word times, against the manifest's line about it."""
    path, line, kind = wanted
    row = Checked(path.name)
    if not path.is_file():
        row.fault(f"{path} is missing", AGAIN)
        return row
    size, sha256 = path.stat().st_size, str(line.get("sha256"))
    if line.get("bytes", size) != size:
        row.fault(f"{path} has {size} bytes, not {line['bytes']}", AGAIN)
        return row
    if sha256_file(path) != sha256:
        row.fault(f"{path} is damaged: its SHA-256 is not the manifest's", AGAIN)
    try:
        fresh = scan(path, sha256)
    except DataError as error:
        row.fault(error.what, error.mend)
        return row
    for reason, told in fresh["rejected"].items():
        more = told["count"] - len(told["examples"])
        for example in [*told["examples"], *([f"{more} more"] if more else [])]:
            row.fault(f"{path}: {example}: {reason}", "mend or remove the sample")
    found = entries(path, fresh)
    if not row.faults:
        check_index(row, path, sha256, fresh)
        if len(found) != line.get("samples"):
            row.fault(f"{path} holds {len(found)} samples, the manifest says {line.get('samples')}", AGAIN)
    row.samples = len(found)
    row.keys.extend(digest(entry.key) for entry in found)
    with open(path, "rb", buffering=0) as file:
        for entry in found:
            check_sample(row, file.fileno(), entry, kind)
    if kind == "speech":
        check_words(row, path, sha256, found)
    return row


def check_index(row: Checked, path: Path, sha256: str, fresh: dict[str, Any]) -> None:
    """The index beside a sound tar says what the tar says; one that is missing is made when it is needed."""
    if not index_path(path).is_file():
        return
    try:
        if read_index(path, sha256).get("samples") != fresh["samples"]:
            row.fault(f"{index_path(path)} does not describe its tar", "delete it; it is made again from the tar")
    except DataError as error:
        row.fault(error.what, error.mend)


def check_sample(row: Checked, file: int, entry: IndexEntry, kind: str) -> None:
    """Its JSON has been parsed by ``scan``; here its sound, all of it."""
    name = f"{entry.shard}: {entry.key}"
    if (entry.audio is None) == (kind == "speech"):
        row.fault(f"{name} is {'text' if entry.audio is None else 'speech'} among {kind}", "keep the two apart")
    if entry.audio is None:
        return
    try:
        wave, rate = decode(os.pread(file, entry.audio[1], entry.audio[0]))
    except DataError as error:
        row.fault(f"{name}: {error.what}", error.mend)
        return
    seconds = len(wave) / rate
    row.seconds += seconds
    if abs(seconds - entry.duration) > SLACK + 0.01 * seconds:
        row.fault(f"{name} lasts {seconds:.2f} s, its JSON says {entry.duration:.2f} s", "mend or remove the sample")


def check_words(row: Checked, shard: Path, sha256: str, found: list[IndexEntry]) -> None:
    """The shard's sidecar: of this tar, times in order and inside the recording, one per word, for every sample that it
    did not drop by name. A shard that has none is not aligned yet."""
    path = words_path(shard)
    try:
        times = read_words(shard, sha256)  # refuses times that are not in order
    except DataError as error:
        row.fault(error.what, error.mend)
        return
    if times is None:
        row.unaligned += 1
        return
    dropped = {key for keys in times.dropped.values() for key in keys}
    for entry in found:
        words = times.words.get(entry.key)
        if words is None:
            row.dropped += entry.key in dropped
            if entry.key not in dropped:
                row.fault(f"{path}: {entry.key} has no word times and is not among the dropped", ALIGN_AGAIN)
            continue
        row.timed += 1
        last = max((word.end for word in words), default=0.0)
        if len(words) != entry.n_words:
            row.fault(f"{path}: {entry.key} has {len(words)} word times for {entry.n_words} words", ALIGN_AGAIN)
        elif last > entry.duration + SLACK:
            row.fault(f"{path}: {entry.key} has a word that ends at {last:.2f} s of {entry.duration:.2f}", ALIGN_AGAIN)
    if strangers := times.words.keys() - {entry.key for entry in found}:
        row.fault(f"{path}: {min(strangers)} is not in its tar ({len(strangers)} such keys)", ALIGN_AGAIN)


def digest(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def repeated(keys: array[int], shards: list[Path]) -> dict[str, int]:
    """Keys that more than one shard has, with how often; ``keys``: the digests of all."""
    values, counts = np.unique(np.frombuffer(keys, dtype=np.uint64), return_counts=True)
    suspects = set(values[counts > 1].tolist())
    if not suspects:
        return {}
    names: Counter[str] = Counter()
    for shard in shards:
        if shard.is_file():
            found = [row["key"] for row in scan(shard, "")["samples"]]
            names.update(key for key in found if digest(key) in suspects)
    return {key: times for key, times in names.items() if times > 1}
