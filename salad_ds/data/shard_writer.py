"""Writing shards: each tar appears whole with its index (and word times); a killed run goes on at the next shard.

While a corpus is being written its directory holds ``writing.json``: what it is made from, and the shards that are
whole. At the end ``manifest.json`` takes its place: a directory with a manifest is complete.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any

import webdataset

from salad_ds.data.rejections import Rejections, one_line, too_many
from salad_ds.data.samples import SCHEMA, Sample, check_key
from salad_ds.data.shard_index import index_path, read_index, write_index
from salad_ds.data.word_times import Word, check_words, words_path, write_words
from salad_ds.errors import DataError
from salad_ds.files import atomic_path, digest_of, read_json, sha256_file, write_json
from salad_ds.text import split_words


def finished(directory: str | Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of ``directory`` if it holds exactly what ``made_from`` asks for, None if it holds no manifest.

    Raises DataError when it holds something else: nothing of the user's is overwritten.
    """
    path = Path(directory) / "manifest.json"
    if not path.is_file():
        return None
    manifest = read_json(path)
    if digest_of(manifest.get("made_from")) != digest_of(made_from):
        raise DataError(f"{directory} was made from something else ({difference(manifest, made_from)})",
                        "remove that directory, or choose another one")
    missing = [row["name"] for row in manifest["shards"] if not (Path(directory) / row["name"]).is_file()]
    if missing:
        raise DataError(f"{directory}/{missing[0]} is missing", "remove that directory and prepare it again")
    return manifest


def difference(manifest: dict[str, Any], made_from: dict[str, Any]) -> str:
    old = manifest.get("made_from") or {}
    keys = [key for key in {**old, **made_from} if old.get(key) != made_from.get(key)]
    return ", ".join(f"{key}: {old.get(key)!r} there, {made_from.get(key)!r} wanted" for key in keys[:3])


class ShardWriter:
    """A context manager that fills ``directory`` with shards of ``samples_per_shard`` samples and a manifest.

    ``source``: name of the corpus, written into each sample's metadata. ``made_from``: JSON-able settings and digests
    of the input. With ``words_engine`` each ``add`` takes word times too and every shard gets its sidecar at once.
    ``max_bad_share``: close raises DataError when a larger share was rejected.

    A run that was killed is taken up: ``begin`` says False for samples that lie in whole shards already. The samples
    must come in the same order again; the tars are then the same byte for byte.
    """

    def __init__(self, directory: str | Path, source: str, samples_per_shard: int = 64,
                 made_from: dict[str, Any] | None = None, words_engine: str | None = None,
                 words_settings: dict[str, Any] | None = None, max_bad_share: float = 1.0) -> None:
        if samples_per_shard < 1:
            raise DataError(f"samples_per_shard is {samples_per_shard}", "use at least 1")
        self.directory, self.source, self.samples_per_shard = Path(directory), source, samples_per_shard
        self.made_from = made_from or {}
        self.words_engine, self.words_settings, self.max_bad_share = words_engine, words_settings, max_bad_share
        self.kind: str | None = None
        self.shards: list[dict[str, Any]] = []
        self.rejections, self.left_out = Rejections(), Rejections()
        self.manifest: dict[str, Any] | None = None
        self._before: set[str] = set()
        self._begun: set[str] = set()
        self._added: set[str] = set()
        self._part: contextlib.ExitStack | None = None
        self._reset_shard()

    # ---- life

    def __enter__(self) -> ShardWriter:
        if finished(self.directory, self.made_from) is not None:
            raise DataError(f"{self.directory} is finished already", "ask shards.finished before writing")
        self.directory.mkdir(parents=True, exist_ok=True)
        for part in self.directory.glob(".*.part"):
            part.unlink()
        state = self.directory / "writing.json"
        if state.is_file():
            self._take_up(read_json(state))
        elif next(self.directory.glob("*.tar"), None) is not None:
            raise DataError(f"{self.directory} holds tars that no prepare run wrote", "choose another directory")
        self._write_state()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        elif self._part is not None:
            self._part.__exit__(kind, error, trace)  # removes the unfinished tar; whole shards stay for the next run

    def close(self) -> dict[str, Any]:
        """Write the last shard and the manifest; returns the manifest. Raises DataError for too many bad samples."""
        if self.manifest is not None:
            return self.manifest
        if self._part is not None:
            self._finish_shard()
        bad = self.rejections.count
        if too_many(bad, bad + self.samples, self.max_bad_share):
            raise DataError(f"{bad} of {bad + self.samples} samples of {self.source} cannot be used "
                            f"(more than {self.max_bad_share:.0%}): {one_line(self.rejections.table())}",
                            "mend the corpus, or allow a larger share of bad samples")
        if not self.samples:
            raise DataError(f"{self.source} gave no sample at all: "
                            f"{one_line(self.rejections.table() | self.left_out.table()) or 'it is empty'}",
                            "check the source and the settings of this corpus")
        self.manifest = {"schema": SCHEMA, "kind": self.kind, "source": self.source, "shards": self.shards,
                         "samples": self.samples, "seconds": self.seconds, "rejected": self.rejections.table(),
                         "left_out": self.left_out.table(), "made_from": self.made_from}
        write_json(self.directory / "manifest.json", self.manifest)
        (self.directory / "writing.json").unlink(missing_ok=True)
        return self.manifest

    # ---- samples

    @property
    def samples(self) -> int:
        """Samples written, in whole shards and in the open one."""
        return sum(row["samples"] for row in self.shards) + len(self._keys)

    @property
    def seconds(self) -> float:
        return round(sum(row["seconds"] for row in self.shards) + self._seconds, 3)

    def begin(self, key: str) -> bool:
        """Ask once per sample, before its audio is decoded: False for a duplicate key (rejected here) and for a sample
        that an earlier, killed run has written."""
        if key in self._begun:
            self.reject("duplicate key", key)
            return False
        self._begun.add(key)
        return key not in self._before

    def add(self, sample: Sample, words: list[Word] | None = None) -> bool:
        """Write ``sample``; False if it was rejected (duplicate) or written by an earlier run.

        Raises DataError for a key that is not one, and for speech among texts.
        """
        check_key(sample.key)
        if sample.key in self._added:
            self.reject("duplicate key", sample.key)
            return False
        if sample.key not in self._begun:
            self.begin(sample.key)
        if sample.key in self._before:
            return False
        kind = "text" if sample.audio is None else "speech"
        if self.kind not in (None, kind):
            raise DataError(f"{self.directory}: sample {sample.key} is {kind} among {self.kind}", "write two corpora")
        if kind == "speech" and not sample.meta.get("duration", 0) > 0:
            raise DataError(f"{self.directory}: sample {sample.key} has no duration", "set meta['duration'] (seconds)")
        n_words = len(split_words(sample.text))
        if not n_words:
            self.reject("no text", sample.key)
            return False
        if words is not None:
            check_words(words, sample.key)
            if len(words) != n_words:
                raise DataError(f"{sample.key} has {n_words} words and {len(words)} word times", "time every word")
        self.kind = kind
        self._added.add(sample.key)
        if self._part is None:
            self._open_shard()
        meta = {"schema": SCHEMA, "id": sample.key, **sample.meta, "source": sample.meta.get("source", self.source)}
        files = {"__key__": sample.key, "json": json.dumps(meta, ensure_ascii=False).encode()}
        if sample.audio is not None:
            files[sample.audio_format] = sample.audio
        self._tar.write(files)
        self._keys.append(sample.key)
        self._seconds += float(meta.get("duration", 0.0)) if kind == "speech" else 0.0
        if words is not None:
            self._words[sample.key] = words
        if len(self._keys) >= self.samples_per_shard:
            self._finish_shard()
        return True

    def reject(self, reason: str, key: str, detail: str = "") -> None:
        """Count a bad sample. Adding it again for the same reason changes nothing."""
        self.rejections.add(reason, key, detail)

    def leave_out(self, reason: str, key: str, detail: str = "") -> None:
        """Count a sample that is sound but not wanted (too short, other split); it does not count as bad."""
        self.left_out.add(reason, key, detail)

    # ---- shards

    def _reset_shard(self) -> None:
        self._part = None
        self._keys: list[str] = []
        self._words: dict[str, list[Word]] = {}
        self._seconds = 0.0

    def _open_shard(self) -> None:
        self._part = contextlib.ExitStack()
        self._path = self.directory / f"{len(self.shards):06d}.tar"
        part = self._part.enter_context(atomic_path(self._path))
        file = self._part.enter_context(open(part, "wb"))
        # Fixed owner and time: the same samples give the same bytes.
        self._tar = self._part.enter_context(
            webdataset.TarWriter(file, user="", group="", mtime=0, encoder=False, compress=False))

    def _finish_shard(self) -> None:
        assert self._part is not None
        self._part.close()
        sha256 = sha256_file(self._path)
        index_path(self._path).unlink(missing_ok=True)
        index = write_index(self._path, sha256)
        if [row["key"] for row in index["samples"]] != self._keys:
            raise DataError(f"{self._path} does not read back ({one_line(index['rejected'])})", "mend these samples")
        if self.words_engine is not None:
            write_words(self._path, self.words_engine, self._words, settings=self.words_settings, shard_sha256=sha256)
        else:
            words_path(self._path).unlink(missing_ok=True)
        self.shards.append({"name": self._path.name, "samples": len(self._keys), "seconds": round(self._seconds, 3),
                            "bytes": self._path.stat().st_size, "sha256": sha256})
        self._reset_shard()
        self._write_state()

    def _write_state(self) -> None:
        write_json(self.directory / "writing.json", {"schema": SCHEMA, "kind": self.kind, "made_from": self.made_from,
                                                     "shards": self.shards})

    def _take_up(self, state: dict[str, Any]) -> None:
        if digest_of(state.get("made_from")) != digest_of(self.made_from):
            raise DataError(f"{self.directory} is half written from something else "
                            f"({difference(state, self.made_from)})", "remove that directory, or choose another one")
        for row in state["shards"]:
            path = self.directory / row["name"]
            if not path.is_file() or path.stat().st_size != row["bytes"]:
                break  # the shards from here on are written again
            self._before.update(sample["key"] for sample in read_index(path, row["sha256"])["samples"])
            self.shards.append(row)
        self.kind = state.get("kind") if self.shards else None
