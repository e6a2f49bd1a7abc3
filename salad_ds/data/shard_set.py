"""Reading shards: any sample by its number, through an index and one read, from any thread or process.

Opening reads the manifest and looks at nothing else; a tar, its index and its word times are opened when they are first
asked for. What is kept of them is bounded in bytes, so that 100,000 shards open at once and stay small in memory.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from salad_ds.config import StorageConfig
from salad_ds.data import sources, storage
from salad_ds.data.parts import refuse_unfinished
from salad_ds.data.rejections import lines
from salad_ds.data.samples import SCHEMA, IndexEntry, Sample, parse_meta
from salad_ds.data.shard_index import IndexLines, entries, index_path, read_index
from salad_ds.data.shard_ref import ShardRef, ShardRefs, ShardRows
from salad_ds.data.sources import Source
from salad_ds.data.storage import Missing, Place
from salad_ds.data.word_times import Word, WordLines, WordTimes, read_words, words_identity, words_path
from salad_ds.errors import DataError
from salad_ds.files import digest_of

T = TypeVar("T")
AGAIN = "copy it again, or prepare the corpus again"
OPEN_FILES = 128
INDEX_BYTES, WORDS_BYTES = 64 << 20, 64 << 20
"""Bytes that a ShardSet keeps of indexes and of word times."""
GAP = 1 << 16
"""JSON and sound of a sample are read at once where no more bytes than this lie between them."""
AT_ONCE = 16
"""Small files read side by side: a network file system takes a millisecond for each."""


class Recent(Generic[T]):
    """The most recently used results of ``make(number)``, up to a total ``weight`` of ``limit``; safe from any thread,
    and in a forked process."""

    def __init__(self, make: Callable[[int], T], limit: int, weight: Callable[[T], int] = lambda _: 1) -> None:
        self.make, self.limit, self.weight = make, limit, weight
        self._begin()

    def _begin(self) -> None:
        self.lock, self.total, self.pid = threading.Lock(), 0, os.getpid()
        self.kept: OrderedDict[int, tuple[T, int]] = OrderedDict()

    def __call__(self, number: int) -> T:
        if self.pid != os.getpid():  # another thread of the parent may have held the lock when it forked
            self._begin()
        with self.lock:
            if number in self.kept:
                self.kept.move_to_end(number)
                return self.kept[number][0]
        value = self.make(number)  # outside the lock: two threads may make it twice, none waits for another's disk
        with self.lock:
            if number not in self.kept:
                self.kept[number] = value, self.weight(value)
                self.total += self.kept[number][1]
            value = self.kept[number][0]
            while self.total > self.limit and len(self.kept) > 1:
                self.total -= self.kept.popitem(last=False)[1][1]
        return value


class ShardSet:
    """The shards of one manifest. ``kind``: ``speech`` or ``text``; ``seconds``: of audio; ``digest``: of the shards'
    checksums; ``shards``: a ShardRef each; ``manifest``: all of the manifest. Sample ``i`` is the i-th in shard
    order.

    May be pickled (what it has read is left behind) and forked.
    """

    def __init__(self, directory: Place, manifest: dict[str, Any], settings: StorageConfig | None = None) -> None:
        self.directory, self.settings = directory, storage.current(settings)
        self.rows = ShardRows(manifest["shards"], directory)
        self.shards = ShardRefs(self.rows)
        self.manifest = {**manifest, "shards": self.rows}
        self.kind: str = manifest["kind"]
        self.seconds: float = float(manifest["seconds"])
        self.digest: str = digest_of(self.rows.sha256)
        for url in filter(storage.is_url, self.rows.urls or ()):
            storage.check_allowed(url, self.settings)
        self._prepare()

    def _prepare(self) -> None:
        self._index: Recent[IndexLines] = Recent(self._open_index, INDEX_BYTES, lambda index: index.size)
        self._words: Recent[WordLines | None] = Recent(self._open_words, WORDS_BYTES, lambda x: x.size if x else 100)
        # A file leaves the cache without being closed: whoever still reads from it holds it open.
        self._files: Recent[Source] = Recent(self._open_file, OPEN_FILES)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_index", "_words", "_files")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()

    @classmethod
    def open(cls, directory: str | Path, settings: StorageConfig | None = None, missing_ok: bool = False) -> ShardSet:
        """Open ``directory``, a path or a URL. Foreign tars (no manifest) are indexed first, which reads each of them
        once. ``settings``: of the storage (default: ``storage.use``'s). ``missing_ok``: a tar that is not there is an
        error only when it is read.

        Raises DataError for a missing, half-written, empty or damaged corpus, naming the file. That a tar has the
        manifest's size is seen when it is first read.
        """
        place = storage.place_of(directory)
        names = storage.names_in(place, settings) if storage.local(place) is not None else set()
        manifest = read_manifest(place, settings)
        path = storage.shown(storage.join(place, "manifest.json"))
        try:
            if manifest["schema"] != SCHEMA:
                raise DataError(f"{path} has schema {manifest['schema']}, not {SCHEMA}", "prepare the corpus again")
            opened = cls(place, manifest, settings)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataError(f"{path} is not a manifest", "prepare the corpus again") from None
        urls = opened.rows.urls
        for number, name in enumerate(opened.rows.names if names and not missing_ok else ()):
            if name not in names and not (urls and urls[number]):
                raise DataError(f"{opened.shards[number]} is missing", "copy it back, or prepare the corpus again")
        return opened

    def __len__(self) -> int:
        return self.rows.first[-1]

    @property
    def counts(self) -> np.ndarray:
        """[shards] int64: samples in each."""
        return np.diff(np.frombuffer(self.rows.first, np.int64))

    def samples_in(self, shard: int) -> range:
        """Numbers of the samples in the shard with this number."""
        return range(self.rows.first[shard], self.rows.first[shard + 1])

    def sha256(self, shard: int) -> str:
        """Checksum of the shard with this number, as the manifest has it: hex SHA-256, or ``edges:…`` (see sources)."""
        return self.rows.sha256[shard]

    def identity(self) -> str:
        """Digest of the shards and of their word times: what a training stage or a measurement depends on."""
        present = self._with_words()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            words = list(pool.map(lambda number: words_identity(self.shards[number], self.settings), present))
        return digest_of([self.digest, words])

    def locate(self, i: int) -> tuple[int, int]:
        """``(number of the shard, place in it)`` of sample ``i``. IndexError outside ``range(len(self))``."""
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        shard = bisect_right(self.rows.first, i) - 1
        return shard, i - self.rows.first[shard]

    def entry(self, i: int) -> IndexEntry:
        shard, place = self.locate(i)
        return self._index(shard)[place]

    def entries(self) -> Iterator[IndexEntry]:
        """Every entry, in order."""
        for number, ref in enumerate(self.shards):
            found = entries(ref, read_index(ref, self.rows.sha256[number], self.settings))
            self._check_count(number, len(found))
            yield from found

    def read(self, i: int, audio: bool = True) -> Sample:
        """Sample ``i``; with ``audio=False`` its sound is not read.

        Raises DataError naming the shard when the bytes are not there or not a sample.
        """
        shard, place = self.locate(i)
        entry, file = self._index(shard)[place], self._files(shard)
        sound = entry.audio if audio else None
        if sound is None:
            raw, wave = file.read(*entry.json), None
        else:
            begin, end = min(entry.json[0], sound[0]), max(sum(entry.json), sound[0] + sound[1])
            if end - begin - entry.json[1] - sound[1] <= GAP:
                both = file.read(begin, end - begin)
                raw, wave = (both[place - begin:place - begin + size] for place, size in (entry.json, sound[:2]))
            else:
                raw, wave = file.read(*entry.json), file.read(*sound[:2])
        try:
            meta = parse_meta(raw, entry.key)
        except DataError as error:
            raise DataError(f"{entry.shard}: {entry.key}: {error.what}", AGAIN) from None
        return Sample(entry.key, meta) if sound is None else Sample(entry.key, meta, wave, sound[2])

    def words(self, i: int) -> list[Word] | None:
        """Word times of sample ``i``, one per whitespace word; None where it has none.

        Raises DataError for a sidecar of another tar, a damaged line, and words that are not the text's.
        """
        shard, place = self.locate(i)
        times = self._words(shard)
        if times is None:
            return None
        entry = self._index(shard)[place]
        words = times.words(entry.key)
        if words is not None and len(words) != entry.n_words:
            raise DataError(f"{storage.shown(words_path(entry.shard))}: {entry.key} has {len(words)} word times for "
                            f"{entry.n_words} words", "delete it and align again")
        return words

    def word_times(self, shard: int) -> WordTimes | None:
        """The whole sidecar of the shard with this number (engine, dropped samples, times)."""
        return read_words(self.shards[shard], self.rows.sha256[shard], self.settings)

    def unaligned(self) -> list[ShardRef]:
        """Shards without a sidecar."""
        present = set(self._with_words())
        return [ref for number, ref in enumerate(self.shards) if number not in present]

    def verify(self) -> None:
        """Compute every shard's checksum again. Raises DataError naming the first damaged one."""
        for number, ref in enumerate(self.shards):
            if sources.digest_like(self.rows.sha256[number], ref.place, self.settings) != self.rows.sha256[number]:
                raise DataError(f"{ref} is damaged: its checksum is not the manifest's", AGAIN)

    # ---- what the caches are filled with

    def _with_words(self) -> list[int]:
        """Numbers of the shards with a sidecar, from one listing."""
        names = storage.names_in(self.directory, self.settings)
        return [number for number, name in enumerate(self.rows.names)
                if name.removesuffix(".tar") + ".words.jsonl" in names]

    def _open_index(self, shard: int) -> IndexLines:
        index = IndexLines(self.shards[shard], self.rows.sha256[shard], self.settings)
        self._check_count(shard, len(index))
        return index

    def _check_count(self, shard: int, samples: int) -> None:
        if samples != len(self.samples_in(shard)):
            raise DataError(f"{storage.shown(index_path(self.shards[shard]))} holds {samples} samples, the manifest "
                            f"says {len(self.samples_in(shard))}", "delete the index; it is made again")

    def _open_words(self, shard: int) -> WordLines | None:
        try:
            return WordLines(self.shards[shard], self.rows.sha256[shard], self.settings)
        except Missing:
            return None

    def _open_file(self, shard: int) -> Source:
        ref, wanted = self.shards[shard], self.rows.bytes[shard]
        source = sources.open_source(ref.place, self.settings)
        if isinstance(source, sources.LocalSource) and wanted >= 0 and source.size() != wanted:
            raise DataError(f"{ref} has {source.size()} bytes, not {wanted}", AGAIN)
        return source


def read_manifest(directory: Place, settings: StorageConfig | None = None) -> dict[str, Any]:
    """The manifest of ``directory``; that of tars which somebody else wrote is made first.

    Raises DataError for a directory without shards, and for one that is half written.
    """
    path = storage.join(directory, "manifest.json")
    try:
        return json.loads(storage.read_bytes(path, settings))
    except ValueError as error:
        raise DataError(f"{storage.shown(path)} is not valid JSON ({error})", "delete it and run its stage again") \
            from None
    except Missing:
        names = storage.names_in(directory, settings)
    here = storage.local(directory)
    if here is not None:
        refuse_unfinished(here)
    if "writing.json" in names:
        raise DataError(f"{storage.shown(directory)} is half written", "run its stage again; it goes on from there")
    tars = sorted(name for name in names if name.endswith(".tar"))
    if not tars:
        raise DataError(f"{storage.shown(directory)} holds no shards", "run the stage that makes them first")
    from salad_ds.data.refer import refer  # it indexes tars, which few callers need

    manifest = refer(directory, {name: storage.join(directory, name) for name in tars}, storage.name_of(directory),
                     {"tars": "found without a manifest"}, digest="sha256", max_bad_share=1.0, settings=settings)
    for line in lines(f"{storage.shown(directory)}: not usable", manifest["rejected"]):
        print(line, file=sys.stderr)
    return manifest
