"""Writing shards: each tar appears whole with its index (and word times); a killed run goes on at the next shard.

While a corpus is being written its directory holds ``writing.json``: what it is made from, and the shards that are
whole. At the end ``manifest.json`` takes its place: a directory with a manifest is complete. Where the work is divided
(parts.py) each part has such files of its own, and the last one to end writes ``manifest.json``.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any

from salad_ds.data.parts import FILE, TAR, WHOLE, Part, check_share, files_of, merge
from salad_ds.data.rejections import Rejections, one_line
from salad_ds.data.samples import SCHEMA, Sample, check_key
from salad_ds.data.shard_index import index_path, read_index, write_index
from salad_ds.data.word_times import Word, check_words, words_path, write_words
from salad_ds.errors import DataError
from salad_ds.files import atomic_path, digest_of, read_json, sha256_file, sole_writer, write_json
from salad_ds.text import count_words

BEFORE, KEPT, BEGUN, ADDED = range(4)
"""What has become of a key: in a shard of an earlier run, met again since; asked for, and added, in this run."""

def finished(directory: str | Path, made_from: dict[str, Any], part: Part = WHOLE,
             max_bad_share: float = 1.0) -> dict[str, Any] | None:
    """The manifest of ``directory`` if it holds exactly what ``made_from`` asks for, None if it holds no manifest.

    For a ``part`` that is done while others are not, the part's own manifest; if all are, they are merged here.
    Raises DataError when it holds something else: nothing of the user's is overwritten.
    """
    directory = Path(directory)
    path = directory / "manifest.json"
    if not path.is_file():
        path = directory / part.manifest_name
        if not path.is_file():
            return None
    manifest = read_json(path)
    if digest_of(manifest.get("made_from")) != digest_of(made_from):
        raise DataError(f"{directory} was made from something else ({difference(manifest, made_from)})",
                        "remove that directory, or choose another one")
    here = [row["name"] for row in manifest["shards"] if "url" not in row]
    missing = [name for name in here if not (directory / name).is_file()]
    if missing:
        raise DataError(f"{directory}/{missing[0]} is missing", "remove that directory and prepare it again")
    if path.name != "manifest.json":
        return merge(directory, part.of, max_bad_share) or manifest
    return manifest


def difference(manifest: dict[str, Any], made_from: dict[str, Any]) -> str:
    old = manifest.get("made_from") or {}
    keys = [key for key in {**old, **made_from} if old.get(key) != made_from.get(key)]
    return ", ".join(f"{key}: {old.get(key)!r} there, {made_from.get(key)!r} wanted" for key in keys[:3])


class ShardWriter:
    """A context manager that fills ``directory`` with shards of ``samples_per_shard`` samples and a manifest.

    ``source``: name of the corpus, written into each sample's metadata. ``made_from``: JSON-able settings and digests
    of the input. With ``words_engine`` each ``add`` takes word times too and every shard gets its sidecar at once.
    ``max_bad_share``: close raises DataError when a larger share was rejected, in a part as in all of them together.

    A run that was killed is taken up: ``begin`` says False for samples that lie in whole shards already. The samples
    must come in the same order again; the tars are then the same byte for byte. A second process that would write the
    same part is refused with a DataError. Memory: about 200 bytes per sample, for its key.
    """

    def __init__(self, directory: str | Path, source: str, samples_per_shard: int = 64,
                 made_from: dict[str, Any] | None = None, words_engine: str | None = None,
                 words_settings: dict[str, Any] | None = None, max_bad_share: float = 1.0, part: Part = WHOLE) -> None:
        if samples_per_shard < 1:
            raise DataError(f"samples_per_shard is {samples_per_shard}", "use at least 1")
        self.directory, self.source, self.samples_per_shard = Path(directory), source, samples_per_shard
        self.made_from, self.part = made_from or {}, part
        self.words_engine, self.words_settings, self.max_bad_share = words_engine, words_settings, max_bad_share
        self.kind: str | None = None
        self.shards: list[dict[str, Any]] = []
        self.rejections, self.left_out = Rejections(), Rejections()
        self.manifest: dict[str, Any] | None = None
        self.passed = 0  # samples met by this run, added or found there: how far it is in the corpus
        self._keys_met: dict[str, int] = {}  # what has become of each: BEFORE, BEGUN or ADDED
        self._beside: dict[str, list[tuple[str, str, str]]] = {}
        self._lock = contextlib.ExitStack()
        self._open: contextlib.ExitStack | None = None
        self._reset_shard()

    # ---- life

    def __enter__(self) -> ShardWriter:
        with contextlib.ExitStack() as stack:
            if not stack.enter_context(sole_writer(self.directory, name=self.part.lock_name)):
                what = "" if self.part.whole else f"part {self.part} of "
                raise DataError(f"another process is writing {what}{self.directory}", "wait for it to end")
            if finished(self.directory, self.made_from, self.part) is not None:
                raise DataError(f"{self.directory} is finished already", "ask shards.finished before writing")
            for leftover in self.part.leftovers(self.directory):
                leftover.unlink(missing_ok=True)
            self._refuse_others()
            state = self.directory / self.part.state_name
            if state.is_file():
                self._take_up(read_json(state))
            self._write_state()
            self._lock = stack.pop_all()
        return self

    def _refuse_others(self) -> None:
        """Raise DataError where somebody else's tars lie, or those of another division of the work."""
        n, _ = files_of(self.directory)
        divided = "undivided" if (self.directory / "writing.json").is_file() else f"in {n} parts" if n else ""
        if divided and (n or 1) != self.part.of:
            raise DataError(f"{self.directory} is being written {divided}, not in {self.part.of}",
                            "go on as it was begun, or remove that directory")
        for path in sorted(self.directory.glob("*.part-*-of-*.json")):
            if FILE.fullmatch(path.name) and path.name != self.part.state_name:
                try:
                    self._same(read_json(path), "made, in part,")
                    break
                except DataError:
                    if path.exists():  # else its part has just ended: there is another one
                        raise
        if not divided or not self.part.whole:
            if any(not divided or not TAR.fullmatch(tar.name) for tar in self.directory.glob("*.tar")):
                raise DataError(f"{self.directory} holds tars that no prepare run wrote", "choose another directory")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        with self._lock:
            if kind is None:
                self.close()
            elif self._open is not None:
                self._open.__exit__(kind, error, trace)  # removes the unfinished tar; whole ones stay for the next run

    def close(self) -> dict[str, Any]:
        """Write the last shard and the manifest; returns the manifest: of all parts, if this was the last of them.

        Raises DataError for too many bad samples.
        """
        if self.manifest is not None:
            return self.manifest
        if self._open is not None:
            self._finish_shard()
        rejected, left_out = self.rejections.table(), self.left_out.table()
        manifest: dict[str, Any] = {
            "schema": SCHEMA, "kind": self.kind, "source": self.source, "shards": self.shards, "samples": self.samples,
            "seconds": self.seconds, "rejected": rejected, "left_out": left_out, "made_from": self.made_from}
        check_share(self.source, rejected, left_out, self.samples, self.max_bad_share, self.part.whole)
        if not self.part.whole:
            manifest["part"] = [self.part.number, self.part.of]
        write_json(self.directory / self.part.manifest_name, manifest)
        (self.directory / self.part.state_name).unlink(missing_ok=True)
        self.manifest = manifest
        if not self.part.whole:
            self.manifest = merge(self.directory, self.part.of, self.max_bad_share) or manifest
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
        state = self._keys_met.get(key)
        if state not in (None, BEFORE):
            self.reject("duplicate key", key)
            return False
        self._keys_met[key] = BEGUN if state is None else KEPT
        self.passed += state == BEFORE
        for row in self._beside.get(key, []) if state == BEFORE else []:
            self.reject(*row)
        return state is None

    def has(self, key: str) -> bool:
        """Whether an earlier, killed run has written this sample: it need not be made again."""
        return self._keys_met.get(key) in (BEFORE, KEPT)

    def add(self, sample: Sample, words: list[Word] | None = None,
            beside: list[tuple[str, str, str]] | None = None) -> bool:
        """Write ``sample``; False if it was rejected (duplicate) or written by an earlier run. ``beside``: (reason,
        key, detail) of what was rejected while it was made, which nobody meets again once the sample is there.

        Raises DataError for a key that is not one, and for speech among texts.
        """
        check_key(sample.key)
        if sample.key not in self._keys_met:
            self.begin(sample.key)
        if self.has(sample.key):
            return False
        if self._keys_met[sample.key] == ADDED:
            self.reject("duplicate key", sample.key)
            return False
        kind = "text" if sample.audio is None else "speech"
        if self.kind not in (None, kind):
            raise DataError(f"{self.directory}: sample {sample.key} is {kind} among {self.kind}", "write two corpora")
        if kind == "speech" and not sample.meta.get("duration", 0) > 0:
            raise DataError(f"{self.directory}: sample {sample.key} has no duration", "set meta['duration'] (seconds)")
        n_words = count_words(sample.text)
        if not n_words:
            self.reject("no text", sample.key)
            return False
        if words is not None:
            check_words(words, sample.key)
            if len(words) != n_words:
                raise DataError(f"{sample.key} has {n_words} words and {len(words)} word times", "time every word")
        self.kind = kind
        self._keys_met[sample.key] = ADDED
        self.passed += 1
        for row in beside or []:
            self.reject(*row)
            self._beside.setdefault(sample.key, []).append(row)
        if self._open is None:
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
        self._open = None
        self._keys: list[str] = []
        self._words: dict[str, list[Word]] = {}
        self._seconds = 0.0

    def _open_shard(self) -> None:
        import webdataset  # loads torch, which the processes that only make samples do without

        self._open = contextlib.ExitStack()
        self._path = self.directory / self.part.shard_name(len(self.shards))
        part = self._open.enter_context(atomic_path(self._path))
        file = self._open.enter_context(open(part, "wb"))
        # Fixed owner and time: the same samples give the same bytes.
        self._tar = self._open.enter_context(
            webdataset.TarWriter(file, user="", group="", mtime=0, encoder=False, compress=False))

    def _finish_shard(self) -> None:
        assert self._open is not None
        self._open.close()
        sha256 = sha256_file(self._path)
        Path(index_path(self._path)).unlink(missing_ok=True)
        index = write_index(self._path, sha256)
        if [row["key"] for row in index["samples"]] != self._keys:
            raise DataError(f"{self._path} does not read back ({one_line(index['rejected'])})", "mend these samples")
        if self.words_engine is not None and self._words:  # without any, the shard is there to be aligned
            write_words(self._path, self.words_engine, self._words, settings=self.words_settings, shard_sha256=sha256)
        else:
            Path(words_path(self._path)).unlink(missing_ok=True)
        self.shards.append({"name": self._path.name, "samples": len(self._keys), "seconds": round(self._seconds, 3),
                            "bytes": self._path.stat().st_size, "sha256": sha256})
        self._reset_shard()
        self._write_state()

    def _write_state(self) -> None:
        write_json(self.directory / self.part.state_name, {"schema": SCHEMA, "kind": self.kind,
                                                           "made_from": self.made_from, "shards": self.shards,
                                                           "rejected_beside": self._beside})

    def _same(self, state: dict[str, Any], what: str) -> None:
        if digest_of(state.get("made_from")) != digest_of(self.made_from):
            raise DataError(f"{self.directory} is {what} from something else ({difference(state, self.made_from)})",
                            "remove that directory, or choose another one")

    def _take_up(self, state: dict[str, Any]) -> None:
        self._same(state, "half written")
        for row in state["shards"]:
            path = self.directory / row["name"]
            if not path.is_file() or path.stat().st_size != row["bytes"]:
                break  # the shards from here on are written again
            for sample in read_index(path, row["sha256"])["samples"]:
                self._keys_met[sample["key"]] = BEFORE
            self.shards.append(row)
        self.kind = state.get("kind") if self.shards else None
        self._beside = {key: [tuple(row) for row in rows] for key, rows in state.get("rejected_beside", {}).items()}
