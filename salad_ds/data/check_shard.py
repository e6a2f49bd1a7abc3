"""One shard, every byte of it: its tar, samples, index, word times and cached frames against the manifest's row, and
against each other.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from typing import Any

from salad_ds.audio import decode
from salad_ds.config import StorageConfig
from salad_ds.data import sources, storage
from salad_ds.data.rejections import Rejections
from salad_ds.data.samples import SLACK, IndexEntry, parse_meta
from salad_ds.data.script import other_script
from salad_ds.data.shard_index import entries, index_path, read_index, scan
from salad_ds.data.shard_ref import ShardRef, sidecar_path
from salad_ds.data.shard_set import AGAIN
from salad_ds.data.sources import LocalSource
from salad_ds.data.storage import Missing
from salad_ds.data.word_times import check_owner, key_of, parse_head, parse_words, words_path
from salad_ds.errors import DataError

ALIGN_AGAIN = "delete it and align again"
MEND_SAMPLE = "mend or remove the sample"

KINDS = {
    "manifest": "the directory cannot be opened",
    "missing": "a shard is not there, or cannot be read",
    "tar": "a tar is cut short or is none",
    "checksum": "a tar or sidecar is not what was written",
    "path": "the name of a member leads out of the archive",
    "json": "a sample has no JSON, or none that parses",
    "text": "a sample has no text",
    "script": "a text is written in another script than its language",
    "audio": "sound has no length, or does not decode",
    "rate": "sound has another sample rate than its JSON says",
    "duration": "sound has another length than its JSON says",
    "mixed": "a text among speech, or speech among texts",
    "duplicate": "a key is there more than once",
    "index": "an index does not describe its tar",
    "words": "word times are missing, out of order, too many or outside the sound",
    "store": "the teacher store is damaged, or another teacher's",
    "features": "cached encoder frames are damaged or another shard's",
}
"""The kinds of fault."""
REASONS = {"path leads": "path", "name is": "path", "duplicate": "duplicate", "no text": "text", "text holds": "text",
           "audio": "audio"}  # fmt: skip
"""Beginnings of what ``scan`` says of a sample; all else is of kind ``json``."""


@dataclass(frozen=True)
class Fault:
    """``what`` names file and sample; ``mend`` says what to do."""

    kind: str
    what: str
    mend: str = ""


class ShardCheck:
    """One tar with its index and sidecars against the manifest's row about it."""

    def __init__(self, ref: ShardRef, row: dict[str, Any], kind: str, settings: StorageConfig) -> None:
        self.ref, self.row, self.kind, self.settings = ref, row, kind, settings
        self.faults: list[Fault] = []
        self.bad: set[str] = set()
        self.whole = True
        self.keys: array[int] = array("Q")
        self.samples, self.seconds, self.timed, self.dropped, self.unaligned = int(row["samples"]), 0.0, 0, 0, 0

    def fault(self, kind: str, what: str, mend: str = "", key: str | None = None) -> None:
        """One of the sample ``key``, or of the shard, or ("") one that costs no sample."""
        self.faults.append(Fault(kind, what, mend))
        if key is None:
            self.whole = False
        elif key:
            self.bad.add(key)

    def run(self) -> ShardCheck:
        try:
            source = sources.fetched(self.ref.place, self.settings)
            self.check_tar(source)
        except DataError as error:
            self.fault("missing", error.what, error.mend)
        return self

    def check_tar(self, source: LocalSource) -> None:
        ref, size, sha256 = self.ref, source.size(), str(self.row["sha256"])
        if self.row.get("bytes", size) != size:
            self.fault("tar", f"{ref} has {size} bytes, not {self.row['bytes']}", AGAIN)
            return
        if sources.digest_like(sha256, source) != sha256:
            self.fault("checksum", f"{ref} is damaged: its checksum is not the manifest's", AGAIN)
        rejections = Rejections()
        try:
            fresh = scan(ref, sha256, rejections, self.settings, source=source)
        except DataError as error:
            self.fault("tar", error.what, error.mend)
            return
        if source.read(max(size - 1024, 0), min(size, 1024)).strip(b"\0"):
            self.fault("tar", f"{ref} ends without the mark of a tar's end", AGAIN)
        for reason, rejected in rejections.keys.items():
            kind = next((kind for begin, kind in REASONS.items() if reason.startswith(begin)), "json")
            for key, detail in rejected.items():
                self.fault(kind, f"{ref}: {key}: {detail}", MEND_SAMPLE, key)
        found = entries(ref, fresh)
        if self.whole:
            found = self.check_index(fresh, found)
        self.samples = len(found) + rejections.count
        self.keys.extend(digest(entry.key) for entry in found)
        for entry in found:
            self.check_sample(source, entry)
        if self.kind == "speech":
            self.check_words(found)
            self.check_features(found)

    def check_index(self, fresh: dict[str, Any], found: list[IndexEntry]) -> list[IndexEntry]:
        """The samples of the index beside a sound tar, which must be the tar's less those that were left out; one that
        is missing is made when it is needed."""
        path = index_path(self.ref)
        try:
            index = read_index(self.ref, str(self.row["sha256"]), self.settings, make=False)
            known, rows = {row["key"]: row for row in fresh["samples"]}, index["samples"]
            left_out = sum(row["count"] for row in index.get("left_out", {}).values())
            silent = {key for key, row in known.items() if not row["audio"]} if self.kind == "speech" else set()
            silent -= {row["key"] for row in rows}
            for key in silent:
                self.fault("mixed", f"{self.ref}: {key} has no sound", MEND_SAMPLE, key)
            if len(rows) + left_out + len(silent) != len(known) or any(known.get(row["key"]) != row for row in rows):
                raise DataError(f"{storage.shown(path)} does not describe its tar",
                                "delete it; it is made again from the tar")
            if len(rows) != self.row["samples"]:
                raise DataError(f"{storage.shown(path)} holds {len(rows)} samples, the manifest says "
                                f"{self.row['samples']}", "prepare the corpus again")
            return entries(self.ref, index)
        except Missing:
            if len(found) != self.row["samples"]:
                self.fault("index", f"{self.ref} holds {len(found)} samples, the manifest says {self.row['samples']}",
                           AGAIN)
        except DataError as error:
            self.fault("index", error.what, error.mend)
        except (KeyError, TypeError, AttributeError):
            self.fault("index", f"{storage.shown(path)} is damaged", "delete it; it is made again from the tar")
        return found

    def check_sample(self, source: LocalSource, entry: IndexEntry) -> None:
        """Its text and all of its sound."""
        name, key = f"{self.ref}: {entry.key}", entry.key
        meta = parse_meta(source.read(*entry.json), key)
        language = str(meta.get("language") or "")
        if script := other_script(meta["text"], language):
            self.fault("script", f"{name}: the text is {script.title()}, its language {language!r}: "
                                 f"{meta['text'][:40]!r}", MEND_SAMPLE, key)
        if (entry.audio is None) == (self.kind == "speech"):
            self.fault("mixed", f"{name} is {'text' if entry.audio is None else 'speech'} among {self.kind}",
                       "keep the two apart", key)
        if entry.audio is None:
            return
        try:
            wave, rate = decode(source.read(*entry.audio[:2]))
        except DataError as error:
            self.fault("audio", f"{name}: {error.what}", error.mend, key)
            return
        seconds = len(wave) / rate
        self.seconds += seconds
        if (told := meta.get("sample_rate")) is not None and told != rate:
            self.fault("rate", f"{name} has {rate} samples per second, its JSON says {told}", MEND_SAMPLE, key)
        if abs(seconds - entry.duration) > SLACK + 0.01 * seconds:
            self.fault("duration", f"{name} lasts {seconds:.2f} s, its JSON says {entry.duration:.2f} s", MEND_SAMPLE,
                       key)

    def check_words(self, found: list[IndexEntry]) -> None:
        """The sidecar: of this tar, times in order and inside the recording, one per word, for every sample that it did
        not drop by name. A shard that has none is not aligned yet."""
        path = words_path(self.ref)
        name = storage.shown(path)
        try:
            first, _, body = storage.read_bytes(path, self.settings).partition(b"\n")
            head = parse_head(first, path)
            check_owner(head, self.ref, str(self.row["sha256"]))
        except Missing:
            self.unaligned = 1
            return
        except DataError as error:
            self.fault("words", error.what, error.mend)
            return
        if hashlib.sha256(body).hexdigest() != head.get("words_sha256", hashlib.sha256(body).hexdigest()):
            self.fault("checksum", f"{name} is damaged: its checksum is not its first line's", ALIGN_AGAIN)
        known = {entry.key: entry for entry in found}
        timed: set[str] = set()
        for number, line in enumerate(body.removesuffix(b"\n").split(b"\n") if body else [], 2):
            try:
                key, words = parse_words(line, f"{name}: line {number}")
            except DataError as error:
                self.fault("words", error.what, error.mend, key_of(line))
                continue
            if key in timed:
                self.fault("words", f"{name}: {key} is there twice", ALIGN_AGAIN, key)
            timed.add(key)
            if key not in known:
                self.fault("words", f"{name}: {key} is not in its tar", ALIGN_AGAIN, "")
                continue
            self.timed += 1
            entry, last = known[key], max((word.end for word in words), default=0.0)
            if len(words) != entry.n_words:
                self.fault("words", f"{name}: {key} has {len(words)} word times for {entry.n_words} words", ALIGN_AGAIN,
                           key)
            elif last > entry.duration + SLACK:
                self.fault("words", f"{name}: {key} has a word that ends at {last:.2f} s of {entry.duration:.2f}",
                           ALIGN_AGAIN, key)
        dropped = {key for keys in head["dropped"].values() for key in keys}
        for key in known.keys() - timed:
            self.dropped += key in dropped
            if key not in dropped:
                self.fault("words", f"{name}: {key} has no word times and is not among the dropped", ALIGN_AGAIN, key)

    def check_features(self, found: list[IndexEntry]) -> None:
        """The cached frames, where there are any: whole, and of this tar's samples."""
        path = storage.local(sidecar_path(self.ref, ".features.safetensors"))
        if path is None or not path.is_file():
            return
        from salad_ds.data.features import open_features, read_head

        try:
            if read_head(path)[0].get("shard_sha256") != self.row["sha256"]:
                raise DataError(f"{path} holds the frames of another {self.ref.name}", "delete it and encode again")
            sidecar = open_features(path)
            sidecar.verify()
            if strangers := sidecar.places.keys() ^ {entry.key for entry in found}:
                raise DataError(f"{path} and its tar differ in {len(strangers)} samples ({min(strangers)})",
                                "delete it and encode again")
        except DataError as error:
            self.fault("features", error.what, error.mend)


def digest(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
