"""Speech that goes into a page: small, whole, and the same bytes every time."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.audio import decode
from salad_ds.select.clips import CLIP_BYTES, SECONDS, checksum, data_uri, excerpt, numbered, opus


def buzz(seconds: float, rate: int = 24000) -> np.ndarray:
    """A voice-like wave: harmonics that rise and fall, and noise."""
    t = np.arange(round(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * 120 * k * t + np.sin(3 * t)) / k for k in range(1, 20))
    noise = np.random.default_rng(0).standard_normal(len(t)) * 0.05
    return ((tone * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * t)) + noise) * 0.2).clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.3, 4.0, 11.0, 15.0])
def test_a_clip_is_small_whole_and_the_same_every_time(seconds):
    wave = buzz(seconds)
    sound = opus(wave, 24000)
    assert sound == opus(wave, 24000) and len(sound) < 1.12 * CLIP_BYTES
    back, rate = decode(sound)
    assert len(back) / rate == pytest.approx(seconds, abs=0.03)
    loudest = np.fft.rfftfreq(len(back), 1 / rate)[np.abs(np.fft.rfft(back)).argmax()]
    assert loudest == pytest.approx(120, abs=25), "it still buzzes"


def test_what_is_long_is_cut_and_fades():
    whole = buzz(3.0)
    assert excerpt(whole, 24000)[0] is whole and excerpt(whole, 24000)[1] is False
    part, cut = excerpt(np.ones(round(20 * 16000), np.float32), 16000)
    assert cut and len(part) == SECONDS * 16000 and part[0] == 1 and part[-1] == 0 and (np.diff(part) <= 0).all()


def test_the_pages_keep_libogg_s_own_checksums(tmp_path):
    """Against a file as libsndfile writes it: the stored checksums are those of libogg."""
    path = tmp_path / "a.ogg"
    soundfile.write(path, buzz(2.0, 16000), 16000, format="OGG", subtype="OPUS")
    data = path.read_bytes()
    at = pages = 0
    while at < len(data):
        size = 27 + data[at + 26] + sum(data[at + 27:at + 27 + data[at + 26]])
        page = bytearray(data[at:at + size])
        stored = int.from_bytes(page[22:26], "little")
        page[22:26] = bytes(4)
        assert checksum(bytes(page)) == stored
        at, pages = at + size, pages + 1
    assert pages >= 3
    serial = int.from_bytes(data[14:18], "little")
    assert numbered(data, serial) == data and numbered(numbered(data, 1), serial) == data


def slow_checksum(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)
            value &= 0xFFFFFFFF
    return value


@settings(max_examples=100)
@given(st.binary(max_size=60))
def test_the_checksum_is_ogg_s(data):
    assert checksum(data) == slow_checksum(data)


def test_the_uri_names_what_browsers_play():
    assert data_uri(b"OggS").startswith("data:audio/ogg;base64,T2dn")
