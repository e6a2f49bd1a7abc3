"""One small protocol for every speech engine, and where the words of a text lie in what an engine said.

An engine speaks the *spoken* words of ``normalize.speakable``; training needs the times of the words of the original
text (``text.split_words``). ``word_times`` carries the former over to the latter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from salad_ds.config import SynthConfig
from salad_ds.data.word_times import Word
from salad_ds.errors import DataError, RecipeError

ENGINES = ("hibari", "kokoro", "espeak", "piper", "command")


@dataclass(frozen=True)
class Speech:
    """``wave``: float32 [samples], mono, in [-1, 1], at ``rate`` samples/s. ``words``: one per whitespace word of the
    text that was said, or None where the engine does not know its word times."""

    wave: np.ndarray
    rate: int
    words: list[Word] | None

    @property
    def seconds(self) -> float:
        return len(self.wave) / self.rate


class SpeechEngine(Protocol):
    """A text-to-speech engine. ``say`` is a pure function of its arguments: same input, same samples."""

    name: str
    version: str
    """Names everything that the samples follow from: program, model, voices."""
    voices: tuple[str, ...]
    """Voices that can be used right now, the default first."""
    times_words: bool
    """Whether ``say`` gives word times. Where it does not, ``salad-ds align`` finds them afterwards."""

    def say(self, text: str, voice: str, seed: int) -> Speech:
        """Speak ``text``. Raises DataError for a text that cannot be spoken, RecipeError for an unknown voice."""
        ...


def load_engine(synth: SynthConfig) -> SpeechEngine:
    """The engine that ``synth`` names, loaded.

    Raises RecipeError for an unknown one or settings it cannot work with, AssetError for one that is not installed or
    whose model cannot be used.
    """
    if synth.engine == "hibari":
        from salad_ds.synth.hibari import Hibari

        return Hibari()
    if synth.engine == "kokoro":
        from salad_ds.synth.kokoro import Kokoro

        return Kokoro(synth.model)
    if synth.engine == "espeak":
        from salad_ds.synth.espeak import Espeak

        return Espeak()
    if synth.engine == "piper":
        from salad_ds.synth.piper import Piper

        return Piper(synth.model)
    if synth.engine == "command":
        from salad_ds.synth.command import Command

        return Command(synth.command, synth.voices)
    raise RecipeError(f"synth.engine is {synth.engine!r}, not one of {', '.join(ENGINES)}",
                      "mend the recipe or the override")


def check_voice(engine: SpeechEngine, voice: str) -> None:
    if voice not in engine.voices:
        raise RecipeError(f"{engine.name} has no voice {voice!r} here", f"choose from {', '.join(engine.voices)}")


def item_seed(seed: int, key: str) -> int:
    """A 32-bit seed for one item: a pure function of the run's seed and the item's key."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=4).digest(), "little")


def word_times(spans: Sequence[tuple[float, float] | None], owner: Sequence[int], n_words: int,
               seconds: float) -> list[Word]:
    """Times of the ``n_words`` original words from those of the spoken words.

    ``spans[j]``: start and end (s) of spoken word j, None where the engine gave none; ``owner[j]``: the original word
    it belongs to. A run of spoken words without times shares the gap around it evenly. An original word that is not
    spoken (a lone dash) gets an empty interval where the next word starts. Starts and ends never decrease.
    """
    if not any(spans):
        raise DataError("the engine gave no word times", "use another engine")
    starts, ends = fill(spans, seconds)
    found: list[tuple[float, float] | None] = [None] * n_words
    for word, start, end in zip(owner, starts, ends, strict=True):
        known = found[word]
        found[word] = (start, end) if known is None else (known[0], max(known[1], end))
    following, times = min(seconds, ends[-1]), []
    for pair in reversed(found):
        times.append(pair or (following, following))
        following = times[-1][0]
    words, least = [], 0.0
    for start, end in reversed(times):
        start = float(min(max(start, least), seconds))
        least = float(min(max(end, start), seconds))
        words.append(Word(round(start, 4), round(least, 4), 1.0))
    return words


def fill(spans: Sequence[tuple[float, float] | None], seconds: float) -> tuple[list[float], list[float]]:
    """Starts and ends with every gap filled: a word without times shares evenly the interval of the word before it."""
    starts, ends, i = [], [], 0
    while i < len(spans):
        run = 1
        while i + run < len(spans) and spans[i + run] is None:
            run += 1
        begin, end = spans[i] or (0.0, next((span[0] for span in spans[i:] if span), seconds))
        step = (end - begin) / run
        starts += [begin + step * k for k in range(run)]
        ends += [begin + step * (k + 1) for k in range(run)]
        i += run
    return starts, ends
