"""``salad-ds encode``: the frozen encoder hears every recording once, and a sidecar per shard keeps what it says.

Shards are the unit of work: under a launcher the ranks share them out, a shard's sidecar appears whole, and a run that
was killed does again at most the shards it was in. Within a shard recordings are encoded with others of about their
length, the longest first (if they do not fit into memory, that is known at once), while threads decode the next ones.
What a recording's frames are does not depend on its batch, beyond rounding.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad_ds.audio import decode
from salad_ds.config import DataConfig, Recipe
from salad_ds.data import storage
from salad_ds.data.collate import padded
from salad_ds.data.features import FrameFormat, check_head, features_path, write_features
from salad_ds.data.plan import recording, word_wave
from salad_ds.data.rejections import Rejections, merge_tables, one_line, too_many
from salad_ds.data.shards import ShardSet, rejection_lines
from salad_ds.data.storage import Place
from salad_ds.data.word_frames import WordFrames, word_sounds
from salad_ds.errors import DataError, RecipeError
from salad_ds.files import writing_alone
from salad_ds.model.encoder import SpeechEncoder, build_encoder
from salad_ds.progress import Progress, clock
from salad_ds.teacher.forward import default_device
from salad_ds.teacher.ranks import Ranks

BATCH_SECONDS = {"cpu": 30.0, "cuda": 600.0}
"""Seconds of speech, padding included, of one forward pass."""


@dataclass(frozen=True)
class EncodeReport:
    """What a run did. ``seconds``: wall time of the slowest rank; ``speech``: seconds of speech it encoded;
    ``frame_bytes``, ``frame_rate``: of the cache; ``rejected``: recordings that could not be encoded, by reason."""

    shards: int
    written: int
    speech: float
    seconds: float
    frame_bytes: int
    frame_rate: float
    missing: list[str]
    rejected: dict[str, Any]

    def __str__(self) -> str:
        rate = f", {self.speech / self.seconds:.0f} times as fast as speech" if self.written and self.seconds else ""
        size = self.frame_bytes * self.frame_rate
        parts = [f"{self.written} of {self.shards} shards encoded",
                 f"{clock(self.speech)} of speech in {clock(self.seconds)}{rate}",
                 f"{size / 1000:.2f} kB per second of speech, {size * 3600 / 1e6:.1f} MB per hour"]
        if self.missing:
            parts.append(f"not there yet: {', '.join(self.missing)}")
        return "\n".join(["encode: " + "; ".join(parts), *rejection_lines("could not be encoded", self.rejected)])


def speech_directories(recipe: Recipe) -> list[str]:
    """Those that the recipe trains and measures on, each once, as named."""
    trained = [s.path for stage in recipe.stages.values() for s in stage.sources if s.kind == "speech"]
    return list(dict.fromkeys([*trained, *filter(None, [recipe.measure.speech])]))


def encode(recipe: Recipe, batch_seconds: float | None = None) -> EncodeReport:
    """Write the sidecars that the recipe's speech has not yet; those of a later stage are written by a later run.

    Raises RecipeError where spans are encoded separately, DataError for damaged shards, for a sidecar of another
    encoder or format (nothing is overwritten), and when more than ``data.max_bad_share`` of a shard's recordings cannot
    be encoded.
    """
    if recipe.data.span_encoding == "separate":
        raise RecipeError("data.span_encoding is separate: spans are drawn anew in every epoch, so their own encodings "
                          "cannot be kept", "set data.span_encoding=slice or =words to train from cached frames")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    with Ranks() as ranks, contextlib.ExitStack() as stack:
        named = {name: on_disk(recipe.path(name)) for name in speech_directories(recipe)}
        missing = ranks.first(lambda: [name for name, path in named.items() if not path.exists()])
        paths = [path for name, path in named.items() if name not in missing]
        ranks.first(lambda: [ShardSet.open(path) for path in paths] and None)  # indexes of foreign tars, made once
        corpora = [ShardSet.open(path) for path in paths]
        device = default_device(ranks.local)
        encoder = build_encoder(recipe.model.encoder).to(device)
        form = FrameFormat.of(encoder, recipe.data.cache_dtype, recipe.data.span_encoding)

        def claim() -> list[tuple[int, int]]:
            """(corpus, shard) without a sidecar. Only where there is something to write must this run be alone."""
            for path, shards in zip(paths, corpora, strict=True):
                if pending(shards, form):
                    stack.enter_context(only_writer(path))
            return [(i, n) for i, shards in enumerate(corpora) for n in pending(shards, form)]

        todo = ranks.first(claim)  # one looks for all: file systems may show another rank another directory
        mine = [(corpora[i], number) for i, number in todo[ranks.rank::ranks.size]]
        speech = sum(seconds_of(*work) for work in mine)
        rejected, began = [], time.monotonic()
        with Progress("encode", round(speech), "s of speech", quiet=ranks.rank > 0 or not mine) as progress:
            for shards, number in mine:
                limit = batch_seconds or BATCH_SECONDS[device.type]
                rejected.append(encode_shard(shards, number, encoder, form, recipe.data, limit, progress))
        spent = time.monotonic() - began
        seconds = max(ranks.gather(spent if mine else 0.0))  # also waits for everybody's last shard
        table = merge_tables([one for part in ranks.gather(rejected) for one in part])
        report = EncodeReport(sum(len(shards.shards) for shards in corpora), len(todo), sum(ranks.gather(speech)),
                              seconds, form.frame_bytes, encoder.frame_rate, missing, table)
        if ranks.rank == 0:
            print(report, file=sys.stderr, flush=True)
        return report


def on_disk(directory: Place) -> Path:
    path = storage.local(directory)
    if path is None:
        raise DataError(f"{storage.shown(directory)} is no directory of this machine, where sidecars could be written",
                        "copy its manifest to a local or network file system; the tars may stay where they are")
    return path


def pending(shards: ShardSet, form: FrameFormat) -> list[int]:
    """Numbers of the shards without a sidecar. Raises DataError for one that is another encoder's or damaged."""
    found = []
    for number in range(len(shards.shards)):
        if features_path(shards, number).is_file():
            check_head(shards, number, form)
        else:
            found.append(number)
    return found


def seconds_of(shards: ShardSet, number: int) -> float:
    """Of speech in a shard."""
    return sum(shards.entry(i).duration for i in shards.samples_in(number))


def encode_shard(shards: ShardSet, number: int, encoder: SpeechEncoder, form: FrameFormat, data: DataConfig,
                 batch_seconds: float, progress: Progress) -> dict[str, Any]:
    """Write the sidecar of one shard; returns the table of its recordings that could not be encoded.

    Raises DataError, and writes nothing, where these are more than ``data.max_bad_share``.
    """
    hearing, device, rejections = encoder.hearing, next(encoder.parameters()).device, Rejections()
    samples = shards.samples_in(number)
    entries = [shards.entry(i) for i in samples]
    lengths, counts = [hearing.samples(0, entry.duration) for entry in entries], [0] * len(entries)
    clips: list[list[int]] = [[] for _ in entries]  # samples of what is encoded by itself
    for place, entry in enumerate(entries):
        try:
            clips[place] = [lengths[place]]
            if data.span_encoding == "words":
                clips[place] = WordFrames.of(shards.words(samples[place]) or [], entry.duration, hearing).samples
            counts[place] = sum(map(hearing.frames, clips[place]))
        except DataError as error:
            rejections.add("too long for the encoder", entry.key, error.what)

    def load(place: int) -> list[np.ndarray]:
        sample, duration = shards.read(samples[place]), entries[place].duration
        if data.span_encoding == "slice":
            return [recording(sample, duration, hearing)]
        wave, rate = decode(sample.audio)  # type: ignore[arg-type]  # of speech
        spans = word_sounds(shards.words(samples[place]) or [], duration)
        return [word_wave(wave, rate, span, hearing) for span in spans]

    limit = round(batch_seconds * hearing.sample_rate)
    batches = cut_up([place for place in range(len(entries)) if counts[place]], lengths, limit)
    keys = [entry.key for entry in entries]
    with (write_features(features_path(shards, number), form, shards.sha256(number), keys, counts) as put,
          ThreadPoolExecutor(max(data.workers, 1), "decode") as pool):
        ahead: list[list[Future[list[np.ndarray]]]] = [[pool.submit(load, one) for one in part] for part in batches[:1]]
        for i, part in enumerate(batches):
            ahead += [[pool.submit(load, place) for place in following] for following in batches[i + 1:i + 2]]
            waves, heard = [], []
            for place, future in zip(part, ahead.pop(0), strict=True):
                try:
                    waves.append(future.result())
                    heard.append(place)
                except DataError as error:
                    rejections.add(error.what.split(" (")[0], keys[place], error.what)
            frames = frames_of([wave for own in waves for wave in own], encoder, device, limit)
            for place, own in zip(heard, waves, strict=True):
                put(place, np.concatenate([next(frames) for _ in own]))
            done = round(sum(entries[place].duration for place in part))
            progress.update(done, f"{form.frame_bytes * hearing.frame_rate / 1000:.2f} kB per second")
        if too_many(rejections.count, len(entries), data.max_bad_share):
            raise DataError(f"{rejections.count} of {len(entries)} recordings of {shards.shards[number]} cannot be "
                            f"encoded: {one_line(rejections.table())}", "mend the shards, or raise data.max_bad_share")
    return rejections.table()


def frames_of(waves: list[np.ndarray], encoder: SpeechEncoder, device: torch.device,
              limit: int) -> Iterator[np.ndarray]:
    """[F, W] frames of each wave, encoded by itself, in batches of at most ``limit`` samples."""
    found: dict[int, np.ndarray] = {}
    for part in cut_up(list(range(len(waves))), [len(wave) for wave in waves], limit):
        lengths = [len(waves[i]) for i in part]
        frames = encoder.frames(padded([waves[i] for i in part]).to(device), lengths).cpu().numpy()
        found |= {i: row[: encoder.num_frames(n)] for i, row, n in zip(part, frames, lengths, strict=True)}
    return (found[i] for i in range(len(waves)))


def cut_up(places: list[int], lengths: list[int], limit: int) -> list[list[int]]:
    """``places`` in batches of at most ``limit`` samples, padding included (one recording at least), longest first."""
    batches: list[list[int]] = []
    for place in sorted(places, key=lambda place: (-lengths[place], place)):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > limit:
            batches.append([])
        batches[-1].append(place)
    return batches


def only_writer(directory: Path) -> contextlib.AbstractContextManager[None]:
    """Be the only run that encodes a corpus, and sweep up what a killed one left half written."""
    busy = DataError(f"another run is encoding {directory}", "wait for it to end")
    return writing_alone(directory, busy, ".*.features.safetensors.*.part", name=".encode.lock")
