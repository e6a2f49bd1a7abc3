"""Forced alignment with a CTC model: any language that the model can write, and the fast way on a GPU.

The score of a word is the geometric mean of the probabilities of its letters in the frames where they are said.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from salad_ds.align.ctc_models import CtcModel, load_ctc
from salad_ds.align.segments import Segment, align_text
from salad_ds.align.trellis import token_spans
from salad_ds.audio import decode, resample
from salad_ds.data.word_times import Word
from salad_ds.errors import DataError

SHORTEST = 0.05
"""Seconds of sound. A shorter one holds no word, and the convolutions of wav2vec 2.0 fail below 25 ms."""

ANYTHING = math.log(1e-2)
"""Log-probability, in every frame, of a word that the model cannot write (figures in a language without readings): it
may be anything, but a word that can be written is preferred."""


class CtcAligner:
    """``align`` maps a wave and its text to word times. One per process."""

    def __init__(self, model: str, device: torch.device | str = "cpu") -> None:
        self.model: CtcModel = load_ctc(model, torch.device(device))

    def align(self, audio: bytes, text: str, language: str = "en", seed: str = "") -> list[Word]:
        """One Word per whitespace word of ``text``. ``audio``: the bytes of an audio file. ``seed`` is not needed.

        Raises DataError whose ``what`` is the reason why there are no times.
        """
        wave, rate = decode(audio)
        return self.align_wave(resample(wave, rate, self.model.rate), text, len(wave) / rate, language)

    def align_wave(self, wave: np.ndarray, text: str, duration: float | None = None,
                   language: str = "en") -> list[Word]:
        """As align, for ``wave`` [samples] at the model's rate."""
        duration = len(wave) / self.model.rate if duration is None else duration
        if len(wave) < SHORTEST * self.model.rate:
            raise DataError("text and sound do not align", "check the transcript")
        log_probs = self.model.log_probs(wave)
        anything = torch.full_like(log_probs[:, :1], ANYTHING)
        log_probs = torch.cat([log_probs, anything], 1)
        seconds = len(wave) / self.model.rate / len(log_probs)
        return align_text(text, duration, lambda words: self.segments(log_probs, words, seconds), language)

    def segments(self, log_probs: Tensor, words: list[str], seconds: float) -> list[Segment] | None:
        """``log_probs``: [T, C + 1], the last column for what cannot be written; ``seconds`` per frame."""
        spelled = [self.model.tokens(word) or [log_probs.shape[1] - 1] for word in words]
        if all(token == log_probs.shape[1] - 1 for tokens in spelled for token in tokens):
            raise DataError("no word can be written in the aligner's letters", "use an align.model of this language")
        tokens: list[int] = []
        places: list[tuple[int, int]] = []
        for number, word in enumerate(spelled):
            if number and self.model.boundary is not None:
                tokens.append(self.model.boundary)
            places.append((len(tokens), len(tokens) + len(word)))
            tokens += word
        spans = token_spans(log_probs, tokens, self.model.blank)
        if spans is None:
            return None
        found = []
        for begin, end in places:
            mine = spans[begin:end]
            start, stop = mine[0].first * seconds, (mine[-1].last + 1) * seconds
            found.append(Segment(start + self.model.shift, stop + self.model.shift,
                                 sum(span.last - span.first + 1 for span in mine), sum(span.log_prob for span in mine)))
        return found
