"""An upload → a clip that can be heard, or the reason why not. Clips live in memory only, and few of them."""

from __future__ import annotations

import io
import secrets
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import soundfile

from salad_ds.audio import UNDECODABLE, decode
from salad_ds.errors import DataError
from salad_ds.serve.limits import CLIPS, Limits, Refused

SHORTEST = 0.1
"""Seconds: less is a click on the button, not a word."""
RATES, CHANNELS = (2000, 192_000), 8
"""Of a file that is read at all: they bound the memory that a few compressed bytes can ask for."""
SILENT = 1e-3
"""Peak below which a clip is called silent (-60 dB of full scale)."""


@dataclass(frozen=True)
class Clip:
    """``wave``: float32 [samples] at ``rate`` Hz. ``notice``: what the visitor should know about it, or empty."""

    wave: np.ndarray
    rate: int
    notice: str = ""

    @property
    def seconds(self) -> float:
        return len(self.wave) / self.rate


def read_clip(data: bytes, limits: Limits) -> Clip:
    """Decode an upload. Raises Refused: 400 for what is empty, cut off or without sound, 413 for what is too long, 415
    for what libsndfile does not read."""
    if not data:
        raise Refused(400, "the upload is empty", "record something, or choose a file with sound in it")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            frames, rate, channels, kind = file.frames, int(file.samplerate), file.channels, file.format
    except UNDECODABLE:
        raise Refused(415, "this is not audio that can be read", "give WAV, FLAC, MP3, Ogg Vorbis or Opus") from None
    if not RATES[0] <= rate <= RATES[1] or channels > CHANNELS:
        raise Refused(415, f"the file claims {rate} Hz and {channels} channels",
                      f"give {RATES[0]} to {RATES[1]} Hz and at most {CHANNELS} channels")
    if frames > limits.seconds * rate:
        raise too_long(frames / rate, limits)
    if cut_off(data, kind):
        raise broken()
    try:
        wave, rate = decode(data, duration=limits.seconds + 1)
    except DataError as error:
        if "no samples" in error.what:
            raise Refused(400, "the file holds no sound", "record something, or choose another file") from None
        if "decode" in error.what:  # its header was read
            raise broken() from None
        raise Refused(415, error.what, "give another file") from None
    if len(wave) > limits.seconds * rate:  # the header was silent about it
        raise too_long(len(wave) / rate, limits)
    if kind == "FLAC" and len(wave) < frames:
        raise broken()
    if len(wave) < SHORTEST * rate:
        raise Refused(400, f"the clip is only {len(wave) / rate:.2f} s long", f"give at least {SHORTEST:g} s")
    peak = float(np.abs(wave).max())
    return Clip(wave, rate, "This clip is silent: is the right microphone switched on?" if peak < SILENT else "")


def too_long(seconds: float, limits: Limits) -> Refused:
    return Refused(413, f"the clip is {seconds:.1f} s long; at most {limits.seconds:g} s are heard here",
                   "give a shorter one")


def broken() -> Refused:
    return Refused(400, "the file is damaged, or breaks off in the middle", "upload it again, or choose another one")


def cut_off(data: bytes, kind: str) -> bool:
    """Whether a WAV has fewer bytes than it promises, or an Ogg file lacks its last page: libsndfile reads what is left
    of them without a word. (A WAV that was written into a pipe promises 0 or 4 GB: that is no promise.)"""
    if kind in ("WAV", "WAVEX") and data[:4] == b"RIFF":
        at = data.find(b"data", 12)
        promised = int.from_bytes(data[at + 4:at + 8], "little")
        return 0 < promised < 0x7FFFFF00 and at + 8 + promised > len(data)
    if kind == "OGG":
        last = data.rfind(b"OggS")
        return not data[last + 5] & 4 if len(data) > last + 5 else True
    return False


class Clips:
    """Uploads by a name that cannot be guessed."""

    def __init__(self, room: int = CLIPS) -> None:
        self.room = room
        self.held: OrderedDict[str, Clip] = OrderedDict()

    def add(self, clip: Clip) -> str:
        name = secrets.token_urlsafe(18)
        self.held[name] = clip
        while len(self.held) > self.room:
            self.held.popitem(last=False)
        return name

    def get(self, name: str) -> Clip:
        """Raises Refused for a clip that is not, or no longer, here."""
        if name not in self.held:
            raise Refused(404, "this clip is no longer here", "record it or upload it again")
        self.held.move_to_end(name)
        return self.held[name]
