"""Utterances of a corpus, and how one or several neighbours become a sample: what every speech corpus has in common.

A corpus yields Utterances, and Refused for what it does not take; speech_writer.py does the rest. Everything here is
free of state, so that it runs in any process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from salad_ds.audio import FORMATS, decode, encode_flac, probe, resample
from salad_ds.config import StorageConfig
from salad_ds.data import storage
from salad_ds.data.given_words import shifted
from salad_ds.data.samples import SCHEMA, SLACK, Sample, make_key
from salad_ds.data.storage import Place
from salad_ds.data.word_times import Word
from salad_ds.errors import DataError

PAUSE = 0.3  # seconds of silence between joined utterances
CHARACTERS_PER_SECOND = (2.0, 35.0)
"""Slowest and fastest speech that is believed. Read English has 12-18; a wrong transcript is far outside."""


@dataclass(frozen=True)
class Refused:
    """Something that does not become a sample. ``bad``: it counts as a fault; else it was not wanted. ``utterances``:
    how many it stands for in the progress (a recording that is missing)."""

    reason: str
    key: str
    detail: str = ""
    bad: bool = True
    utterances: int = 1


@dataclass(frozen=True)
class Utterance:
    """One recording, or a part of one, and its words.

    ``path``: its file; where ``audio`` holds the file's bytes (they lay in a table), only its name. ``load()`` →
    (wave [samples], rate) where that is not simply the whole file; it raises DataError if it does not decode, and is a
    function of a module or a partial of one (it is sent to other processes). ``seconds``: where it is known without
    opening the file. ``group``: utterances with the same group, speaker and language may be joined. ``as_it_is``: the
    file's bytes go into the shard unchanged (compressed formats). ``words``: when they are said, if the corpus knows.
    ``extra``: more metadata of the sample. ``utterances``: how many of the corpus's own it is, for the progress.
    """

    id: str
    text: str
    path: Path | None = None
    load: Callable[[], tuple[np.ndarray, int]] | None = None
    seconds: float | None = None
    speaker: str = ""
    language: str = "en"
    group: str = ""
    as_it_is: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    utterances: int = 1
    audio: bytes | None = None
    words: tuple[Word, ...] | None = None

    @property
    def file(self) -> Path | bytes:
        """What is decoded."""
        assert self.path is not None
        return self.path if self.audio is None else self.audio

    def decoded(self) -> tuple[np.ndarray, int]:
        return decode(self.file) if self.load is None else self.load()


def decode_part(place: Place, start: float, duration: float | None, channel: int | None = None,
                settings: StorageConfig | None = None) -> tuple[np.ndarray, int]:
    """``duration`` seconds of a file from ``start``, which are sought; a file behind a URL is read whole, with
    ``settings``. ``channel``: see decode. DataError: the file ends earlier, or does not decode."""
    path = storage.local(place)
    wave, rate = decode(storage.read_bytes(place, settings) if path is None else path, start, duration, channel)
    if duration is not None and len(wave) < (duration - SLACK) * rate:
        late = f"{duration - len(wave) / rate:.2f} s before {start + duration:.2f} s"
        raise DataError(f"{storage.shown(place)} ends {late}", "replace or remove the file")
    return wave, rate


def sound(items: Iterable[Utterance | Refused], measured: bool) -> Iterator[Utterance | Refused]:
    """Those with a transcript, a believable length and a new id; the rest as Refused. ``measured``: ``seconds`` are
    known, or read from the file."""
    seen: set[str] = set()
    for item in items:
        if isinstance(item, Utterance) and measured and item.seconds is None:
            try:
                item = replace(item, seconds=probe(item.file)[0])
            except DataError as error:
                item = Refused("does not decode", item.id, error.what)
        if isinstance(item, Refused):
            yield item
        elif reason := implausible(item.text, item.seconds):
            yield Refused(reason, item.id, told(item.seconds, item.text))
        elif item.id in seen:
            yield Refused("duplicate key", item.id)
        else:
            seen.add(item.id)
            yield item


def implausible(text: str, seconds: float | None) -> str:
    """Why ``text`` cannot be what is said in ``seconds``, or ""."""
    if not text.strip():
        return "empty transcript"
    if seconds is None:
        return ""
    if seconds <= 0:
        return "no sound"
    slowest, fastest = CHARACTERS_PER_SECOND
    rate = len(text) / seconds
    if rate > fastest:
        return "transcript too long for the sound"
    return "transcript too short for the sound" if rate < slowest else ""


def told(seconds: float | None, text: str) -> str:
    return f"{seconds or 0:.2f} s for {text[:60]!r}"


def join(items: Iterable[Utterance | Refused], seconds: float) -> Iterator[list[Utterance] | Refused]:
    """Runs of neighbours of one group and speaker that last at most ``seconds`` with the pauses between them; an
    utterance that is longer stays alone. 0 joins nothing. Several spans need more words than one prompt has."""
    run: list[Utterance] = []
    length = 0.0
    for item in items:
        if isinstance(item, Refused):
            yield item
            continue
        own = item.seconds or 0.0
        added = own + (PAUSE if run else 0.0)
        if run and ((item.group, item.speaker, item.language) != (run[0].group, run[0].speaker, run[0].language)
                    or length + added > seconds):
            yield run
            run, length, added = [], 0.0, own
        run.append(item)
        length += added
    if run:
        yield run


@dataclass(frozen=True)
class Task:
    """A sample to be made of ``parts``; ``kept``: an earlier run has written it."""

    key: str
    parts: list[Utterance]
    kept: bool = False

    @classmethod
    def of(cls, parts: list[Utterance]) -> Task:
        # The key must not depend on which parts decode: a resumed run asks before it decodes.
        return cls(make_key(parts[0].id if len(parts) == 1 else f"{parts[0].id}-and-{len(parts) - 1}"), parts)


@dataclass
class Made:
    """What became of a Task: a sample or none, its word times if all parts have some, what was refused on the way."""

    sample: Sample | None = None
    words: list[Word] | None = None
    refused: list[Refused] = field(default_factory=list)


def make(task: Task) -> Made:
    """The parts as one sample; ``meta["parts"]`` = [[id, start, end, text], ...] where there are several."""
    parts, made = task.parts, Made()
    if len(parts) == 1 and parts[0].as_it_is:
        make_of_file(task.key, parts[0], made)
        return made
    waves: list[np.ndarray] = []
    rows, rate, place = [], 0, 0
    used: list[Utterance] = []
    begins: list[float] = []
    for part in parts:
        try:
            wave, own_rate = part.decoded()
        except DataError as error:
            made.refused.append(Refused("does not decode", part.id, error.what))
            continue
        if not believable(made, part, len(wave) / own_rate):
            continue
        rate = rate or own_rate
        wave = resample(wave, own_rate, rate)
        if waves:
            silence = np.zeros(round(PAUSE * rate), np.float32)
            waves.append(silence)
            place += len(silence)
        begins.append(round(place / rate, 4))
        rows.append([part.id, begins[-1], round((place + len(wave)) / rate, 4), part.text])
        waves.append(wave)
        place += len(wave)
        used.append(part)
    if not used:
        return made
    wave = np.concatenate(waves)
    extra = {"parts": rows} if len(parts) > 1 else {}
    try:
        audio = encode_flac(wave, rate)
    except DataError as error:
        made.refused.append(Refused("cannot be encoded", task.key, error.what))
        return made
    made.sample = Sample(task.key, describe(used, task.key, len(wave) / rate, rate) | extra, audio, "flac")
    if all(part.words is not None for part in used):
        made.words = [word for part, begin in zip(used, begins, strict=True)
                      for word in shifted(part.words or (), begin)]
    return made


def make_of_file(key: str, part: Utterance, made: Made) -> None:
    """A compressed file goes into the shard unchanged, once it has been seen to decode."""
    assert part.path is not None
    try:
        raw = part.path.read_bytes() if part.audio is None else part.audio
        wave, rate = decode(raw)
    except (DataError, OSError) as error:
        made.refused.append(Refused("does not decode", part.id, getattr(error, "what", str(error))))
        return
    if believable(made, part, len(wave) / rate):
        ending = part.path.suffix[1:].lower()
        assert ending in FORMATS
        made.sample = Sample(key, describe([part], key, len(wave) / rate, rate), raw, ending)
        made.words = None if part.words is None else list(part.words)


def believable(made: Made, part: Utterance, seconds: float) -> bool:
    """The header may have lied: the decoded length decides."""
    reason = implausible(part.text, seconds)
    if reason:
        made.refused.append(Refused(reason, part.id, told(seconds, part.text)))
    return not reason


def describe(parts: list[Utterance], key: str, seconds: float, rate: int) -> dict[str, Any]:
    first = parts[0]
    return {"schema": SCHEMA, "id": first.id if len(parts) == 1 else key,
            "text": " ".join(part.text.strip() for part in parts), "duration": round(seconds, 6), "sample_rate": rate,
            "speaker": first.speaker, "language": first.language, **first.extra}
