"""Texts in, speech shards with word times out: parallel, resumable, and the same bytes whenever it is run again.

Worker processes of one thread each speak and hear the items (speak.py). What comes back is written down at once, in
whatever order (spool.py), and put into shards in the order of the texts; a run that was killed goes on at the next
item. ``items.parquet`` tells what became of each (items.py).
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from salad_ds.config import Recipe, SynthConfig
from salad_ds.data.parts import WHOLE, Part, part_of, ranks
from salad_ds.data.preparation import summary
from salad_ds.data.shards import Sample, ShardSet, ShardWriter, Word, finished
from salad_ds.environment import own_cores
from salad_ds.errors import RecipeError
from salad_ds.files import digest_of
from salad_ds.pool import spread
from salad_ds.progress import Progress
from salad_ds.synth.engine import SpeechEngine, check_voice
from salad_ds.synth.items import merge_items, write_items
from salad_ds.synth.speak import Job, Said, Task, engine_of, speak
from salad_ds.synth.spool import Spool

NORMALIZATION = 3
"""Raised when ``normalize.speakable`` says something else than before for the same text."""
MAX_BAD_SHARE = 0.5
ITEMS_PER_WORKER = 40
"""A worker needs seconds to load what it speaks and hears with, so a short list gets fewer of them."""

Text = tuple[str, str, dict[str, Any]]


def synthesize_shards(texts: Iterable[Text], out_dir: str | Path, synth: SynthConfig, *, made_from: dict[str, Any],
                      source: str = "synthetic", samples_per_shard: int = 64, total: int | None = None,
                      max_bad_share: float = MAX_BAD_SHARE, max_cer: float | None = None, part: Part = WHOLE,
                      quiet: bool = False) -> dict[str, Any]:
    """Speak ``texts`` (key, text, extra metadata) into speech shards below ``out_dir``, and hear what was said.

    ``made_from``: digests of where the texts come from; engine, version, voices, seed and recogniser are added to it.
    Nothing is done where ``out_dir`` holds the product already. Texts that cannot be spoken are rejected and counted by
    reason; with ``max_cer`` also what is heard with a higher character error rate. An engine that knows no word times
    leaves shards for ``salad-ds align``. ``part``: the texts that are ours; ``total``: texts of all parts.

    Returns the manifest. Raises RecipeError for an unknown engine or voice, AssetError for an engine or recogniser that
    is not installed, DataError when more than ``max_bad_share`` of the texts are rejected, ``out_dir`` holds something
    else, or another process writes there.
    """
    job, directory = Job.of(synth, max_cer), Path(out_dir)
    engine = engine_of(job)
    made_from = {**made_from, "synth": identity(job, engine)}
    done = finished(directory, made_from, part, max_bad_share)
    if done is None:
        with contextlib.ExitStack() as stack:
            writer = stack.enter_context(ShardWriter(
                directory, source, samples_per_shard, made_from, max_bad_share=max_bad_share, part=part,
                words_engine=engine.name if engine.times_words else None,
                words_settings={"engine": engine.name, "version": engine.version}))
            log, spool = (stack.enter_context(Spool(path, digest_of(made_from))) for path in paths(directory, part))
            if total is not None:
                total = len(range(part.number, total, part.of))
            bar = stack.enter_context(Progress("synthesize" if part.whole else f"synthesize {part}", total, "texts",
                                               quiet=quiet))
            run = Run(writer, log, spool, bar)
            run.over(part.take(enumerate(texts)), job, synth.workers or default_workers(total))
            write_items(directory, log, places(writer), made_from, part)
            done = writer.close()
    if "parts" in done:
        merge_items(directory, done["parts"], made_from)
    for path in paths(directory, part):
        path.unlink(missing_ok=True)
    return done


def identity(job: Job, engine: SpeechEngine) -> dict[str, Any]:
    """What the samples follow from besides their texts. Raises RecipeError for a voice that the engine has not."""
    voices = job.voices or engine.voices[:1]
    for voice in voices:
        check_voice(engine, voice)
    about = {"engine": engine.name, "version": engine.version, "voices": list(voices), "seed": job.seed,
             "normalization": NORMALIZATION}
    if job.asr:
        from salad_ds import asr  # torch and transformers, which nobody needs who trusts the engine

        about |= {"asr": asr.identity(job.asr), "max_cer": job.max_cer}
    return about


def paths(directory: Path, part: Part) -> list[Path]:
    """Of the log (all items of an unfinished part, without sound) and the spool (sound in no whole shard yet)."""
    return [directory / Path(part.state_name).with_suffix(ending) for ending in (".log", ".spool")]


def default_workers(total: int | None) -> int:
    return own_cores() if total is None else min(own_cores(), max(total // ITEMS_PER_WORKER, 1))


def places(writer: ShardWriter) -> Iterator[tuple[str, int]]:
    """(shard, row) of each sample that ``writer`` was given, in order."""
    rows = [(shard["name"], shard["samples"]) for shard in writer.shards]
    rows.append((writer.part.shard_name(len(rows)), writer.samples - sum(count for _, count in rows)))
    return ((name, row) for name, count in rows for row in range(count))


class Run:
    """The items of one part on their way to the workers and, in order, into ``writer``.

    ``log``: per item its key, metadata and what became of it; ``spool``: sound and word times of those accepted. Both
    by the item's place in the list of texts. An item that is in them, or in a whole shard, is not spoken again.
    """

    def __init__(self, writer: ShardWriter, log: Spool, spool: Spool, bar: Progress) -> None:
        self.writer, self.log, self.spool, self.bar = writer, log, spool, bar
        self.queue: deque[tuple[int, str]] = deque()  # (order, key) of what has come in and is not written
        self.under_way: set[int] = set()
        self.met: set[str] = set()
        self.heard, self.errors = 0, 0.0  # how many were heard; the sum of their error rates, none above 1
        self.seconds = 0.0  # of speech, in the writer
        self.made, self.began = 0.0, time.monotonic()  # seconds of speech that this run has made

    def over(self, texts: Iterable[tuple[int, Text]], job: Job, workers: int) -> None:
        tasks = self.tasks(texts)
        if workers > 1:
            for task, said in spread(functools.partial(speak, job), tasks, workers):
                self.take(task, said)
        else:
            for task in tasks:
                self.take(task, speak(job, task))
        self.write()

    def tasks(self, texts: Iterable[tuple[int, Text]]) -> Iterator[Task]:
        """What is still to be spoken. What needs no speaking is written as soon as what precedes it is."""
        for order, (key, text, extra) in texts:
            self.queue.append((order, key))
            if key in self.met:
                self.log.append(order, entry(key, Said({"text": text.strip()}, reason="duplicate key")))
            elif not self.is_known(order, key):
                self.under_way.add(order)
            self.met.add(key)
            self.write()
            if order in self.under_way:
                yield Task(order, key, text, extra)

    def is_known(self, order: int, key: str) -> bool:
        """Whether an earlier run has finished this item."""
        if order not in self.log or (head := self.log.head(order))["key"] != key:
            return False
        return bool(head["rejected"]) or self.writer.has(key) or order in self.spool

    def take(self, task: Task, said: Said | None) -> None:
        """Write down what came back; None where the item killed its worker."""
        if said is None:
            said = Said({"text": task.text.strip()}, reason="kills its process")
        if said.audio:  # before the log: what is logged is there
            words = None if said.words is None else [[word.start, word.end, word.score] for word in said.words]
            self.spool.append(task.order, {"words": words}, said.audio)
        self.log.append(task.order, entry(task.key, said))
        self.made += said.meta.get("duration", 0.0)
        self.under_way.discard(task.order)
        self.write()

    def write(self) -> None:
        """Hand the writer what it waits for, up to the first item that is under way."""
        while self.queue and self.queue[0][0] not in self.under_way:
            order, key = self.queue.popleft()
            head, whole = self.log.head(order), len(self.writer.shards)
            if head["rejected"]:
                self.writer.reject(head["rejected"], key, head["detail"])
            elif self.writer.begin(key):
                words = self.spool.head(order)["words"]
                self.writer.add(Sample(key, head["meta"], self.spool.body(order)),
                                words and [Word(*times) for times in words])
            if len(self.writer.shards) > whole:  # what it holds is safe now
                self.log.sync()
                self.spool.keep(order for order, _ in self.queue)
            if not head["rejected"]:
                self.seconds += head["meta"]["duration"]
            if "cer" in head["meta"]:
                self.heard += 1
                self.errors += min(head["meta"]["cer"], 1.0)
            self.bar.update(note=self.note())

    def note(self) -> str:
        told = [f"{self.seconds / 3600:.2f} h of speech"]
        if self.made:
            told.append(f"real-time factor {(time.monotonic() - self.began) / self.made:.3f}")
        if self.heard:
            told.append(f"CER {self.errors / self.heard:.3f}")
        return ", ".join([*told, f"{self.writer.rejections.count} rejected"])


def entry(key: str, said: Said) -> dict[str, Any]:
    return {"key": key, "meta": said.meta, "rejected": said.reason, "detail": said.detail}


def text_items(shards: ShardSet, rows: Iterable[int]) -> Iterator[Text]:
    """(key, text, extra metadata) of the given rows of a text corpus."""
    for row in rows:
        sample = shards.read(row)
        extra = {name: value for name, value in sample.meta.items() if name in ("domain",)}
        yield sample.key, sample.text, {**extra, "text_source": sample.meta.get("source", "")}


def synthesize(recipe: Recipe, part: str = "") -> dict[str, Any] | None:
    """Plain synthesis: the texts of ``recipe.synthesize.text`` as speech in ``recipe.synthesize.out``.

    ``part``: ``i/n``; ``auto`` (see parts.launched); by default this rank's, alone everything. Returns the manifest,
    None where the recipe asks for none. Skipped where it is done.
    """
    settings = recipe.synthesize
    if not settings.text:
        return None
    shards = ShardSet.open(recipe.path(settings.text))
    if shards.kind != "text":
        raise RecipeError(f"synthesize.text is {settings.text}, which holds {shards.kind}",
                          "give a directory of text shards")
    count = min(len(shards), settings.limit or len(shards))
    out = recipe.path(settings.out)
    manifest = synthesize_shards(text_items(shards, range(count)), out, recipe.synth, source=out.name, total=count,
                                 made_from={"texts": shards.digest, "limit": settings.limit},
                                 max_cer=recipe.synth.max_cer, part=part_of(part) if part else ranks())
    print(summary(manifest, settings.out), flush=True)
    return manifest
