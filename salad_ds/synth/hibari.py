"""hibari (PyPI ``hibari-tts``, Apache-2): small, fast English speech with word times from its own durations."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from salad_ds.synth import phonemes
from salad_ds.synth.engine import Speech, check_voice
from salad_ds.synth.normalize import speakable
from salad_ds.synth.onnx_output import SpeechModel

MAX_PHONEMES = 400
BIAS = 0.08
"""Seconds by which the durations run behind the sound. Word starts of 13 sentences (177 words) against pocketsphinx:
median +80 ms, mean absolute error 84 ms as they are, 15 ms after this is taken off (espeak-ng's own word events, by the
same measure: +2 ms and 17 ms)."""


class Hibari:
    """The engine of the protocol ``SpeechEngine``. One thread; 24 kHz; voices: those whose model is on this machine."""

    name = "hibari"
    times_words = True
    sample_rate = phonemes.RATE

    def __init__(self) -> None:
        self.version = phonemes.library(self.name).__version__
        from hibari import dsp, voices

        self.dsp, self.registry = dsp, voices
        self.voices = tuple(name for name in voices.VOICES if self.model_path(name).is_file())
        self.loaded: dict[str, SpeechModel] = {}

    def model_path(self, voice: str) -> Path:
        try:
            return Path(self.registry.voice_path(voice, download_missing=False))
        except FileNotFoundError as error:
            return Path(str(error))

    def load(self, voice: str) -> SpeechModel:
        if voice not in self.loaded:
            check_voice(self, voice)
            self.loaded[voice] = SpeechModel(self.model_path(voice), "pip install --force-reinstall hibari-tts")
        return self.loaded[voice]

    def say(self, text: str, voice: str, seed: int) -> Speech:
        spoken = speakable(text)
        model = self.load(voice)
        session, random = model.session(seed), np.random.default_rng(seed)

        def speak(ids: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
            spectrum, durations = model.run(session, {"ids": [ids], "speed": [1.0]})
            return self.dsp.synth(*(part[0] for part in spectrum), random), durations

        return phonemes.say(spoken, self.registry.VOICES[voice]["british"], speak, name=self.name, limit=MAX_PHONEMES,
                            bias=BIAS)
