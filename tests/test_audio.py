"""Waveforms: what decodes, what does not, and that cutting and resampling keep time."""

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.audio import cut, decode, decode_spans, encode_flac, probe, resample
from salad_ds.errors import DataError


def tone(seconds=0.5, rate=16000, frequency=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def written(wave, rate=16000, **how):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, **how)
    return buffer.getvalue()


@given(st.integers(1, 4000), st.sampled_from([8000, 16000, 22050, 24000, 48000]), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_flac_keeps_the_wave_to_half_a_step_and_then_for_ever(samples, rate, seed):
    wave = np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32)
    once, got = decode(encode_flac(wave, rate))
    assert got == rate and once.dtype == np.float32
    assert np.abs(once - wave).max() <= 1 / 32768
    assert encode_flac(once, rate) == encode_flac(wave, rate)


@pytest.mark.parametrize("how", [{"format": "WAV"}, {"format": "WAV", "subtype": "FLOAT"}, {"format": "FLAC"},
                                 {"format": "MP3"}, {"format": "OGG", "subtype": "VORBIS"},
                                 {"format": "OGG", "subtype": "OPUS"}])
def test_formats_decode(how):
    wave, rate = decode(written(tone(), **how))
    assert rate == 16000 and wave.ndim == 1 and abs(len(wave) - 8000) < 2500  # MP3 pads
    assert 0.4 < np.abs(wave).max() < 0.7


def test_stereo_is_averaged_and_parts_are_sought(tmp_path):
    left, right = tone(), tone(frequency=880)
    path = tmp_path / "a.wav"
    path.write_bytes(written(np.stack([left, right], 1), format="WAV", subtype="FLOAT"))
    whole, _ = decode(path)
    np.testing.assert_allclose(whole, (left + right) / 2, atol=1e-6)
    part, _ = decode(path, start=0.1, duration=0.2)
    np.testing.assert_array_equal(part, whole[1600:4800])
    assert probe(path) == (0.5, 16000)


@pytest.mark.parametrize("raw, reason", [
    (b"", "does not decode"), (b"not audio at all", "does not decode"),
    (written(np.zeros(0, np.float32), format="WAV"), "no samples"),
    (written(np.array([0.0, np.nan], np.float32), format="WAV", subtype="FLOAT"), "NaN"),
    (written(np.array([0.0, np.inf], np.float32), format="WAV", subtype="FLOAT"), "NaN"),
], ids=["empty", "text", "no samples", "nan", "infinite"])  # a WAV holds the time when it was written
def test_unusable_audio_is_a_data_error(raw, reason):
    with pytest.raises(DataError, match=reason):
        decode(raw)


def test_a_header_that_promises_more_than_memory_holds_is_a_data_error():
    raw = bytearray(encode_flac(tone(), 16000))
    raw[21] |= 0x0F  # the upper bits of the number of samples: 2 ** 36 and some, 256 GiB
    raw[22] = 0xFF
    with pytest.raises(DataError, match="does not decode"):
        decode(bytes(raw))


def test_rates_that_would_take_gigabytes_to_resample_are_refused():
    with pytest.raises(DataError, match="16001 Hz cannot be resampled to 16000 Hz"):
        resample(tone(), 16001, 16000)


def test_a_truncated_flac_and_a_missing_file_are_data_errors(tmp_path):
    with pytest.raises(DataError):
        decode(encode_flac(tone(), 16000)[:20])
    with pytest.raises(DataError, match="none.wav"):
        decode(tmp_path / "none.wav")


def test_louder_than_full_scale_is_scaled_down():
    wave, _ = decode(written(tone(level=0.5) * 30000, format="WAV", subtype="FLOAT"))
    np.testing.assert_allclose(wave, tone(level=1.0), atol=1e-3)


@pytest.mark.parametrize("source, target",
                         [(16000, 24000), (24000, 16000), (22050, 16000), (11025, 16000), (8000, 8000)])
def test_resampling_keeps_a_tone_and_the_length(source, target):
    got = resample(tone(rate=source), source, target)
    want = tone(rate=target)
    assert got.dtype == np.float32 and abs(len(got) - len(want)) <= 1
    middle = slice(len(want) // 4, 3 * len(want) // 4)
    np.testing.assert_allclose(got[middle], want[middle], atol=5e-3)


@given(st.floats(0, 0.5), st.floats(0, 0.6))
def test_cuts_tile_the_wave(first, second):
    wave, (a, b) = tone(), sorted((first, second))
    pieces = []
    for start, end in ((0, a), (a, b), (b, 1.0)):
        try:
            pieces.append(cut(wave, 16000, start, end))
        except DataError:
            assert round(min(end, 0.5) * 16000) <= round(start * 16000)
    np.testing.assert_array_equal(np.concatenate(pieces), wave)


FILES = [("FLAC", "PCM_16"), ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("OGG", "VORBIS")]


@pytest.mark.parametrize("ending, subtype", FILES)
@pytest.mark.parametrize("channels", [1, 2])
def test_spans_are_what_cut_takes_of_the_whole(ending, subtype, channels):
    """To the bit, whether they are sought or cut: in order, out of order, over the end. The float file is too loud."""
    rng = np.random.default_rng(4)
    wave = (rng.standard_normal((50_001, channels)) * (0.7 if subtype == "FLOAT" else 0.1)).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 16000, format=ending, subtype=subtype)
    whole, rate = decode(buffer.getvalue())
    spans = [(0.0, 0.5), (2.9, 9.0), (1.00003, 2.2), (0.7, 0.70004)]
    waves, at = decode_spans(buffer.getvalue(), spans)
    assert at == rate == 16000
    for (start, end), found in zip(spans, waves, strict=True):
        assert found.dtype == np.float32 and np.array_equal(found, cut(whole, rate, start, end))
    with pytest.raises(DataError, match="holds no samples"):
        decode_spans(buffer.getvalue(), [(0.0, 1.0), (4.0, 5.0)])
    with pytest.raises(DataError, match="does not decode"):
        decode_spans(b"fLaC" + bytes(300), [(0.0, 1.0)])
