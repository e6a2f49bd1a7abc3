"""One text in a worker: spoken, heard, and judged by what was heard.

What becomes of an item is a pure function of (engine, its version, recogniser, seed, key, text): the voice and the
engine's seed come from the key, and no item is heard together with others. So neither the number of workers nor what a
killed run had done before changes a byte.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from salad_ds.audio import encode_flac
from salad_ds.config import SynthConfig
from salad_ds.data.word_times import Word
from salad_ds.errors import DataError
from salad_ds.synth.engine import SpeechEngine, item_seed, load_engine
from salad_ds.synth.normalize import speakable
from salad_ds.text import split_words

MAX_WORDS = 300
"""Longer texts (about two minutes of speech) are rejected: no context of ours holds them."""
DETAIL = 120


@dataclass(frozen=True)
class Job:
    """How all items of a product are made. Hashable: see engine_of."""

    engine: str
    model: str
    command: str
    voices: tuple[str, ...]
    asr: str
    max_cer: float | None
    seed: int

    @classmethod
    def of(cls, synth: SynthConfig, max_cer: float | None) -> Job:
        return cls(synth.engine, synth.model, synth.command, tuple(synth.voices), synth.asr,
                   max_cer if synth.asr else None, synth.seed)


@dataclass(frozen=True)
class Task:
    order: int
    key: str
    text: str
    extra: dict[str, Any]


@dataclass(frozen=True)
class Said:
    """What became of a task. ``meta``: of the sample; of a rejected one (``reason``), as far as it came. ``audio``: a
    FLAC file, empty where rejected."""

    meta: dict[str, Any]
    audio: bytes = b""
    words: list[Word] | None = None
    reason: str = ""
    detail: str = ""


@functools.lru_cache(maxsize=1)
def engine_of(job: Job) -> SpeechEngine:
    """The engine of this process, loaded once. Raises RecipeError, AssetError: see load_engine."""
    return load_engine(SynthConfig(engine=job.engine, model=job.model, command=job.command, voices=list(job.voices)))


def speak(job: Job, task: Task) -> Said:
    """In a worker: one item. The voice is drawn by the item's seed. Raises AssetError for what cannot be loaded."""
    engine = engine_of(job)
    text, number = task.text.strip(), item_seed(job.seed, task.key)
    voices = job.voices or engine.voices[:1]
    voice = voices[number % len(voices)]
    meta = {**task.extra, "text": text, "speaker": f"{engine.name}-{voice}", "language": "en", "engine": engine.name,
            "engine_version": engine.version, "voice": voice, "seed": number}
    if len(split_words(text)) > MAX_WORDS:
        return Said(meta, reason="too long", detail=f"more than {MAX_WORDS} words")
    try:
        meta["spoken"] = speakable(text).text
        speech = engine.say(text, voice, number)
        audio = encode_flac(speech.wave, speech.rate)
    except DataError as error:
        return Said(meta, reason="cannot be spoken", detail=error.what)
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:  # an engine's own fault
        return Said(meta, reason=f"{engine.name} failed", detail=f"{type(error).__name__}: {error}"[:DETAIL])
    meta |= {"duration": round(speech.seconds, 6), "sample_rate": speech.rate}
    if job.asr:
        meta |= listen(speech.wave, speech.rate, text, job.asr)
        if job.max_cer is not None and meta["cer"] > job.max_cer:
            return Said(meta, reason="character error rate", detail=f"{meta['cer']:.3f}: {meta['heard']!r}"[:DETAIL])
    return Said(meta, audio, speech.words)


def listen(wave: np.ndarray, rate: int, text: str, asr: str) -> dict[str, Any]:
    """What the recogniser ``asr`` hears, and how far that is from ``text``."""
    from salad_ds.asr import character_error_rate, hear  # torch and transformers, which nobody needs who trusts

    heard = hear([wave], rate, asr)[0]
    return {"heard": heard, "cer": round(character_error_rate(text, heard), 6), "asr": asr}
