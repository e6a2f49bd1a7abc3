"""One sample of a source, planned and then loaded.

Planning needs text and word times only: it decides which words are heard and how many positions the sample fills.
Loading adds what is heard, in the way that ``data.span_encoding`` and ``data.features`` ask for: the sound of each
span, cut from the recording and resampled to the encoder's rate (separate); the whole recording and the numbers of the
frames that each span takes of its encoding (slice); the sound of each word that is heard (words); or those frames
themselves, from the sidecar that ``salad-ds encode`` wrote (cache). Both are pure functions of (source, epoch, index,
seed).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from salad_ds.audio import cut, decode, decode_spans, resample
from salad_ds.config import DataConfig, SourceConfig
from salad_ds.data.collate import Sequence
from salad_ds.data.features import FrameCache, FrameFormat
from salad_ds.data.interleave import Piece, cuts_of, fit, interleave, speech_end
from salad_ds.data.order import stable_seed
from salad_ds.data.samples import SLACK
from salad_ds.data.shards import Sample, ShardSet
from salad_ds.data.word_frames import WordFrames, word_sounds
from salad_ds.errors import DataError
from salad_ds.hearing import Hearing
from salad_ds.text import start_token, tokenize

SPAN_SLACK = 0.3 + SLACK
"""Seconds that a span may lack at its end: the tail behind its last word (interleave.speech_end)."""


@dataclass
class Skipped:
    """Samples that could not be used: counted by reason, the first few named. Stops the run above a share.

    Reasons that differ in their numbers, or in what stands in parentheses, are one; the first stands for all.
    """

    max_share: float
    seen: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    alike: dict[str, str] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def saw(self) -> None:
        with self.lock:
            self.seen += 1

    def skip(self, reason: str, name: str) -> None:
        """Count one; raise DataError once too many were skipped."""
        self.note(reason, name)
        self.require()

    def note(self, reason: str, name: str) -> None:
        """Count one."""
        reason = re.sub(r" *\([^()]*\)", "", reason)
        with self.lock:
            reason = self.alike.setdefault(re.sub(r"\d[\d.]*", "#", reason), reason)
            self.counts[reason] += 1
            named = self.examples.setdefault(reason, [])
            if len(named) < 5:
                named.append(name)

    @property
    def lost(self) -> int:
        return sum(self.counts.values())

    def too_many(self, seen: int, lost: int) -> bool:
        """Whether ``lost`` of ``seen`` samples (at least 50) are a larger share than the run may lose. Fewer than five
        never are, unless it may lose none."""
        return lost >= (5 if self.max_share else 1) and lost > self.max_share * max(seen, 50)

    def require(self) -> None:
        """Raises DataError, with the reasons, where too many were skipped."""
        with self.lock:
            if self.too_many(self.seen, self.lost):
                raise DataError(
                    f"{self.lost} of {self.seen} samples cannot be used: {self}",
                    "mend the shards, or raise data.max_bad_share",
                )

    def table(self) -> dict[str, Any]:
        """{reason: {"count", "examples"}}, to be put into JSON."""
        with self.lock:
            return {why: {"count": n, "examples": self.examples[why]} for why, n in self.counts.most_common()}

    def add(self, table: dict[str, Any]) -> None:
        """Count what an earlier part of the run has skipped."""
        with self.lock:
            for why, entry in table.items():
                self.counts[why] += entry["count"]
                self.examples[why] = (self.examples.get(why, []) + entry["examples"])[:5]

    def __str__(self) -> str:
        return "; ".join(f"{n} {why} ({', '.join(self.examples[why])})" for why, n in self.counts.most_common())


def merged(tables: list[dict[str, Any]]) -> dict[str, Any]:
    """The tables of several ranks as one."""
    whole = Skipped(1.0)
    for table in tables:
        whole.add(table)
    return whole.table()


@dataclass(frozen=True)
class Plan:
    """A sample without its sound: what ``load`` needs and what packing asks for."""

    source: int
    index: int
    key: str
    ids: tuple[int, ...]
    pieces: list[Piece]

    @property
    def positions(self) -> int:
        return sum(piece.positions for piece in self.pieces)


class Planner:
    """Plans and loads the samples of several sources.

    ``hearing``: the arithmetic of the encoder and the adapter behind it. ``cached``: what the speech sources' sidecars
    must hold, where their frames are taken from there; None for audio.
    """

    def __init__(
        self,
        sources: list[SourceConfig],
        directory: Callable[[str], Path],
        data: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        hearing: Hearing,
        cached: FrameFormat | None = None,
    ) -> None:
        self.sources = sources
        self.shards = [ShardSet.open(directory(source.path)) for source in sources]
        self.caches = [
            FrameCache(shards, cached) if cached is not None and source.kind == "speech" else None
            for source, shards in zip(sources, self.shards, strict=True)
        ]
        self.data, self.tokenizer, self.hearing, self.cached = data, tokenizer, hearing, cached
        self.start = start_token(tokenizer)
        self.skipped = Skipped(data.max_bad_share)

    def a_recording(self) -> bytes | None:
        """A file of sound of the first source that has any."""
        speech = [shards for source, shards in zip(self.sources, self.shards, strict=True) if source.kind == "speech"]
        return speech[0].read(0).audio if speech else None

    def plan(self, source: int, epoch: int, index: int, seed: int) -> Plan | None:
        """The sample as pieces that fit the context; None where it cannot be used (then it has been counted)."""
        self.skipped.saw()
        try:
            return self._plan(source, epoch, index, seed)
        except DataError as error:
            reason = error.what
        self.skipped.skip(reason, self._name(source, index))
        return None

    def _plan(self, source: int, epoch: int, index: int, seed: int) -> Plan:
        """Raises DataError where the sample cannot be used."""
        shards = self.shards[source]
        sample = shards.read(index, audio=False)
        text = tokenize(self.tokenizer, sample.meta["text"], self.start, self.data.context)
        if self.sources[source].kind == "text":
            return Plan(source, index, sample.key, text.ids, [Piece(False, 0, len(text.ids), len(text.ids))])
        words = shards.words(index)
        if words is None:
            raise DataError("has no word times")
        rng = np.random.default_rng(stable_seed(seed, "interleave", source, epoch, index))
        duration = shards.entry(index).duration
        whole = self._whole(source, index) if self.data.span_encoding != "separate" else None
        starts, ends = [word.start for word in words], [word.end for word in words]
        pieces = [Piece(False, 0, 1, 1)]
        for span in interleave(text.n_words, rng, self.data.text_words, self.data.speech_words, cuts_of(text)):
            first, last = text.word_starts[span.first], text.word_starts[span.last]
            if span.speech:
                begin, end = starts[span.first], speech_end(ends, starts, span.last, duration)
                frames = len(self._taken(begin, end, whole))
                if frames < 1:
                    raise DataError("has a speech span shorter than one frame")
                pieces.append(Piece(True, first, last, self.hearing.positions(frames), begin, end))
            else:
                pieces.append(Piece(False, first, last, last - first))
        return Plan(source, index, sample.key, text.ids, fit(pieces, self.data.context))

    def _name(self, source: int, index: int) -> str:
        try:
            return f"{self.sources[source].path}:{self.shards[source].entry(index).key}"
        except DataError:  # the index itself is damaged
            return f"{self.sources[source].path}[{index}]"

    def _whole(self, source: int, index: int) -> int | WordFrames:
        """Frames of the whole recording, or of its words. Raises DataError where the encoder cannot hear it, or the
        cache lacks it."""
        hearing, cache, shards = self.hearing, self.caches[source], self.shards[source]
        duration, frames = shards.entry(index).duration, WordFrames([], [], [0])
        if words := self.data.span_encoding == "words":
            frames = WordFrames.of(shards.words(index) or [], duration, hearing)
        count = frames.frames if words else hearing.frames(hearing.samples(0, duration))
        if cache is not None:
            cache.require(index, count)
        return frames if words else count

    def _taken(self, start: float, end: float, whole: int | WordFrames | None) -> range:
        """The frames of a span: of its own encoding, or (``whole`` frames) of the recording's, or of its words'."""
        if whole is None:
            return range(self.hearing.frames(self.hearing.samples(start, end)))
        if isinstance(whole, WordFrames):
            return whole.taken(start, end)
        return range(*self.hearing.slice(start, end, whole))

    def load(self, plan: Plan) -> Sequence | None:
        """The planned sample with what is heard; None where the audio does not decode (then it has been counted)."""
        sequence, spoken = Sequence(plan.key, plan.ids, plan.pieces), [piece for piece in plan.pieces if piece.speech]
        if not spoken:
            return sequence
        try:
            if self.data.span_encoding != "separate":
                return self._sliced(sequence, plan, spoken)
            audio = self.shards[plan.source].read(plan.index).audio
            parts, rate = decode_spans(audio, [(piece.start, piece.end) for piece in spoken])
            for part, piece in zip(parts, spoken, strict=True):
                if (late := piece.end - piece.start - len(part) / rate) > SPAN_SLACK:  # else it would hear silence
                    raise DataError(f"ends {late:.2f} s before the end of a span")
            return replace(sequence, waves=[
                sound(part, rate, self.hearing.samples(piece.start, piece.end), self.hearing)
                for part, piece in zip(parts, spoken, strict=True)
            ])  # fmt: skip
        except DataError as error:
            self.skipped.skip(error.what, f"{self.sources[plan.source].path}:{plan.key}")
            return None

    def _sliced(self, sequence: Sequence, plan: Plan, spoken: list[Piece]) -> Sequence:
        shards, cache = self.shards[plan.source], self.caches[plan.source]
        duration, whole = shards.entry(plan.index).duration, self._whole(plan.source, plan.index)
        taken = [self._taken(piece.start, piece.end, whole) for piece in spoken]
        if isinstance(whole, WordFrames):
            heard = [whole.within(piece.start, piece.end) for piece in spoken]
            sequence = replace(sequence, **of_words(whole, heard))
        else:
            sequence = replace(sequence, slices=[np.arange(span.start, span.stop) for span in taken],
                               samples=[self.hearing.samples(0, duration)])  # fmt: skip
        if cache is not None:
            return replace(sequence, frames=[cache.read(plan.index, span.start, span.stop) for span in taken])
        if isinstance(whole, WordFrames):
            wave, rate = decode(shards.read(plan.index).audio)
            sounds = word_sounds(shards.words(plan.index) or [], duration)
            return replace(sequence, waves=[word_wave(wave, rate, sounds[i], self.hearing) for i in chain(*heard)])
        return replace(sequence, waves=[recording(shards.read(plan.index), duration, self.hearing)])

    def dummy(self) -> np.ndarray:
        """What a micro-batch without speech is given to hear: a silent clip, or a cached frame, of one frame."""
        return np.zeros(self.hearing.shortest, np.float32) if self.cached is None else self.cached.silence(1)


def of_words(whole: WordFrames, heard: list[range]) -> dict[str, Any]:
    """``slices``, ``clips`` and ``samples`` of a Sequence whose spans are the words ``heard``."""
    frames = [[whole.edges[i + 1] - whole.edges[i] for i in words] for words in heard]
    begins = np.cumsum([0, *map(len, heard[:-1])])
    return {"slices": [np.concatenate([np.arange(n) for n in own]) for own in frames],
            "clips": [np.repeat(np.arange(len(own)) + begin, own) for begin, own in zip(begins, frames, strict=True)],
            "samples": [whole.samples[i] for i in chain(*heard)]}  # fmt: skip


def word_wave(wave: np.ndarray, rate: int, span: tuple[float, float], hearing: Hearing) -> np.ndarray:
    """A word of a recording at the encoder's rate."""
    return sound(cut(wave, rate, *span), rate, hearing.samples(*span), hearing)


def recording(sample: Sample, duration: float, hearing: Hearing) -> np.ndarray:
    """The whole sound of a sample: float32 [samples that ``duration`` seconds become] at the encoder's rate.

    Raises DataError for audio that does not decode, or ends before it should.
    """
    wave, rate = decode(sample.audio)
    if len(wave) / rate < duration - SLACK:
        raise DataError(f"lasts {len(wave) / rate:.2f} s, not the {duration:.2f} s that its metadata says")
    return sound(cut(wave, rate, 0, duration), rate, hearing.samples(0, duration), hearing)


def sound(wave: np.ndarray, rate: int, samples: int, hearing: Hearing) -> np.ndarray:
    """A wave at the encoder's rate: float32, exactly ``samples`` of them."""
    resampled = resample(wave, rate, hearing.sample_rate)[:samples]
    return np.pad(resampled, (0, samples - len(resampled))).astype(np.float32, copy=False)
