"""One sample of a source, planned and then loaded.

Planning needs text and word times only: it decides which words are heard and how many positions the sample fills.
Loading adds the sound, cut from the recording and resampled to the encoder's rate. Both are pure functions of (source,
epoch, index, seed).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from salad_ds.audio import cut, decode, resample
from salad_ds.config import DataConfig, SourceConfig
from salad_ds.data.collate import Sequence
from salad_ds.data.interleave import Piece, cuts_of, fit, interleave, speech_end
from salad_ds.data.order import stable_seed
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError
from salad_ds.text import start_token, tokenize


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
        """Count one; raise DataError once more than ``max_share`` of at least 50 samples were skipped."""
        reason = re.sub(r" *\([^()]*\)", "", reason)
        with self.lock:
            reason = self.alike.setdefault(re.sub(r"\d[\d.]*", "#", reason), reason)
            self.counts[reason] += 1
            named = self.examples.setdefault(reason, [])
            if len(named) < 5:
                named.append(name)
            lost = sum(self.counts.values())
            if lost >= 5 and lost > self.max_share * max(self.seen, 50):
                raise DataError(
                    f"{lost} of {self.seen} samples cannot be used: {self}",
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

    ``frames``: (samples at ``sample_rate``) → LLM positions; the encoder's arithmetic followed by the adapter's.
    """

    def __init__(
        self,
        sources: list[SourceConfig],
        directory: Callable[[str], Path],
        data: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        sample_rate: int,
        frames: Callable[[int], int],
    ) -> None:
        self.sources = sources
        self.shards = [ShardSet.open(directory(source.path)) for source in sources]
        self.data, self.tokenizer, self.sample_rate, self.frames = data, tokenizer, sample_rate, frames
        self.start = start_token(tokenizer)
        self.skipped = Skipped(data.max_bad_share)

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
        starts, ends = [word.start for word in words], [word.end for word in words]
        pieces = [Piece(False, 0, 1, 1)]
        for span in interleave(text.n_words, rng, self.data.text_words, self.data.speech_words, cuts_of(text)):
            first, last = text.word_starts[span.first], text.word_starts[span.last]
            if span.speech:
                begin, end = starts[span.first], speech_end(ends, starts, span.last, duration)
                positions = self.frames(self.samples(begin, end))
                if positions < 1:
                    raise DataError("has a speech span shorter than one frame")
                pieces.append(Piece(True, first, last, positions, begin, end))
            else:
                pieces.append(Piece(False, first, last, last - first))
        return Plan(source, index, sample.key, text.ids, fit(pieces, self.data.context))

    def _name(self, source: int, index: int) -> str:
        try:
            return f"{self.sources[source].path}:{self.shards[source].entry(index).key}"
        except DataError:  # the index itself is damaged
            return f"{self.sources[source].path}[{index}]"

    def samples(self, start: float, end: float) -> int:
        """Samples at the encoder's rate that the seconds ``[start, end)`` become."""
        return max(int(round((end - start) * self.sample_rate)), 0)

    def load(self, plan: Plan) -> Sequence | None:
        """The planned sample with its sound; None where the audio does not decode (then it has been counted)."""
        spoken = [piece for piece in plan.pieces if piece.speech]
        waves: list[np.ndarray] = []
        if spoken:
            try:
                sample = self.shards[plan.source].read(plan.index)
                wave, rate = decode(sample.audio)
                for piece in spoken:
                    part = resample(cut(wave, rate, piece.start, piece.end), rate, self.sample_rate)
                    wanted = self.samples(piece.start, piece.end)
                    waves.append(np.pad(part[:wanted], (0, max(wanted - len(part), 0))).astype(np.float32, copy=False))
            except DataError as error:
                self.skipped.skip(error.what, f"{self.sources[plan.source].path}:{plan.key}")
                return None
        return Sequence(plan.key, plan.ids, plan.pieces, waves)
