"""Reading shards: any sample by its number, through an index and pread, from any thread.

Opening reads the manifest; the index and the word times of a shard are read when first asked for and kept for the
last few shards, so that a corpus of many thousand hours opens at once and stays small in memory.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from salad_ds.data.rejections import merge_tables
from salad_ds.data.samples import SCHEMA, IndexEntry, Sample, parse_meta
from salad_ds.data.shard_index import entries, index_path, read_index
from salad_ds.data.word_times import Word, WordTimes, read_words, words_path
from salad_ds.errors import DataError
from salad_ds.files import digest_of, read_json, sha256_file, write_json

T = TypeVar("T")
AGAIN = "copy it again, or prepare the corpus again"
OPEN_FILES = 128
SHARDS_IN_MEMORY = 512


class Recent(Generic[T]):
    """The ``size`` most recently used results of ``make(number)``; safe from any thread."""

    def __init__(self, make: Callable[[int], T], size: int) -> None:
        self.make, self.size, self.lock = make, size, threading.Lock()
        self.kept: OrderedDict[int, T] = OrderedDict()

    def __call__(self, number: int) -> T:
        with self.lock:
            if number in self.kept:
                self.kept.move_to_end(number)
                return self.kept[number]
        value = self.make(number)  # outside the lock: two threads may make it twice, none waits for another's disk
        with self.lock:
            value = self.kept.setdefault(number, value)
            while len(self.kept) > self.size:
                self.kept.popitem(last=False)
        return value


class ShardSet:
    """The shards of one directory. ``kind``: ``speech`` or ``text``; ``seconds``: of audio; ``digest``: of the shards'
    SHA-256 sums; ``shards``: their paths. Sample ``i`` is the i-th in shard order."""

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.directory, self.manifest = directory, manifest
        self.kind: str = manifest["kind"]
        self.seconds: float = float(manifest["seconds"])
        self.shards: list[Path] = [directory / row["name"] for row in manifest["shards"]]
        self.digest: str = digest_of([row["sha256"] for row in manifest["shards"]])
        self._sha256: list[str] = [row["sha256"] for row in manifest["shards"]]
        self._first = [0]
        for row in manifest["shards"]:
            self._first.append(self._first[-1] + int(row["samples"]))
        self._entries: Recent[list[IndexEntry]] = Recent(self._read_entries, SHARDS_IN_MEMORY)
        self._times: Recent[WordTimes | None] = Recent(self._read_times, SHARDS_IN_MEMORY)
        # A file leaves the cache without being closed: whoever still reads from it holds it open.
        self._files: Recent[BinaryIO] = Recent(self._open_file, OPEN_FILES)

    @classmethod
    def open(cls, directory: str | Path) -> ShardSet:
        """Open ``directory``. Foreign tars (no manifest) are indexed first, which reads each of them once.

        Raises DataError for a missing, half-written, empty or damaged corpus, naming the file.
        """
        directory = Path(directory)
        path = directory / "manifest.json"
        if not path.is_file():
            if (directory / "writing.json").is_file():
                raise DataError(f"{directory} is half written", "run its stage again; it goes on where it stopped")
            if not directory.is_dir() or next(directory.glob("*.tar"), None) is None:
                raise DataError(f"{directory} holds no shards", "run the stage that makes them first")
            write_json(path, survey(directory))
        manifest = read_json(path)
        try:
            if manifest["schema"] != SCHEMA:
                raise DataError(f"{path} has schema {manifest['schema']}, not {SCHEMA}", "prepare the corpus again")
            opened = cls(directory, manifest)
            if any(Path(row["name"]).name != row["name"] for row in manifest["shards"]):
                raise DataError(f"{path} names a shard outside its directory", "prepare the corpus again")
            sizes = [row.get("bytes") for row in manifest["shards"]]
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{path} is not a manifest", "prepare the corpus again") from None
        for shard, sha256, size in zip(opened.shards, opened._sha256, sizes, strict=True):
            if not shard.is_file():
                raise DataError(f"{shard} is missing", "copy it back, or prepare the corpus again")
            if size is not None and shard.stat().st_size != size:
                raise DataError(f"{shard} has {shard.stat().st_size} bytes, not {size}", AGAIN)
            if not index_path(shard).is_file():
                read_index(shard, sha256)
        return opened

    def __len__(self) -> int:
        return self._first[-1]

    def identity(self) -> str:
        """Digest of the shards and of their word times: what a training stage or a measurement depends on."""
        sidecars = [words_path(shard) for shard in self.shards]
        return digest_of([self.digest, [sha256_file(path) for path in sidecars if path.is_file()]])

    def locate(self, i: int) -> tuple[int, int]:
        """``(number of the shard, place in it)`` of sample ``i``. IndexError outside ``range(len(self))``."""
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        shard = bisect_right(self._first, i) - 1
        return shard, i - self._first[shard]

    def entry(self, i: int) -> IndexEntry:
        shard, place = self.locate(i)
        return self._entries(shard)[place]

    def entries(self) -> Iterator[IndexEntry]:
        """Every entry, in order."""
        for shard in range(len(self.shards)):
            yield from self._entries(shard)

    def read(self, i: int, audio: bool = True) -> Sample:
        """Sample ``i``, by pread; with ``audio=False`` its sound is not read.

        Raises DataError naming the shard when the bytes are not there or not a sample.
        """
        shard, place = self.locate(i)
        entry = self._entries(shard)[place]
        file = self._files(shard)
        try:
            meta = parse_meta(self._pread(file, entry.json, entry), entry.key)
        except DataError as error:
            raise DataError(f"{entry.shard}: {entry.key}: {error.what}", AGAIN) from None
        if entry.audio is None or not audio:
            return Sample(entry.key, meta)
        return Sample(entry.key, meta, self._pread(file, entry.audio[:2], entry), entry.audio[2])

    def words(self, i: int) -> list[Word] | None:
        """Word times of sample ``i``, one per whitespace word; None where it has none.

        Raises DataError for a sidecar of another tar, and for one whose words are not the text's.
        """
        shard, place = self.locate(i)
        times = self._times(shard)
        if times is None:
            return None
        entry = self._entries(shard)[place]
        words = times.words.get(entry.key)
        if words is not None and len(words) != entry.n_words:
            raise DataError(f"{words_path(entry.shard)}: {entry.key} has {len(words)} word times for {entry.n_words} "
                            "words", "delete it and align again")
        return words

    def word_times(self, shard: int) -> WordTimes | None:
        """The whole sidecar of the shard with this number (engine, dropped samples, times)."""
        return self._times(shard)

    def unaligned(self) -> list[Path]:
        """Shards without a sidecar."""
        return [shard for shard in self.shards if not words_path(shard).is_file()]

    def verify(self) -> None:
        """Hash every shard again. Raises DataError naming the first damaged one."""
        for shard, sha256 in zip(self.shards, self._sha256, strict=True):
            if sha256_file(shard) != sha256:
                raise DataError(f"{shard} is damaged: its SHA-256 is not the manifest's", AGAIN)

    # ---- what the caches are filled with

    def _read_entries(self, shard: int) -> list[IndexEntry]:
        path = self.shards[shard]
        found = entries(path, read_index(path, self._sha256[shard]))
        if len(found) != self._first[shard + 1] - self._first[shard]:
            raise DataError(f"{index_path(path)} holds {len(found)} samples, the manifest says "
                            f"{self._first[shard + 1] - self._first[shard]}", "delete the index; it is made again")
        return found

    def _read_times(self, shard: int) -> WordTimes | None:
        return read_words(self.shards[shard], self._sha256[shard])

    def _open_file(self, shard: int) -> BinaryIO:
        try:
            return open(self.shards[shard], "rb", buffering=0)
        except OSError as error:
            raise DataError(f"{self.shards[shard]} cannot be opened ({error.strerror})", "copy it back") from None

    @staticmethod
    def _pread(file: BinaryIO, place: tuple[int, int], entry: IndexEntry) -> bytes:
        raw = os.pread(file.fileno(), place[1], place[0])
        while 0 < len(raw) < place[1]:  # network file systems may answer in parts
            more = os.pread(file.fileno(), place[1] - len(raw), place[0] + len(raw))
            if not more:
                break
            raw += more
        if len(raw) != place[1]:
            raise DataError(f"{entry.shard} ends inside sample {entry.key}", AGAIN)
        return raw


def survey(directory: Path) -> dict[str, Any]:
    """A manifest for tars that somebody else wrote; writes their indexes."""
    rows, kinds, tables = [], set(), []
    for shard in sorted(directory.glob("*.tar")):
        sha256 = sha256_file(shard)
        index = read_index(shard, sha256)
        kinds.update("speech" if row["audio"] else "text" for row in index["samples"])
        tables.append(index.get("rejected", {}))
        rows.append({"name": shard.name, "samples": len(index["samples"]),
                     "seconds": round(sum(row["duration"] for row in index["samples"]), 3),
                     "bytes": shard.stat().st_size, "sha256": sha256})
    if len(kinds) != 1:
        raise DataError(f"{directory} holds {' and '.join(sorted(kinds)) or 'no usable samples'}",
                        "give speech and text a directory each")
    return {"schema": SCHEMA, "kind": kinds.pop(), "source": directory.name, "shards": rows,
            "samples": sum(row["samples"] for row in rows), "seconds": round(sum(row["seconds"] for row in rows), 3),
            "rejected": merge_tables(tables), "left_out": {}, "made_from": {"tars": "found without a manifest"}}
