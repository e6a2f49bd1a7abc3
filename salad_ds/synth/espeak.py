"""espeak-ng through ctypes: robotic, tiny, very fast, with word and phoneme events.

espeak-ng is GPL-3. It is an optional extra (PyPI ``espeakng-loader``), never shipped with us, and its library is
loaded only in a run whose recipe names this engine.

Its synthesiser keeps state from one utterance to the next (pitch flutter, phase), so the same text gives other samples
the second time. The library is therefore loaded afresh for every item (5 ms), which makes ``say`` a pure function.
"""

from __future__ import annotations

import _ctypes
import contextlib
import ctypes
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np

from salad_ds.errors import AssetError, DataError
from salad_ds.synth.engine import Speech, check_voice, word_times
from salad_ds.synth.normalize import speakable

VOICES: tuple[str, ...] = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-us+f3", "en-us+m3", "en+f4", "en+m7")
"""None of the Klatt voices: those draw noise from the C library, unseeded."""
SYNCHRONOUS, PHONEME_EVENTS, UTF8 = 2, 1, 1
RATE, WORDS_PER_MINUTE = 1, 160
END, WORD, PHONEME = 0, 1, 7  # espeak_EVENT_TYPE


class Identifier(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class Event(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("unique", ctypes.c_uint), ("text_position", ctypes.c_int),
                ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
                ("user_data", ctypes.c_void_p), ("id", Identifier)]


CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))


class Espeak:
    """The engine of the protocol ``SpeechEngine``. 22.05 kHz; the seed has no effect, its voices draw nothing."""

    name = "espeak"
    voices = VOICES
    times_words = True

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise AssetError("synth.engine is espeak, which is not installed",
                             "pip install espeakng-loader (espeak-ng is GPL-3)") from None
        self.path, self.data = espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
        self.pieces: list[np.ndarray] = []
        self.events: list[tuple[int, int, int, bytes]] = []
        self.callback = CALLBACK(self.receive)  # kept: ctypes would free it
        with self.fresh_library() as library:
            library.espeak_Info.restype = ctypes.c_char_p
            self.version = library.espeak_Info(None).decode().split()[0]

    @contextlib.contextmanager
    def fresh_library(self) -> Iterator[Any]:
        try:
            library = ctypes.CDLL(self.path)
        except OSError as error:
            raise AssetError(f"espeak-ng cannot be loaded ({error})", "pip install espeakng-loader") from None
        try:
            self.sample_rate = library.espeak_Initialize(SYNCHRONOUS, 0, self.data.encode(), PHONEME_EVENTS)
            if self.sample_rate <= 0:
                raise AssetError("espeak-ng does not start", "pip install --force-reinstall espeakng-loader")
            library.espeak_SetSynthCallback(self.callback)
            yield library
            library.espeak_Terminate()
        finally:
            _ctypes.dlclose(library._handle)

    def receive(self, wave: ctypes._Pointer[ctypes.c_short], samples: int, events: ctypes._Pointer[Event]) -> int:
        if samples > 0:
            self.pieces.append(np.ctypeslib.as_array(wave, (samples,)).copy())
        i = 0
        while events[i].type != END:
            event = events[i]
            name = event.id.string if event.type == PHONEME else b""
            self.events.append((event.type, event.text_position, event.sample, name))
            i += 1
        return 0

    def say(self, text: str, voice: str, seed: int) -> Speech:
        check_voice(self, voice)
        spoken = speakable(text)
        self.pieces, self.events = [], []
        raw = spoken.text.encode()
        with self.fresh_library() as library:
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise AssetError(f"espeak-ng does not know voice {voice!r}", "choose another voice")
            library.espeak_SetParameter(RATE, WORDS_PER_MINUTE, 0)
            library.espeak_Synth(raw, len(raw) + 1, 0, 1, 0, UTF8, None, None)
            library.espeak_Synchronize()
        if not self.pieces:
            raise DataError("espeak-ng said nothing", "remove the sample")
        wave = np.concatenate(self.pieces).astype(np.float32) / 32768
        spans = self.spans(spoken.words, len(wave))
        return Speech(wave, self.sample_rate, word_times(spans, spoken.owner, spoken.n_words,
                                                         len(wave) / self.sample_rate))

    def spans(self, words: tuple[str, ...], samples: int) -> list[tuple[float, float] | None]:
        """Times of the spoken words. A word starts at its event and ends where its last sound does, at the next word or
        at a pause; words that espeak-ng merges ('of the') have no event of their own and stay None."""
        begins = np.cumsum([0] + [len(word) + 1 for word in words[:-1]]).tolist()
        starts: dict[int, int] = {}
        for kind, position, sample, _ in self.events:
            if kind == WORD:
                starts.setdefault(bisect_right(begins, position - 1) - 1, sample)
        sounds = [(sample, name.startswith(b"_") or not name) for kind, _, sample, name in self.events
                  if kind == PHONEME]
        spans: list[tuple[float, float] | None] = [None] * len(words)
        order = sorted(starts)
        for word, following in zip(order, [*order[1:], None], strict=True):
            start = starts[word]
            end = samples if following is None else starts[following]
            end = next((at for at, silent in sounds if silent and start < at < end), end)
            spans[word] = (start / self.sample_rate, max(start, end) / self.sample_rate)
        return spans
