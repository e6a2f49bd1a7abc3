"""``align``: word times for every speech corpus of a recipe, shard by shard.

Shards are read in sequence, wherever they lie; their samples go to one process per core, and a shard's sidecar is
written whole when its last sample is back: a run that was killed goes on at the first shard without one. Sidecars that
another engine wrote (a TTS that knows its own word times) are left alone.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from salad_ds.align.spoken import SPOKEN
from salad_ds.config import AlignConfig, Recipe
from salad_ds.data import storage
from salad_ds.data.parts import WHOLE, Part, part_of, ranks
from salad_ds.data.rejections import Rejections, lines, one_line, too_many
from salad_ds.data.shard_set import ShardSet
from salad_ds.data.word_times import Word, read_head, words_path, write_words
from salad_ds.environment import cores
from salad_ds.errors import DataError, RecipeError
from salad_ds.files import writing_beside
from salad_ds.pool import spread, worker_device
from salad_ds.progress import Progress, clock

ENGINES = ("pocketsphinx", "ctc")
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


def align(recipe: Recipe, part: str | Part = "") -> list[AlignReport]:
    """Give word times to every speech corpus of ``recipe``; print and return what was done.

    ``part`` i/n takes every n-th shard, from the i-th; ``auto`` that of this task of a SLURM array; empty, the shards
    are divided by the ranks of the launcher, if there is one.

    Raises RecipeError for an unknown engine, DataError for a missing corpus or too many dropped utterances.
    """
    part, reports = part_of(part) if part else ranks(), []
    for directory in speech_directories(recipe):
        report = align_directory(directory, recipe.align, recipe.data.max_bad_share, part=part)
        print(report)
        reports.append(report)
    return reports


def speech_directories(recipe: Recipe) -> list[Path]:
    """The recipe's corpora that hold speech; where they are there already, the speech that a stage names itself and our
    own synthetic speech, which has word times unless its engine knows none."""
    found = dict.fromkeys(recipe.path(corpus.out) for corpus in recipe.corpora)
    others = [source.path for stage in recipe.stages.values() for source in stage.sources if source.kind == "speech"]
    others += [recipe.synthesize.out] if recipe.synthesize.text else []
    others += [f"{recipe.select.out}/speech"] if recipe.select.text else []
    for path in map(recipe.path, others):
        names = storage.names_in(path, recipe.storage)
        if "manifest.json" in names or any(name.endswith(".tar") for name in names):
            found.setdefault(path)
    return [path for path in found if ShardSet.open(path).kind == "speech"]


def align_directory(directory: str | Path, config: AlignConfig, max_bad_share: float = 1.0,
                    quiet: bool = False, part: Part = WHOLE) -> AlignReport:
    """Write the missing sidecars of the shards in ``directory``.

    Samples without word times are named in the sidecar's ``dropped`` and in the report. Raises DataError, once all is
    written, when more than ``max_bad_share`` were dropped; those longer than ``max_seconds`` do not count.
    """
    if config.engine not in ENGINES:
        raise RecipeError(f"align.engine is {config.engine!r}", f"use one of {', '.join(ENGINES)}")
    shards = ShardSet.open(directory)
    if shards.kind != "speech":
        raise DataError(f"{directory} holds texts", "align speech")
    settings = settings_of(config)
    mine = list(part.take(range(len(shards.shards))))
    todo = [number for number in mine if not is_done(shards, number, config.engine, settings)]
    report = AlignReport(Path(directory), shards_done=len(todo), shards_kept=len(mine) - len(todo))
    started = time.monotonic()
    if todo:
        place = storage.local(shards.directory)
        beside = writing_beside(place, ".*.words.jsonl.*.part", ".align.lock") if place else contextlib.nullcontext()
        with beside:
            AlignRun(shards, config, settings, todo, report, quiet).run()
    report.wall_seconds = time.monotonic() - started
    for number in set(mine) - set(todo):
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


def settings_of(config: AlignConfig) -> dict[str, Any]:
    """What word times depend on besides the speech and the engine's name."""
    settings = {"min_score": config.min_score, "max_seconds": config.max_seconds, "spoken": SPOKEN}
    return settings | {"model": config.model} if config.engine == "ctc" else settings


def is_done(shards: ShardSet, number: int, engine: str, settings: dict[str, Any]) -> bool:
    """Whether this shard's sidecar is to be kept: one that no aligner wrote (a corpus or a TTS knows its times better)
    always, an aligner's if engine and settings were the same.

    Raises DataError for a sidecar that belongs to another tar.
    """
    path = words_path(shards.shards[number])
    head = read_head(path, shards.settings)
    if head is None:
        return False
    if head["shard_sha256"] != shards.sha256(number):
        raise DataError(f"{storage.shown(path)} holds the word times of another {shards.shards[number].name}",
                        "delete it and align again")
    return head["engine"] not in ENGINES or (head["engine"], head.get("settings")) == (engine, settings)


class AlignRun:
    """The shards ``todo`` on their way through the workers. What has come back is kept until its shard is complete."""

    def __init__(self, shards: ShardSet, config: AlignConfig, settings: dict[str, Any], todo: list[int],
                 report: AlignReport, quiet: bool) -> None:
        self.shards, self.config, self.settings, self.todo, self.report = shards, config, settings, todo, report
        self.quiet = quiet
        self.durations: dict[tuple[int, str], float] = {}  # of what is under way
        self.waiting = {number: len(shards.samples_in(number)) for number in todo}
        self.words: dict[int, dict[str, list[Word]]] = {number: {} for number in todo}
        self.dropped: dict[int, dict[str, list[str]]] = {number: {} for number in todo}

    def run(self) -> None:
        workers = self.config.workers or default_workers(self.config)
        workers = max(1, min(workers, sum(self.waiting.values())))
        total = round(sum(self.shards.rows.seconds[number] for number in self.todo))
        with Progress("align", total, "s of speech", quiet=self.quiet) as self.progress:
            work = functools.partial(align_one, engine=self.config.engine, model=self.config.model)
            for task, result in spread(work, self.tasks(), workers):
                self.take(task.shard, task.key, result or Aligned(None, "the aligner crashed"))

    def tasks(self) -> Iterator[Task]:
        """What is to be aligned, read in sequence. What is too long is dropped here."""
        for number in self.todo:
            for i in self.shards.samples_in(number):
                entry = self.shards.entry(i)
                self.durations[number, entry.key] = entry.duration
                if entry.duration > self.config.max_seconds:
                    self.take(number, entry.key, Aligned(None, TOO_LONG, f"{entry.duration:.1f} s"))
                    continue
                sample = self.shards.read(i)
                assert sample.audio is not None
                yield Task(number, entry.key, sample.audio, sample.text, str(sample.meta.get("language") or "en"))

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
        self.report.audio_seconds += self.durations.pop((number, key))
        whole = round(self.report.audio_seconds) - self.progress.count
        self.progress.update(whole, f"{self.report.dropped.count} dropped")
        self.waiting[number] -= 1
        if not self.waiting[number]:
            write_words(self.shards.shards[number], self.config.engine, dict(sorted(self.words.pop(number).items())),
                        self.dropped.pop(number), self.settings, self.shards.sha256(number), self.shards.settings)


def default_workers(config: AlignConfig) -> int:
    """One process per core; for a CTC model one per GPU that is ours."""
    if config.engine == "ctc" and (gpus := torch.cuda.device_count()):
        return 1 if "LOCAL_RANK" in os.environ else gpus
    return cores()


@functools.cache
def engine_of(name: str, model: str) -> Any:
    """The aligner of this process. Loaded here, so that the parent never loads a model."""
    if name == "ctc":
        from salad_ds.align.ctc_engine import CtcAligner

        return CtcAligner(model, worker_device())
    from salad_ds.align.pocketsphinx_engine import PocketsphinxAligner

    return PocketsphinxAligner()


def align_one(task: Task, engine: str, model: str) -> Aligned:
    """In a worker: one utterance."""
    try:
        return Aligned(engine_of(engine, model).align(task.audio, task.text, task.language, task.key))
    except DataError as error:
        return Aligned(None, error.what.split(" (")[0][:120])
