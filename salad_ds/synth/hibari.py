"""hibari (PyPI ``hibari-tts``, Apache-2): small, fast English speech with word times from its own durations.

The acoustic graph computes a duration per phoneme and then hides it; appending one output to the ONNX file exposes it.
A protobuf message may be followed by more of its fields, so the output is added by appending its bytes, without the
``onnx`` package. The copy lies in the cache and is made again when the packaged model changes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from salad_ds.assets import home
from salad_ds.errors import AssetError, DataError
from salad_ds.files import atomic_path, sha256_file
from salad_ds.synth.engine import Speech, check_voice, word_times
from salad_ds.synth.normalize import Spoken, speakable

DURATIONS = "/Clip_output_0"
"""Tensor of the graph: float32 [1, ids], duration of each phoneme id in units of FRAME samples."""
FRAME = 600
MAX_PHONEMES = 400
BIAS = 0.08
"""Seconds by which the durations run behind the sound. Word starts of 13 sentences (177 words) against pocketsphinx:
median +80 ms, mean absolute error 84 ms as they are, 15 ms after this is taken off (espeak-ng's own word events, by the
same measure: +2 ms and 17 ms)."""
PAUSE_MARKS = frozenset(';:,.!?—…"()“” ')


class Hibari:
    """The engine of the protocol ``SpeechEngine``. One thread; 24 kHz; voices: those whose model is on this machine."""

    name = "hibari"
    sample_rate = 24000

    def __init__(self) -> None:
        try:
            import hibari
            from hibari import dsp, tts, voices
        except ImportError:
            raise AssetError("synth.engine is hibari, which is not installed", "pip install hibari-tts") from None
        self.version = hibari.__version__
        self.library, self.dsp, self.registry = tts, dsp, voices
        self.voices = tuple(name for name in voices.VOICES if self.model_path(name).is_file())
        self.loaded: dict[str, object] = {}

    def model_path(self, voice: str) -> Path:
        try:
            return Path(self.registry.voice_path(voice, download_missing=False))
        except FileNotFoundError as error:
            return Path(str(error))

    def load(self, voice: str):
        """The ``hibari.Hibari`` of ``voice`` on the graph that also tells its durations."""
        if voice not in self.loaded:
            check_voice(self, voice)
            self.loaded[voice] = self.library.Hibari(voice=voice, model=str(with_output(self.model_path(voice))))
        return self.loaded[voice]

    def say(self, text: str, voice: str, seed: int) -> Speech:
        spoken = speakable(text)
        model = self.load(voice)
        random = np.random.default_rng(seed)
        spans: list[tuple[float, float] | None] = []
        waves, offset = [], 0
        for phonemes in chunks(spoken, phonemes_of_words(model.g2p, spoken)):
            ids, owner = [0], [-1]
            for word, of_word in enumerate(phonemes):
                for char in of_word + " " * (word + 1 < len(phonemes)):
                    if char in model.vocab:
                        ids.append(model.vocab[char])
                        owner.append(-1 if char in PAUSE_MARKS else word)
            inputs = {"ids": np.asarray([[*ids, 0]], np.int64), "speed": np.ones(1, np.float32)}
            *spectrum, durations = model.sess.run(None, inputs)
            edges = np.cumsum(np.concatenate(([0], durations.ravel()))) * FRAME
            wave = self.dsp.synth(*(part[0] for part in spectrum), random)
            if len(wave) != int(edges[-1]):
                raise AssetError(f"hibari's durations say {int(edges[-1])} samples, its wave has {len(wave)}",
                                 "install the version of hibari-tts that the lock file names")
            for word in range(len(phonemes)):
                at = [i for i, own in enumerate(owner) if own == word]
                spans.append(((offset + edges[at[0]]) / self.sample_rate - BIAS,
                              (offset + edges[at[-1] + 1]) / self.sample_rate - BIAS) if at else None)
            waves.append(wave)
            offset += len(wave)
        wave = np.clip(np.concatenate(waves), -1.0, 1.0).astype(np.float32)
        if not np.isfinite(wave).all():
            raise DataError("hibari gave a wave with non-finite samples", "remove the sample")
        return Speech(wave, self.sample_rate, word_times(spans, spoken.owner, spoken.n_words,
                                                         len(wave) / self.sample_rate))


def phonemes_of_words(g2p: object, spoken: Spoken) -> list[str]:
    """Phonemes of each spoken word, in context. Raises DataError where the words cannot be told apart."""
    found, current = [], ""
    for token in g2p.phonemize_tokens(g2p.tokenize(spoken.text)):  # type: ignore[attr-defined]
        current += token.phonemes or ""
        if token.whitespace:
            found.append(current)
            current = ""
    found.append(current)
    if len(found) != len(spoken.words):
        raise DataError(f"hibari read {len(found)} words where there are {len(spoken.words)}", "remove the sample")
    if not any(any(char not in PAUSE_MARKS for char in word) for word in found):
        raise DataError("hibari has no sounds for this text", "remove the sample")
    return found


def chunks(spoken: Spoken, phonemes: list[str]) -> Iterator[list[str]]:
    """Runs of words that the model speaks at once: sentences, cut further where they exceed its length."""
    run: list[str] = []
    length = 0
    for word, of_word in zip(spoken.words, phonemes, strict=True):
        if run and length + len(of_word) + 1 > MAX_PHONEMES:
            yield run
            run, length = [], 0
        run.append(of_word[:MAX_PHONEMES])
        length += len(run[-1]) + 1
        if word[-1] in ".!?":
            yield run
            run, length = [], 0
    if run:
        yield run


def with_output(model: Path, tensor: str = DURATIONS) -> Path:
    """A copy of the ONNX file ``model``, in the cache, whose last output is also ``tensor``."""
    target = home() / "hibari" / f"{model.stem}-{sha256_file(model)[:16]}.onnx"
    if not target.is_file():
        with atomic_path(target) as part:
            shutil.copyfile(model, part)
            with open(part, "ab") as file:
                file.write(output_field(tensor))
    return target


def output_field(tensor: str) -> bytes:
    """The protobuf bytes that, appended to a ModelProto, merge one more output into its graph.

    ModelProto.graph is field 7, GraphProto.output field 12, ValueInfoProto.name field 1 (onnx.proto3).
    """
    def field(number: int, payload: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(payload)) + payload

    return field(7, field(12, field(1, tensor.encode())))


def varint(value: int) -> bytes:
    """Protobuf's base-128 integer."""
    out = b""
    while value > 127:
        out += bytes((value & 127 | 128,))
        value >>= 7
    return out + bytes((value,))
