"""Texts in, speech shards with word times out: parallel, resumable, and the same bytes whenever it is run again.

What is said for an item is a pure function of (engine, its version, seed, key, text): the voice and the engine's seed
come from the key. Texts are handed to worker processes of one thread each and taken back in order, so that shards do
not depend on the number of workers, and a run that was killed goes on at the next shard.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad_ds.audio import encode_flac
from salad_ds.config import Recipe, SynthConfig
from salad_ds.data.shards import Sample, ShardSet, ShardWriter, Word, finished
from salad_ds.environment import cores
from salad_ds.errors import DataError, RecipeError, SaladError
from salad_ds.progress import Progress
from salad_ds.synth.engine import SpeechEngine, check_voice, item_seed, load_engine
from salad_ds.synth.normalize import speakable
from salad_ds.text import split_words

NORMALIZATION = 1
"""Raised when ``normalize.speakable`` says something else than before for the same text."""
MAX_WORDS = 300
"""Longer texts (about two minutes of speech) are rejected: no context of ours holds them."""
MAX_BAD_SHARE = 0.5
CHUNK = 8
ITEMS_PER_WORKER = 200
"""A worker costs seconds to start, so a short list gets fewer of them."""

Text = tuple[str, str, dict[str, Any]]


@dataclass(frozen=True)
class Said:
    """What a worker hands back for one text: the sample and its word times, or why there is none."""

    sample: Sample | None
    words: list[Word] | None = None
    reason: str = ""
    detail: str = ""


def synthesize_shards(texts: Iterable[Text], out_dir: str | Path, synth: SynthConfig, *, made_from: dict[str, Any],
                      source: str = "synthetic", samples_per_shard: int = 64, total: int | None = None,
                      max_bad_share: float = MAX_BAD_SHARE, quiet: bool = False) -> dict[str, Any]:
    """Speak ``texts`` (key, text, extra metadata) into speech shards with word times below ``out_dir``.

    ``made_from``: digests of where the texts come from; engine, version, voices and seed are added to it. Nothing is
    done where ``out_dir`` holds the product already. Texts that cannot be spoken are rejected and counted by reason.
    Returns the manifest. Raises RecipeError for an unknown engine or voice, AssetError for one that is not installed,
    DataError when more than ``max_bad_share`` of the texts are rejected or ``out_dir`` holds something else.
    """
    engine = load_engine(synth.engine)
    voices = list(synth.voices) or [engine.voices[0]]
    for voice in voices:
        check_voice(engine, voice)
    made_from = {**made_from, "synth": {"engine": engine.name, "version": engine.version, "voices": voices,
                                        "seed": synth.seed, "normalization": NORMALIZATION}}
    done = finished(out_dir, made_from)
    if done is not None:
        return done
    settings = {"engine": engine.name, "version": engine.version}
    with ShardWriter(out_dir, source, samples_per_shard, made_from, words_engine=engine.name, words_settings=settings,
                     max_bad_share=max_bad_share) as writer, Progress("synthesize", total, "texts", quiet=quiet) as bar:
        fresh: Iterator[Text] = (item for item in texts if writer.begin(item[0]) or bar.update())
        for key, said in speak_all(fresh, engine, voices, synth, total):
            if said.sample is None:
                writer.reject(said.reason, key, said.detail)
            else:
                writer.add(said.sample, said.words)
            bar.update(note=f"{writer.seconds / 3600:.2f} h of speech")
        return writer.close()


def speak_all(texts: Iterable[Text], engine: SpeechEngine, voices: list[str], synth: SynthConfig,
              total: int | None) -> Iterator[tuple[str, Said]]:
    """Every text with what became of it, in order; here, or by worker processes."""
    workers = synth.workers or cores()
    if not synth.workers and total is not None:
        workers = min(workers, max(total // ITEMS_PER_WORKER, 1))
    if workers <= 1:
        for item in texts:
            yield item[0], speak(engine, item, voices, synth.seed)
        return
    waiting: deque[tuple[list[Text], Future[list[Said]]]] = deque()
    # spawn: a fork of a process that has run torch or ONNX threads may hang
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start, (synth.engine,)) as pool:
        try:
            for batch in batches(texts, CHUNK):
                waiting.append((batch, pool.submit(work, batch, voices, synth.seed)))
                if len(waiting) > 3 * workers:
                    yield from taken(waiting.popleft())
            while waiting:
                yield from taken(waiting.popleft())
        except BrokenProcessPool:
            raise SaladError("a synthesis worker was killed", "look for memory shortage, lower synth.workers, and run "
                             "the stage again; it goes on where it stopped") from None
        finally:
            pool.shutdown(cancel_futures=True)


def taken(entry: tuple[list[Text], Future[list[Said]]]) -> Iterator[tuple[str, Said]]:
    batch, future = entry
    for (key, _, _), said in zip(batch, future.result(), strict=True):
        yield key, said


def batches(items: Iterable[Text], size: int) -> Iterator[list[Text]]:
    batch: list[Text] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


_engine: SpeechEngine | None = None


def start(name: str) -> None:
    """Initialises a worker process."""
    global _engine
    _engine = load_engine(name)


def work(batch: list[Text], voices: list[str], seed: int) -> list[Said]:
    assert _engine is not None
    return [speak(_engine, item, voices, seed) for item in batch]


def speak(engine: SpeechEngine, item: Text, voices: list[str], seed: int) -> Said:
    """One text spoken, or the reason why not. The voice is drawn by the item's seed."""
    key, text, extra = item
    text = text.strip()
    number = item_seed(seed, key)
    voice = voices[number % len(voices)]
    if len(split_words(text)) > MAX_WORDS:
        return Said(None, None, "too long", f"more than {MAX_WORDS} words")
    try:
        spoken = speakable(text)
        speech = engine.say(text, voice, number)
        audio = encode_flac(speech.wave, speech.rate)
    except DataError as error:
        return Said(None, None, "cannot be spoken", error.what)
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:  # an engine's own fault
        return Said(None, None, f"{engine.name} failed", f"{type(error).__name__}: {error}"[:120])
    meta = {**extra, "text": text, "spoken": spoken.text, "duration": round(speech.seconds, 6),
            "sample_rate": speech.rate, "speaker": f"{engine.name}-{voice}", "language": "en", "engine": engine.name,
            "engine_version": engine.version, "voice": voice, "seed": number}
    return Said(Sample(key, meta, audio), speech.words)


def text_items(shards: ShardSet, rows: Iterable[int]) -> Iterator[Text]:
    """(key, text, extra metadata) of the given rows of a text corpus."""
    for row in rows:
        sample = shards.read(row)
        extra = {name: value for name, value in sample.meta.items() if name in ("domain",)}
        yield sample.key, sample.text, {**extra, "text_source": sample.meta.get("source", "")}


def synthesize(recipe: Recipe) -> dict[str, Any] | None:
    """Plain synthesis: the texts of ``recipe.synthesize.text`` as speech in ``recipe.synthesize.out``.

    Returns the manifest, None where the recipe asks for none. Skipped where it is done.
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
    return synthesize_shards(text_items(shards, range(count)), out, recipe.synth, source=out.name, total=count,
                             made_from={"texts": shards.digest, "limit": settings.limit})
