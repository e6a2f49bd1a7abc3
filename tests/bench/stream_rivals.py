"""Other people's loaders in front of our tokeniser, interleaving and collation: what the stream is measured against.

Each yields rows of sequences for ever, from the same shards, with the same decoding and resampling. They pack as plain
loops do: a row is closed when the next sample does not fit.
"""

from __future__ import annotations

import itertools
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import webdataset

from salad_ds.audio import cut, decode, resample
from salad_ds.data.collate import Sequence
from salad_ds.data.interleave import Piece, cuts_of, fit, interleave, speech_end
from salad_ds.data.plan import Planner
from salad_ds.data.word_times import Word
from salad_ds.text import tokenize

BUFFER = 1000
"""Samples of their shuffle buffers: what their documentation takes."""


def times_of(planner: Planner) -> dict[str, list[Word]]:
    """All word times of the first source, by key."""
    shards = planner.shards[0]
    return {shards.entry(i).key: words for i in range(len(shards)) if (words := shards.words(i)) is not None}


def interleaved(planner: Planner, rng: np.random.Generator, key: str, text: str, words: list[Word], duration: float,
                sound: Callable[[float, float], np.ndarray]) -> Sequence:
    """One utterance as ours: ``sound(start, end)`` gives a span at the encoder's rate."""
    hearing, data = planner.hearing, planner.data
    coded = tokenize(planner.tokenizer, text, planner.start, data.context)
    starts, ends = [word.start for word in words], [word.end for word in words]
    pieces = [Piece(False, 0, 1, 1)]
    for span in interleave(coded.n_words, rng, data.text_words, data.speech_words, cuts_of(coded)):
        first, last = coded.word_starts[span.first], coded.word_starts[span.last]
        if span.speech:
            begin, end = starts[span.first], speech_end(ends, starts, span.last, duration)
            count = hearing.positions(hearing.frames(hearing.samples(begin, end)))
            pieces.append(Piece(True, first, last, count, begin, end))
        else:
            pieces.append(Piece(False, first, last, last - first))
    pieces = fit(pieces, data.context)
    return Sequence(key, coded.ids, pieces, [sound(p.start, p.end) for p in pieces if p.speech])


def packed(sequences: Iterator[Sequence], context: int) -> Iterator[list[Sequence]]:
    row: list[Sequence] = []
    for sequence in sequences:
        if sum(s.positions for s in row) + sequence.positions > context:
            yield row
            row = []
        row.append(sequence)


def fitted(wave: np.ndarray, samples: int) -> np.ndarray:
    return np.pad(wave[:samples], (0, max(samples - len(wave), 0)))


def from_wave(planner: Planner, wave: np.ndarray, rate: int, whole: bool) -> Callable[[float, float], np.ndarray]:
    """Spans of a decoded recording: resampled as a whole, or each by itself."""
    target = planner.hearing.sample_rate
    full = resample(wave, rate, target) if whole else wave

    def sound(start: float, end: float) -> np.ndarray:
        part = cut(full, target, start, end) if whole else resample(cut(full, rate, start, end), rate, target)
        return fitted(part, planner.hearing.samples(start, end))

    return sound


def plain_webdataset(planner: Planner, whole: bool) -> Iterator[list[Sequence]]:
    """``WebDataset(urls).shuffle().map()``. ``whole``: recordings are resampled as they come out of the tar, which is
    how a ``map`` over samples is mostly written; else only their spans are."""
    words, rng = times_of(planner), np.random.default_rng(0)
    urls = [str(shard) for shard in planner.shards[0].shards]
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False).shuffle(BUFFER)

    def sequences() -> Iterator[Sequence]:
        for sample in itertools.chain.from_iterable(itertools.repeat(dataset)):
            key = sample["__key__"]
            if key in words:
                meta = json.loads(sample["json"])
                wave, rate = decode(sample["flac"])
                sound = from_wave(planner, wave, rate, whole)
                yield interleaved(planner, rng, key, meta["text"].strip(), words[key], len(wave) / rate, sound)

    return packed(sequences(), planner.data.context)


def lhotse_shar(planner: Planner) -> Iterator[list[Sequence]]:
    """lhotse's own tar format, made from the same samples: ``CutSet.from_shar`` with lazy resampling."""

    import lhotse
    from lhotse.shar import SharWriter

    logging.getLogger().setLevel(logging.ERROR)
    words, rng, shards = times_of(planner), np.random.default_rng(0), planner.shards[0]
    place = tempfile.mkdtemp(prefix="shar-")
    with SharWriter(place, fields={"recording": "flac"}, shard_size=32) as writer:
        for i in range(len(shards)):
            sample = shards.read(i)
            if sample.key in words:
                recording = lhotse.Recording.from_bytes(sample.audio, sample.key)
                one, key = recording.to_cut(), sample.key
                one.supervisions = [lhotse.SupervisionSegment(key, key, 0, one.duration, text=sample.text)]
                writer.write(one)
    cuts = lhotse.CutSet.from_shar(in_dir=Path(place), shuffle_shards=True, stateful_shuffle=True, seed=0)
    cuts = cuts.repeat().shuffle(buffer_size=BUFFER).resample(planner.hearing.sample_rate)

    def sequences() -> Iterator[Sequence]:
        for one in cuts:
            key = one.supervisions[0].recording_id
            wave = one.load_audio()[0]
            sound = from_wave(planner, wave, planner.hearing.sample_rate, whole=True)
            yield interleaved(planner, rng, key, one.supervisions[0].text, words[key], one.duration, sound)

    return packed(sequences(), planner.data.context)
