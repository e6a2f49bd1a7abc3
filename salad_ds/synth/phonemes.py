"""What hibari and Kokoro have in common: English phonemes word by word, in pieces a model can hold, with their times.

Both are StyleTTS 2 at 24 kHz with one alphabet, and give each phoneme a whole number of frames. Grapheme-to-phoneme is
that of hibari (PyPI ``hibari-tts``, Apache-2): misaki's, Kokoro's own, ported to run without spaCy.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from salad_ds.errors import AssetError, DataError
from salad_ds.synth.engine import Speech, word_times
from salad_ds.synth.normalize import Spoken

RATE = 24000
FRAME = 600
"""Samples per unit of duration."""
PAUSE_MARKS = frozenset(';:,.!?—…"()“” ')

Speak = Callable[[list[int]], tuple[np.ndarray, np.ndarray | None]]
"""Phoneme ids with a pad at each end → float32 wave [samples], duration of each id in frames or None."""


def library(wanted_by: str) -> Any:
    """The package ``hibari``. Raises AssetError, naming who wants it, where it is not installed."""
    try:
        import hibari
    except ImportError:
        raise AssetError(f"synth.engine is {wanted_by}, which needs hibari-tts, and that is not installed",
                         "pip install hibari-tts") from None
    return hibari


@functools.lru_cache(maxsize=2)
def reader(british: bool) -> Any:
    """hibari's ``G2P``, American or British."""
    from hibari.g2p import G2P

    return G2P(british=british)


@functools.lru_cache(maxsize=1)
def alphabet() -> dict[str, int]:
    """Id of each phoneme character: the vocabulary of Kokoro v1.0, which is hibari's."""
    from hibari import tts

    return json.loads(Path(tts.ASSETS, "vocab.json").read_text(encoding="utf-8"))


def say(spoken: Spoken, british: bool, speak: Speak, *, name: str, limit: int, bias: float) -> Speech:
    """``spoken`` said piece by piece (at most ``limit`` phonemes each) by the engine ``name``.

    ``bias``: seconds by which durations run behind the sound. Word times are None where ``speak`` gives no durations.
    Raises DataError for a text without sounds, AssetError where durations and wave disagree.
    """
    vocabulary = alphabet()
    spans: list[tuple[float, float] | None] = []
    waves, offset, timed = [], 0, True
    for phonemes in chunks(spoken, phonemes_of_words(reader(british), spoken), limit):
        ids, owner = [0], [-1]
        for word, of_word in enumerate(phonemes):
            for char in of_word + " " * (word + 1 < len(phonemes)):
                if char in vocabulary:
                    ids.append(vocabulary[char])
                    owner.append(-1 if char in PAUSE_MARKS else word)
        wave, durations = speak([*ids, 0])
        if durations is None:
            timed = False
        else:
            edges = np.cumsum(np.concatenate(([0], durations))) * FRAME
            if len(wave) != int(edges[-1]):
                raise AssetError(f"the durations of {name} say {int(edges[-1])} samples, its wave has {len(wave)}",
                                 "install the versions that constraints.txt names, or use another model")
            for word in range(len(phonemes)):
                at = [i for i, own in enumerate(owner) if own == word]
                spans.append(((offset + edges[at[0]]) / RATE - bias, (offset + edges[at[-1] + 1]) / RATE - bias)
                             if at else None)
        waves.append(wave)
        offset += len(wave)
    wave = np.clip(np.concatenate(waves), -1.0, 1.0).astype(np.float32)
    if not np.isfinite(wave).all():
        raise DataError(f"{name} gave a wave with non-finite samples", "remove the sample")
    return Speech(wave, RATE, word_times(spans, spoken.owner, spoken.n_words, len(wave) / RATE) if timed else None)


def phonemes_of_words(g2p: Any, spoken: Spoken) -> list[str]:
    """Phonemes of each spoken word, in context. Raises DataError where the words cannot be told apart."""
    found, current = [], ""
    for token in g2p.phonemize_tokens(g2p.tokenize(spoken.text)):
        current += token.phonemes or ""
        if token.whitespace:
            found.append(current)
            current = ""
    found.append(current)
    if len(found) != len(spoken.words):
        raise DataError(f"{len(found)} words were read where there are {len(spoken.words)}", "remove the sample")
    if not any(any(char not in PAUSE_MARKS for char in word) for word in found):
        raise DataError("the text has no sounds", "remove the sample")
    return found


def chunks(spoken: Spoken, phonemes: list[str], limit: int) -> Iterator[list[str]]:
    """Runs of words that a model speaks at once: sentences, cut further where they exceed ``limit`` phonemes."""
    run: list[str] = []
    length = 0
    for word, of_word in zip(spoken.words, phonemes, strict=True):
        if run and length + len(of_word) + 1 > limit:
            yield run
            run, length = [], 0
        run.append(of_word[:limit])
        length += len(run[-1]) + 1
        if word[-1] in ".!?":
            yield run
            run, length = [], 0
    if run:
        yield run
