"""From utterances of a corpus to samples of shards: what every speech corpus of data_prep has in common.

Checks (decodes, has a transcript, the transcript fits the length), joins neighbours, encodes, counts what is not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from salad_ds.audio import FORMATS, decode, encode_flac, resample
from salad_ds.data.samples import SCHEMA, Sample, make_key
from salad_ds.data.shard_writer import ShardWriter
from salad_ds.errors import DataError
from salad_ds.progress import Progress

PAUSE = 0.3  # seconds of silence between joined utterances
CHARACTERS_PER_SECOND = (2.0, 35.0)
"""Slowest and fastest speech that is believed. Read English has 12-18; a wrong transcript is far outside."""


@dataclass(frozen=True)
class Utterance:
    """One recording and its words. ``load()`` → (wave [samples], rate), DataError if it does not decode.

    ``seconds``: length as far as it is known before decoding. ``group``: utterances with the same group and speaker may
    be joined. ``file``: set where the whole file, as it is, may be taken into the shard (compressed formats).
    """

    id: str
    text: str
    seconds: float
    load: Callable[[], tuple[np.ndarray, int]]
    speaker: str = ""
    language: str = "en"
    group: str = ""
    file: Path | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def write_utterances(writer: ShardWriter, utterances: Iterable[Utterance], join_seconds: float = 0.0, limit: int = 0,
                     label: str = "prepare", total: int | None = None, quiet: bool = False) -> None:
    """Write ``utterances`` through ``writer``; bad ones are rejected by name, none is fatal.

    ``join_seconds``: see join. ``limit``: at most this many samples (0: all). ``total``: utterances, for the progress.
    """
    with Progress(label, total, "utterances", quiet=quiet) as progress:
        for parts in join(sound(writer, utterances), join_seconds):
            if limit and writer.samples >= limit:
                break
            # The key must not depend on which parts decode: a resumed run asks before it decodes.
            key = make_key(parts[0].id if len(parts) == 1 else f"{parts[0].id}-and-{len(parts) - 1}")
            if writer.begin(key):
                sample = make_sample(writer, key, parts)
                if sample is not None:
                    writer.add(sample)
            progress.update(len(parts), f"{writer.seconds:.0f} s of speech, {writer.rejections.count} rejected")


def sound(writer: ShardWriter, utterances: Iterable[Utterance]) -> Iterator[Utterance]:
    """Those with a transcript, a believable length and a new id."""
    seen: set[str] = set()
    for utterance in utterances:
        reason = implausible(utterance.text, utterance.seconds)
        if reason:
            writer.reject(reason, utterance.id, f"{utterance.seconds:.2f} s for {utterance.text[:60]!r}")
        elif utterance.id in seen:
            writer.reject("duplicate key", utterance.id)
        else:
            seen.add(utterance.id)
            yield utterance


def implausible(text: str, seconds: float) -> str:
    """Why ``text`` cannot be what is said in ``seconds``, or ""."""
    if not text.strip():
        return "empty transcript"
    if seconds <= 0:
        return "no sound"
    slowest, fastest = CHARACTERS_PER_SECOND
    rate = len(text) / seconds
    if rate > fastest:
        return "transcript too long for the sound"
    return "transcript too short for the sound" if rate < slowest else ""


def join(utterances: Iterable[Utterance], seconds: float) -> Iterator[list[Utterance]]:
    """Runs of neighbours of one group and speaker that last at most ``seconds`` with the pauses between them; an
    utterance that is longer stays alone. 0 joins nothing. Several spans need more words than one prompt has."""
    run: list[Utterance] = []
    length = 0.0
    for utterance in utterances:
        added = utterance.seconds + (PAUSE if run else 0.0)
        if run and ((utterance.group, utterance.speaker, utterance.language)
                    != (run[0].group, run[0].speaker, run[0].language) or length + added > seconds):
            yield run
            run, length, added = [], 0.0, utterance.seconds
        run.append(utterance)
        length += added
    if run:
        yield run


def make_sample(writer: ShardWriter, key: str, parts: list[Utterance]) -> Sample | None:
    """The parts as one sample; ``meta["parts"]`` = [[id, start, end, text], ...] where there are several."""
    if len(parts) == 1 and parts[0].file is not None:
        return whole_file(writer, key, parts[0])
    waves, rows, rate, place = [], [], 0, 0
    used: list[Utterance] = []
    for part in parts:
        try:
            wave, own_rate = part.load()
        except DataError as error:
            writer.reject("does not decode", part.id, error.what)
            continue
        if not believable(writer, part, len(wave) / own_rate):
            continue
        rate = rate or own_rate
        wave = resample(wave, own_rate, rate)
        if waves:
            silence = np.zeros(round(PAUSE * rate), np.float32)
            waves.append(silence)
            place += len(silence)
        rows.append([part.id, round(place / rate, 4), round((place + len(wave)) / rate, 4), part.text])
        waves.append(wave)
        place += len(wave)
        used.append(part)
    if not used:
        return None
    wave = np.concatenate(waves)
    extra = {"parts": rows} if len(parts) > 1 else {}
    try:
        audio = encode_flac(wave, rate)
    except DataError as error:
        writer.reject("cannot be encoded", key, error.what)
        return None
    return Sample(key, describe(used, key, len(wave) / rate, rate) | extra, audio, "flac")


def whole_file(writer: ShardWriter, key: str, part: Utterance) -> Sample | None:
    """A compressed file goes into the shard unchanged, once it has been seen to decode."""
    assert part.file is not None
    try:
        raw = part.file.read_bytes()
        wave, rate = decode(raw)
    except (DataError, OSError) as error:
        writer.reject("does not decode", part.id, getattr(error, "what", str(error)))
        return None
    if not believable(writer, part, len(wave) / rate):
        return None
    ending = part.file.suffix[1:].lower()
    assert ending in FORMATS
    return Sample(key, describe([part], key, len(wave) / rate, rate), raw, ending)


def believable(writer: ShardWriter, part: Utterance, seconds: float) -> bool:
    """The header may have lied: the decoded length decides."""
    reason = implausible(part.text, seconds)
    if reason:
        writer.reject(reason, part.id, f"{seconds:.2f} s for {part.text[:60]!r}")
    return not reason


def describe(parts: list[Utterance], key: str, seconds: float, rate: int) -> dict[str, Any]:
    first = parts[0]
    return {"schema": SCHEMA, "id": first.id if len(parts) == 1 else key,
            "text": " ".join(part.text.strip() for part in parts), "duration": round(seconds, 6), "sample_rate": rate,
            "speaker": first.speaker, "language": first.language, **first.extra}
