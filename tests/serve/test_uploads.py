"""What is heard of an upload, and one clear reason for each that cannot be."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from salad_ds.audio import decode
from salad_ds.serve.limits import Limits, Refused
from salad_ds.serve.uploads import Clips, read_clip
from tests.serve.conftest import wav

pytestmark = pytest.mark.assets
LIMITS = Limits(seconds=4.0)


@pytest.mark.parametrize("kind, subtype", [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"),
                                           ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])  # fmt: skip
@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_sent_is_what_is_heard(human, kind, subtype, channels):
    wave, rate = decode(human[0])
    clip = read_clip(wav(np.stack([wave] * channels, 1), rate, subtype, kind), LIMITS)
    assert clip.rate in (rate, 48000) and clip.seconds == pytest.approx(len(wave) / rate, abs=0.08)
    assert clip.notice == "" and 0.5 < np.sqrt((clip.wave**2).mean() / (wave**2).mean()) < 1.5
    if subtype.startswith("PCM"):
        assert np.array_equal(clip.wave, wave)


def test_a_silent_clip_is_heard_and_said_to_be_silent():
    assert "silent" in read_clip(wav(np.zeros(8000), 16000), LIMITS).notice


def headers_lie(human: bytes) -> bytes:
    """A WAV that claims 2 GHz."""
    return human[:24] + (2_000_000_000).to_bytes(4, "little") + human[28:]


def faulty(human: bytes) -> dict[str, tuple[bytes, int, str]]:
    """name → (bytes, status, words of the error)."""
    wave, rate = decode(human)
    flac, ogg = wav(wave, rate, "PCM_16", "FLAC"), wav(wave, rate, "VORBIS", "OGG")
    mp3 = wav(wave, rate, "MPEG_LAYER_III", "MP3")
    long = np.random.default_rng(0).uniform(-0.1, 0.1, 5 * 16000)
    return {
        "empty": (b"", 400, "the upload is empty"),
        "html": (b"<html><body>no</body></html>" * 40, 415, "not audio"),
        "noise": (np.random.default_rng(1).bytes(5000), 415, "not audio"),
        "png": (b"\x89PNG\r\n\x1a\n" + bytes(500), 415, "not audio"),
        "zeros": (bytes(5000), 415, "not audio"),
        "header alone": (human[:44], 400, "breaks off"),
        "half a header": (human[:20], 415, "not audio"),
        "half a WAV": (human[: len(human) // 2], 400, "breaks off"),
        "a byte less": (human[:-1], 400, "breaks off"),
        "half a FLAC": (flac[: len(flac) // 2], 400, "breaks off"),
        "half an Ogg": (ogg[: len(ogg) // 2], 400, "breaks off"),
        "no samples": (wav(np.zeros(0), 16000), 400, "no sound"),
        "a click": (wav(np.ones(800), 16000), 400, "0.05 s long"),
        "too long": (wav(long, 16000), 413, "5.0 s long; at most 4 s"),
        "too long MP3": (wav(long, 16000, "MPEG_LAYER_III", "MP3"), 413, "s long; at most 4 s"),
        "too long Ogg": (wav(long, 16000, "VORBIS", "OGG"), 413, "5.0 s long; at most 4 s"),
        "NaN": (wav(np.full(8000, np.nan), 16000, "FLOAT"), 415, "NaN"),
        "2 GHz": (headers_lie(human), 415, "claims 2000000000 Hz"),
        "16 channels": (wav(np.zeros((8000, 16)), 16000), 415, "16 channels"),
        "mp3 without a frame": (mp3[:60], 415, "not audio"),
    }


@pytest.mark.parametrize("name", list(faulty(wav(np.ones(16000) / 2, 16000))))
def test_a_bad_upload_is_refused_with_its_reason(human, name):
    data, status, words = faulty(human[0])[name]
    with pytest.raises(Refused, match=words) as caught:
        read_clip(data, LIMITS)
    assert caught.value.status == status and caught.value.mend and "\n" not in caught.value.what
    assert "0x" not in caught.value.what, "no address of memory"


def test_a_wav_that_was_written_into_a_pipe_is_no_broken_one(human):
    """Its writer did not know the length: ffmpeg leaves 4 GB there, others 0."""
    at = human[0].index(b"data") + 4
    whole = read_clip(human[0], LIMITS).wave
    for size in (0xFFFFFFFF, 0x7FFFFFFF):
        piped = human[0][:at] + size.to_bytes(4, "little") + human[0][at + 4:]
        assert np.array_equal(read_clip(piped, LIMITS).wave, whole)


def test_few_compressed_bytes_do_not_become_much_memory():
    """An hour of silence in a small FLAC: refused from its header."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 8000, 1, "PCM_16", format="FLAC") as file:
        for _ in range(60):
            file.write(np.zeros(8000 * 60, np.int16))
    with pytest.raises(Refused, match="3600"):
        read_clip(buffer.getvalue(), LIMITS)
    assert buffer.tell() < 300_000


def test_clips_give_way_to_newer_ones(human):
    clips, clip = Clips(room=2), read_clip(human[0], LIMITS)
    first, second = clips.add(clip), clips.add(clip)
    assert first != second and len(first) >= 20
    assert clips.get(first) is clip  # used: now the second is the oldest
    third = clips.add(clip)
    assert clips.get(first) is clips.get(third) is clip
    for gone in (second, "", "../x"):
        with pytest.raises(Refused, match="no longer here"):
            clips.get(gone)
