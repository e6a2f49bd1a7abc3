"""Waveforms: decode, resample, cut, encode. Everything is mono float32 in [-1, 1]; a wave has shape ``[samples]``.

libsndfile (through soundfile) reads WAV, FLAC, MP3, Ogg Vorbis and Opus. Resampling is torchaudio's windowed sinc,
which is pure Python above torch: no binary extension and no codec library is needed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from salad_ds.errors import DataError

FORMATS = ("flac", "wav", "mp3", "opus", "ogg")
"""File name endings of audio in shards, all of them read by libsndfile."""
UNDECODABLE = (OSError, RuntimeError, ValueError, TypeError, MemoryError)
"""soundfile's own errors are RuntimeErrors; a damaged header may promise more samples than there is memory."""
LARGEST_FILTER = 1 << 24
"""Taps of all phases of a resampling filter: rates without a common divisor (16,001 to 16,000 Hz) take gigabytes."""


def decode(source: bytes | str | Path, start: float = 0.0, duration: float | None = None,
           channel: int | None = None) -> tuple[np.ndarray, int]:
    """Decode ``source`` (the file's bytes, or its path) to ``(wave, sample_rate)``.

    ``start`` and ``duration`` (seconds) select a part, which is sought and not read through; ``channel`` one channel,
    from 0: without it they are averaged.
    A float file louder than full scale is scaled down to it. Raises DataError for what does not decode, holds no
    samples, or holds NaN or infinity.
    """
    name = "audio" if isinstance(source, bytes) else str(source)
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as file:
            rate = int(file.samplerate)
            if start > 0:
                file.seek(min(round(start * rate), file.frames))
            wave = file.read(-1 if duration is None else round(duration * rate), dtype="float32", always_2d=True)
    except UNDECODABLE as error:
        raise undecodable(name, error) from None
    if channel is not None:
        if channel >= wave.shape[1]:
            raise DataError(f"{name} has no channel {channel}", "name one that it has")
        return checked(wave[:, channel], name), rate
    wave = wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1)
    return checked(wave, name), rate


def decode_spans(source: bytes, spans: Sequence[tuple[float, float]]) -> tuple[list[np.ndarray], int]:
    """The seconds ``[start, end)`` of each of ``spans`` of a file's bytes: ``(waves, sample_rate)``.

    What ``cut`` would take of the whole wave. Of a lossless file of integers only the spans are decoded: seeking in it
    is exact. Raises DataError as ``decode`` and ``cut`` do.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(source)) as file:
            rate, frames = int(file.samplerate), file.frames
            if file.format in ("FLAC", "WAV") and file.subtype.startswith("PCM_") and file.seekable() and frames > 0:
                waves = []
                for start, end in spans:
                    first, last = bounds(frames, rate, start, end)
                    file.seek(first)
                    wave = file.read(last - first, dtype="float32", always_2d=True)
                    waves.append(checked(wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1)))
                return waves, rate
    except UNDECODABLE as error:
        raise undecodable("audio", error) from None
    wave, rate = decode(source)
    return [cut(wave, rate, start, end) for start, end in spans], rate


def undecodable(name: str, error: Exception) -> DataError:
    # libsndfile's own words: str() would add the address of the bytes it read from.
    words = " ".join(str(getattr(error, "error_string", error)).split())
    return DataError(f"{name} does not decode ({words})", "replace or remove the file")


def checked(wave: np.ndarray, name: str = "audio") -> np.ndarray:
    """``wave`` as contiguous float32 in [-1, 1]; DataError when it is empty or not finite."""
    wave = np.ascontiguousarray(wave, dtype=np.float32)
    if wave.ndim != 1:
        raise DataError(f"{name} has shape {wave.shape}, not [samples]", "give a mono wave")
    if wave.size == 0:
        raise DataError(f"{name} holds no samples", "replace or remove the file")
    peak = float(np.abs(wave).max())
    if not np.isfinite(peak):
        raise DataError(f"{name} holds NaN or infinite samples", "replace or remove the file")
    return wave / np.float32(peak) if peak > 1 else wave


def probe(source: bytes | str | Path) -> tuple[float, int]:
    """``(seconds, sample_rate)`` from the header alone. Raises DataError as decode does."""
    name = "audio" if isinstance(source, bytes) else str(source)
    try:
        info = soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else str(source))
    except UNDECODABLE as error:
        raise undecodable(name, error) from None
    if info.frames <= 0 or info.samplerate <= 0:
        raise DataError(f"{name} holds no samples", "replace or remove the file")
    return info.frames / info.samplerate, int(info.samplerate)


def resample(wave: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """``wave`` at ``target_rate`` Hz: ``ceil(samples · target / source)`` samples, windowed-sinc interpolation."""
    if source_rate <= 0 or target_rate <= 0:
        raise DataError(f"sample rates {source_rate} and {target_rate} must be positive", "mend the sample's metadata")
    if source_rate == target_rate:
        return wave
    if source_rate * target_rate // math.gcd(source_rate, target_rate) ** 2 > LARGEST_FILTER:
        raise DataError(f"{source_rate} Hz cannot be resampled to {target_rate} Hz: they have too little in common",
                        "mend the file's header, or resample it first")
    import torch  # torch is slow to load, and whoever has the right rate already does not need it

    with torch.inference_mode():
        return _resampler(source_rate, target_rate)(torch.from_numpy(np.ascontiguousarray(wave))).numpy()


@lru_cache(maxsize=16)
def _resampler(source_rate: int, target_rate: int) -> Any:
    """Its filters are computed once: for 22,050 to 16,000 Hz that is two thirds of the time of a short span."""
    from torchaudio.transforms import Resample

    return Resample(source_rate, target_rate)


def encode_flac(wave: np.ndarray, sample_rate: int) -> bytes:
    """``wave`` as a 16-bit FLAC file. ``decode(encode_flac(w, r))`` differs from ``w`` by half a 16-bit step at most
    (a whole one at +1.0), and a second round changes nothing."""
    wave = checked(wave)
    pcm = np.clip(np.rint(wave.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, pcm, sample_rate, format="FLAC", subtype="PCM_16")
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise DataError(f"FLAC cannot hold this wave at {sample_rate} Hz ({error})", "resample it first") from None
    return buffer.getvalue()


def cut(wave: np.ndarray, sample_rate: int, start: float, end: float) -> np.ndarray:
    """The samples of ``[start, end)`` seconds, clamped to the wave. DataError when nothing is left."""
    first, last = bounds(len(wave), sample_rate, start, end)
    return wave[first:last]


def bounds(samples: int, sample_rate: int, start: float, end: float) -> tuple[int, int]:
    """``[first, last)`` of the seconds ``[start, end)`` among ``samples``. DataError when nothing is left."""
    first, last = max(round(start * sample_rate), 0), min(round(end * sample_rate), samples)
    if last <= first:
        raise DataError(f"cut {start:.3f}-{end:.3f} s holds no samples of a wave of {samples / sample_rate:.3f} s",
                        "align the utterance again")
    return first, last
