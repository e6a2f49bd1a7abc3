"""Speech for a page: short excerpts in Opus, small enough that many of them fit into one file.

Byte for byte the same for the same wave: libsndfile gives an Ogg stream a random serial number, which is replaced here.
"""

from __future__ import annotations

import base64
import io
import zlib

import numpy as np
import soundfile

from salad_ds.audio import resample

CLIP_BYTES = 15_000
"""What an excerpt is to take. Short ones get more bits per second, long ones are cut."""
SLOWEST, FASTEST = 8_000, 16_000
"""Bits per second of Opus: below, words suffer; above, nobody hears a difference in synthetic speech."""
SECONDS = CLIP_BYTES * 8 / SLOWEST
RATE = 16_000
FADE = 0.15
"""Seconds over which a cut excerpt falls silent."""
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def excerpt(wave: np.ndarray, rate: int) -> tuple[np.ndarray, bool]:
    """``(wave, whether it was cut)``: at most SECONDS of it, faded out where something is missing."""
    most = int(SECONDS * rate)
    if len(wave) <= most:
        return wave, False
    part, fade = wave[:most].copy(), int(FADE * rate)
    part[most - fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return part, True


def opus(wave: np.ndarray, rate: int) -> bytes:
    """Mono float32 [samples] as an Ogg file of Opus, some CLIP_BYTES for an ``excerpt``."""
    wave = resample(wave, rate, RATE)
    bits = min(max(CLIP_BYTES * 8 * RATE / len(wave), SLOWEST), FASTEST)
    buffer = io.BytesIO()
    # libsndfile maps levels 0 to 1 to 256,000 to 6,000 bits per second and channel
    soundfile.write(buffer, wave, RATE, format="OGG", subtype="OPUS", compression_level=1 - (bits - 6_000) / 250_000)
    return numbered(buffer.getvalue(), 1)


def numbered(data: bytes, serial: int) -> bytes:
    """An Ogg file with this serial number in every page (RFC 3533), and the checksums that go with it."""
    pages, at = [], 0
    while at < len(data):
        lacing = data[at + 27:at + 27 + data[at + 26]]
        page = bytearray(data[at:at + 27 + len(lacing) + sum(lacing)])
        page[14:18] = serial.to_bytes(4, "little")
        page[22:26] = bytes(4)
        page[22:26] = checksum(bytes(page)).to_bytes(4, "little")
        pages.append(bytes(page))
        at += len(page)
    return b"".join(pages)


def checksum(page: bytes) -> int:
    """Ogg's CRC (polynomial 0x04c11db7, from 0, highest bit first), by zlib's, which takes bits the other way round."""
    mirrored = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def data_uri(sound: bytes) -> str:
    return f"data:audio/ogg;base64,{base64.b64encode(sound).decode()}"
