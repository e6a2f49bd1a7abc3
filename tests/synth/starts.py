"""Word starts by pocketsphinx, to hold an engine's own word times against. Not a test."""

import re

import numpy as np
import pocketsphinx

from salad_ds.audio import resample


def offsets(speech, text: str) -> list[float]:
    """Seconds by which each word start of ``speech`` lies behind pocketsphinx's. ``text``: plain words."""
    decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL")
    wave = resample(speech.wave, speech.rate, 16000)
    padded = np.pad(wave, 4000) + np.random.default_rng(0).normal(0, 1e-3, len(wave) + 8000)
    decoder.set_align_text(text)
    decoder.start_utt()
    decoder.process_raw((np.clip(padded, -1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    found = [(re.sub(r"\(\d\)", "", part.word), part.start_frame / 100 - 0.25) for part in decoder.seg()
             if part.word not in ("<s>", "</s>", "<sil>", "[NOISE]", "(NULL)")]
    assert [word for word, _ in found] == text.split()
    return [word.start - start for word, (_, start) in zip(speech.words, found, strict=True)]
