"""Forced alignment with pocketsphinx: English, 16 kHz, CPU, about 30-60 times faster than real time per thread.

The score of a word is the geometric mean, over its frames, of the likelihood of the aligned state relative to the most
likely state of the acoustic model in that frame: 1 says that nothing else would have fitted better. Measured means over
an utterance: human prompts 0.19-0.40, hibari 0.27-0.35, espeak 0.11-0.2; a wrong transcript fails to align half the
time and else scores 0.02 (median), 0.08 (90th percentile). A ``min_score`` of 0.1 keeps the former from the latter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from pocketsphinx import Decoder

from salad_ds.align.pronounce import pronounce
from salad_ds.align.segments import Segment, align_text, is_english
from salad_ds.audio import decode, resample
from salad_ds.data.word_times import Word
from salad_ds.errors import DataError

RATE = 16000
FRAME = 0.01  # seconds
PAD = 0.25  # seconds of noise on both sides: the model wants silence around speech
NOISES = (1e-3, 3e-4, 3e-3)  # clean synthetic speech fails without noise, at which level depends on the voice
FILLERS = ("<s>", "</s>", "<sil>", "(NULL)")
# The narrow beams are pocketsphinx's own; the wide ones are slower and save utterances with a hesitation or a noise.
BEAMS: tuple[dict[str, float], ...] = ({}, {"beam": 1e-120, "wbeam": 1e-100, "pbeam": 1e-120})


class PocketsphinxAligner:
    """``align`` maps a wave and its text to word times. One per process; decoders are not shared between threads."""

    name = "pocketsphinx"

    def __init__(self) -> None:
        self.decoders: dict[int, Decoder] = {}

    def decoder(self, width: int) -> Decoder:
        if width not in self.decoders:
            self.decoders[width] = Decoder(lm=None, loglevel="FATAL", **BEAMS[width])
        return self.decoders[width]

    def align(self, audio: bytes, text: str, language: str = "en", seed: str = "") -> list[Word]:
        """One Word per whitespace word of ``text``. ``audio``: the bytes of an audio file. ``seed`` fixes the noise.

        Raises DataError whose ``what`` is the reason why there are no times.
        """
        if not is_english(language):
            raise DataError(f"language {language} has no acoustic model", "use another aligner")
        wave, rate = decode(audio)
        duration = len(wave) / rate
        return self.align_wave(resample(wave, rate, RATE), text, duration, seed)

    def align_wave(self, wave: np.ndarray, text: str, duration: float | None = None, seed: str = "") -> list[Word]:
        """As align, for ``wave`` [samples] at 16 kHz."""
        duration = len(wave) / RATE if duration is None else duration
        return align_text(text, duration, lambda words: self.segment(wave, words, seed))

    def segment(self, wave: np.ndarray, words: Sequence[str], seed: str) -> list[Segment] | None:
        """The segments of ``words`` in order, or None when no noise level and beam finds all of them."""
        for width in range(len(BEAMS)):
            decoder = self.decoder(width)
            for word in dict.fromkeys(words):
                if decoder.lookup_word(word) is None:
                    phones = pronounce(word)
                    if not phones:
                        raise DataError(f"word {word!r} has no pronunciation", "check the transcript")
                    decoder.add_word(word, phones, True)
            for level in NOISES if width == 0 else NOISES[:1]:
                segments = self.once(decoder, with_noise(wave, level, seed), words)
                if segments is not None:
                    return segments
        return None

    @staticmethod
    def once(decoder: Decoder, pcm: bytes, words: Sequence[str]) -> list[Segment] | None:
        decoder.reinit_feat()  # its noise estimate outlives an utterance: times would depend on what came before
        try:
            decoder.set_align_text(" ".join(words))
            decoder.start_utt()
            decoder.process_raw(pcm, full_utt=True)
            decoder.end_utt()
            found = decoder.seg()
            segments = [(s.word.split("(")[0], segment(s.start_frame, s.end_frame, s.ascore))
                        for s in found if s.word not in FILLERS and s.word[0] not in "[+"] if found is not None else []
        except RuntimeError:  # the search died: no path survived the beam
            return None
        return [segment for _, segment in segments] if [word for word, _ in segments] == list(words) else None


def segment(first: int, last: int, likelihood: float) -> Segment:
    """Frames ``[first, last]`` of the padded wave, with the likelihood relative to the best states."""
    return Segment(first * FRAME - PAD, (last + 1) * FRAME - PAD, last - first + 1, math.log(max(likelihood, 1e-300)))


def with_noise(wave: np.ndarray, level: float, seed: str) -> bytes:
    """Padded and with white noise of deviation ``level``, as 16-bit PCM. The same ``seed`` gives the same bytes."""
    generator = np.random.default_rng(int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "little"))
    pad = round(PAD * RATE)
    padded = np.zeros(len(wave) + 2 * pad, np.float32)
    padded[pad:pad + len(wave)] = wave
    padded += generator.standard_normal(len(padded), dtype=np.float32) * np.float32(level)
    return (np.clip(padded, -1, 1) * 32767).astype("<i2").tobytes()
