"""``align``: word times for every speech corpus of a recipe, shard by shard.

Shards are read in sequence with webdataset, their samples go to one process per core, and a shard's sidecar is written
whole when its last sample is back: a run that was killed goes on at the first shard without one. Sidecars that another
engine wrote (a TTS that knows its own word times) are left alone.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salad_ds.align.pool import spread
from salad_ds.config import AlignConfig, Recipe
from salad_ds.data.rejections import Rejections, lines, one_line, too_many
from salad_ds.data.samples import is_audio, own_key, parse_meta
from salad_ds.data.shard_set import ShardSet
from salad_ds.data.word_times import Word, read_head, words_path, write_words
from salad_ds.environment import cores
from salad_ds.errors import DataError, RecipeError
from salad_ds.progress import Progress, clock

ENGINES = ("pocketsphinx",)
TOO_LONG = "longer than max_seconds"


@dataclass(frozen=True)
class Task:
    shard: int
    key: str
    audio: bytes
    text: str
    language: str


@dataclass(frozen=True)
class Aligned:
    """``words``, or the reason why there are none."""

    words: list[Word] | None
    reason: str = ""
    detail: str = ""


@dataclass
class AlignReport:
    """What an align run did to one directory. ``audio_seconds`` and ``wall_seconds``: of this run only."""

    directory: Path
    aligned: int = 0
    shards_done: int = 0
    shards_kept: int = 0
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0
    dropped: Rejections = field(default_factory=Rejections)

    def __str__(self) -> str:
        head = f"{self.directory}: {self.aligned} utterances aligned, {self.dropped.count} dropped"
        if self.shards_done:
            head += f"; {clock(self.audio_seconds)} of speech in {clock(self.wall_seconds)}"
            head += f" ({self.audio_seconds / max(self.wall_seconds, 1e-9):.1f} s/s)"
        if self.shards_kept:
            head += f"; {self.shards_kept} shards had their word times"
        return "\n".join([head, *lines("  dropped", self.dropped.table())])


def align(recipe: Recipe) -> list[AlignReport]:
    """Give word times to every speech corpus of ``recipe``; print and return what was done.

    Raises RecipeError for an unknown engine, DataError for a missing corpus or too many dropped utterances.
    """
    reports = []
    for directory in speech_directories(recipe):
        report = align_directory(directory, recipe.align, recipe.data.max_bad_share)
        print(report)
        reports.append(report)
    return reports


def speech_directories(recipe: Recipe) -> list[Path]:
    """The recipe's corpora that hold speech, and the speech that a stage names itself, where it is there already."""
    found = dict.fromkeys(recipe.path(corpus.out) for corpus in recipe.corpora)
    for stage in recipe.stages.values():
        for source in stage.sources:
            path = recipe.path(source.path)
            if source.kind == "speech" and path.is_dir() and next(path.glob("*.tar"), None) is not None:
                found.setdefault(path)
    return [path for path in found if ShardSet.open(path).kind == "speech"]


def align_directory(directory: str | Path, config: AlignConfig, max_bad_share: float = 1.0,
                    quiet: bool = False) -> AlignReport:
    """Write the missing sidecars of the shards in ``directory``.

    Samples without word times are named in the sidecar's ``dropped`` and in the report. Raises DataError, once all is
    written, when more than ``max_bad_share`` were dropped; those longer than ``max_seconds`` do not count.
    """
    if config.engine not in ENGINES:
        raise RecipeError(f"align.engine is {config.engine!r}", f"use one of {', '.join(ENGINES)}")
    shards = ShardSet.open(directory)
    if shards.kind != "speech":
        raise DataError(f"{directory} holds texts", "align speech")
    settings = {"min_score": config.min_score, "max_seconds": config.max_seconds}
    todo = [number for number in range(len(shards.shards)) if not is_done(shards, number, config.engine, settings)]
    report = AlignReport(Path(directory), shards_done=len(todo), shards_kept=len(shards.shards) - len(todo))
    started = time.monotonic()
    if todo:
        AlignRun(shards, config, settings, todo, report, quiet).run()
    report.wall_seconds = time.monotonic() - started
    for number in set(range(len(shards.shards))) - set(todo):
        times = shards.word_times(number)
        assert times is not None
        report.aligned += len(times.words)
        for reason, keys in times.dropped.items():
            for key in keys:
                report.dropped.add(reason, key)
    bad = report.dropped.count - len(report.dropped.keys.get(TOO_LONG, {}))
    if too_many(bad, bad + report.aligned, max_bad_share):
        table = {reason: row for reason, row in report.dropped.table().items() if reason != TOO_LONG}
        raise DataError(f"{directory}: {bad} of {bad + report.aligned} utterances have no word times "
                        f"(more than {max_bad_share:.0%}): {one_line(table)}",
                        "mend the transcripts, or raise data.max_bad_share")
    return report


def is_done(shards: ShardSet, number: int, engine: str, settings: dict[str, Any]) -> bool:
    """Whether this shard's sidecar is to be kept: another engine's always, our own if its settings were the same.

    Raises DataError for a sidecar that belongs to another tar.
    """
    path = words_path(shards.shards[number])
    if not path.is_file():
        return False
    head = read_head(path)
    if head["shard_sha256"] != shards.manifest["shards"][number]["sha256"]:
        raise DataError(f"{path} holds the word times of another {shards.shards[number].name}",
                        "delete it and align again")
    return head["engine"] != engine or head.get("settings") == settings


class AlignRun:
    """The shards ``todo`` on their way through the workers. What has come back is kept until its shard is complete."""

    def __init__(self, shards: ShardSet, config: AlignConfig, settings: dict[str, Any], todo: list[int],
                 report: AlignReport, quiet: bool) -> None:
        self.shards, self.config, self.settings, self.todo, self.report = shards, config, settings, todo, report
        self.quiet = quiet
        rows = shards.manifest["shards"]
        first = shards._first
        self.durations = {(number, shards.entry(i).key): shards.entry(i).duration
                          for number in todo for i in range(first[number], first[number + 1])}
        self.waiting = {number: rows[number]["samples"] for number in todo}
        self.words: dict[int, dict[str, list[Word]]] = {number: {} for number in todo}
        self.dropped: dict[int, dict[str, list[str]]] = {number: {} for number in todo}

    def run(self) -> None:
        workers = self.config.workers or cores()
        workers = max(1, min(workers, len(self.durations)))
        total = round(sum(self.durations.values()))
        with Progress("align", total, "s of speech", quiet=self.quiet) as self.progress:
            work = functools.partial(align_one, engine=self.config.engine)
            for task, result in spread(work, self.tasks(), workers):
                self.take(task.shard, task.key, result or Aligned(None, "the aligner crashed"))

    def tasks(self) -> Iterator[Task]:
        """What is to be aligned, read in sequence. What cannot be is dropped here."""
        import webdataset

        # Absolute paths: a relative one with a colon would be taken for a URL.
        urls = {str(self.shards.shards[number].absolute()): number for number in self.todo}
        met: set[tuple[int, str]] = set()
        # Every process that aligns aligns all of it: no splitting by rank or loader worker.
        for raw in webdataset.WebDataset(list(urls), shardshuffle=False, nodesplitter=None, workersplitter=None,
                                         handler=webdataset.ignore_and_continue):
            number, key = urls[raw["__url__"]], own_key(raw["__key__"])
            if (number, key) not in self.durations or (number, key) in met:
                continue  # the index has named and counted it
            met.add((number, key))
            if self.durations[number, key] > self.config.max_seconds:
                self.take(number, key, Aligned(None, TOO_LONG, f"{self.durations[number, key]:.1f} s"))
                continue
            meta = parse_meta(raw["json"], key)
            audio = next(value for ending, value in raw.items() if is_audio(ending))
            yield Task(number, key, audio, meta["text"], str(meta.get("language") or "en"))
        for number, key in self.durations.keys() - met:
            raise DataError(f"{self.shards.shards[number]} ends before sample {key}", "copy this shard again")

    def take(self, number: int, key: str, result: Aligned) -> None:
        if result.words is not None:
            score = sum(word.score for word in result.words) / len(result.words)
            if score < self.config.min_score:
                result = Aligned(None, "score below min_score", f"{score:.3f}")
        if result.words is not None:
            self.words[number][key] = result.words
            self.report.aligned += 1
        else:
            self.dropped[number].setdefault(result.reason, []).append(key)
            self.report.dropped.add(result.reason, key, result.detail)
        self.report.audio_seconds += self.durations[number, key]
        whole = round(self.report.audio_seconds) - self.progress.count
        self.progress.update(whole, f"{self.report.dropped.count} dropped")
        self.waiting[number] -= 1
        if not self.waiting[number]:
            write_words(self.shards.shards[number], self.config.engine, dict(sorted(self.words.pop(number).items())),
                        self.dropped.pop(number), self.settings, self.shards.manifest["shards"][number]["sha256"])


@functools.cache
def engine_of(name: str) -> Any:
    """The aligner of this process. Loaded here, so that the parent never loads a model."""
    assert name in ENGINES
    from salad_ds.align.pocketsphinx_engine import PocketsphinxAligner

    return PocketsphinxAligner()


def align_one(task: Task, engine: str) -> Aligned:
    """In a worker: one utterance."""
    try:
        return Aligned(engine_of(engine).align(task.audio, task.text, task.language, task.key))
    except DataError as error:
        return Aligned(None, error.what.split(" (")[0][:120])
