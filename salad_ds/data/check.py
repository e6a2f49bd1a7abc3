"""Reading every byte of a directory of shards, and naming every fault: what ``salad-ds lint`` does.

One bad sample or shard hides no other. Shards are checked side by side; what is remembered of them is a digest per key
(in a file), and of the faults their number and the first few of each kind.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from salad_ds.config import StorageConfig
from salad_ds.data import storage
from salad_ds.data.check_shard import Fault, ShardCheck, digest
from salad_ds.data.shard_index import read_index
from salad_ds.data.shard_set import ShardSet
from salad_ds.environment import cores
from salad_ds.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
SHOWN = 20
"""Faults of one kind that are kept with their names; all are counted."""

@dataclass
class Checked:
    """What was read in ``name``, and what is wrong with it."""

    name: str
    kind: str = ""
    shards: int = 0
    total: int = 0
    """Shards that are to be checked."""
    samples: int = 0
    seconds: float = 0.0
    """Of audio, as decoded."""
    timed: int = 0
    """Samples with word times."""
    dropped: int = 0
    """Samples that the aligner gave up, by its own record."""
    unaligned: int = 0
    """Shards that have not been aligned."""
    bad: int = 0
    """Samples that cannot be used as they are: those with a fault, and all of a shard with a fault of its own."""
    broken: bool = False
    """Nothing of it can be used."""
    note: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    """Faults by kind."""
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    """The first few of each kind."""

    def add(self, fault: Fault) -> None:
        self.counts[fault.kind] += 1
        if len(named := self.faults.setdefault(fault.kind, [])) < SHOWN:
            named.append(fault)

    def fault(self, what: str, mend: str = "") -> None:
        """One of the whole (a teacher store), which cannot be used then."""
        self.broken = True
        self.add(Fault("store", what, mend))

    def stops(self, max_bad_share: float) -> bool:
        """Whether more than this share of the samples is bad."""
        return self.broken or self.bad > max_bad_share * max(self.samples, 1)


def check_shards(name: str, directory: Path | str, settings: StorageConfig | None = None,
                 tell: Callable[[Fault], None] = lambda _: None) -> Iterator[Checked]:
    """Check every shard of ``directory`` (a path or a URL), several at once; yields the growing result once per shard
    and at the end. ``tell`` is given every fault, as it is found.

    A directory that does not exist is noted, not a fault.
    """
    row, settings, place = Checked(name), storage.current(settings), storage.place_of(directory)

    def note(fault: Fault) -> None:
        row.add(fault)
        tell(fault)

    if storage.local(place) is not None and not storage.exists(place, settings):
        row.note = "not there yet"
        yield row
        return
    try:
        shards = ShardSet.open(place, settings, missing_ok=True)  # indexes tars that somebody else wrote
    except DataError as error:
        row.broken = True
        note(Fault("manifest", error.what, error.mend))
        yield row
        return
    row.kind, row.total = shards.kind, len(shards.shards)
    checks = (ShardCheck(ref, line, shards.kind, settings)
              for ref, line in zip(shards.shards, shards.rows, strict=True))  # fmt: skip
    with tempfile.TemporaryFile() as keys:
        for check in side_by_side(ShardCheck.run, checks):  # hashing and decoding leave Python
            keys.write(check.keys.tobytes())
            row.shards += 1
            row.bad += len(check.bad) if check.whole else check.samples
            for field_name in ("samples", "seconds", "timed", "dropped", "unaligned"):
                setattr(row, field_name, getattr(row, field_name) + getattr(check, field_name))
            for fault in check.faults:
                note(fault)
            yield row
        for key, places in repeated(keys, shards).items():
            row.bad += len(places) - 1
            where = ", ".join(dict.fromkeys(places[:5]))
            note(Fault("duplicate", f"{storage.shown(place)}: the key {key} is there {len(places)} times ({where})",
                       "give every sample a key of its own"))
    if row.unaligned:
        row.note = f"{row.unaligned} shards not aligned yet"
    yield row


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``work`` of each item, in order, by one thread per core; a few are read ahead."""
    under_way: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(cores()) as pool:
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) > 2 * cores():
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


# ---- keys in more than one shard


def repeated(keys: BinaryIO, shards: ShardSet, at_once: int = 1 << 22) -> dict[str, list[str]]:
    """Keys that are there more than once, with the names of their shards. ``keys``: a file of the digests of all; it is
    sorted in slices of about ``at_once`` by value, so that fifty million need no more memory than four."""
    keys.flush()
    size = keys.seek(0, 2) // 8
    if not size:
        return {}
    every = np.memmap(keys, np.uint64, "r", shape=(size,))
    slices = -(-size // at_once)
    suspects: set[int] = set()
    for number in range(slices):
        low, high = number * 2**64 // slices, (number + 1) * 2**64 // slices - 1
        part = np.sort(every[(every >= low) & (every <= high)])
        suspects.update(part[1:][part[1:] == part[:-1]].tolist())
    found: dict[str, list[str]] = {}
    for ref in shards.shards if suspects else ():
        try:
            samples = read_index(ref, settings=shards.settings)["samples"]
        except DataError:
            continue  # named already
        for row in samples:
            if digest(row["key"]) in suspects:
                found.setdefault(row["key"], []).append(ref.name)
    return {key: names for key, names in found.items() if len(names) > 1}


def as_json(directory: str, fault: Fault) -> str:
    """A line of the list of all faults."""
    return json.dumps({"directory": directory, "kind": fault.kind, "what": fault.what, "mend": fault.mend},
                      ensure_ascii=False)
