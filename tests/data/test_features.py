"""The sidecar of cached frames: what is put in comes out, only what is asked for is read, nothing foreign is used."""

from __future__ import annotations

import pickle
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from salad_ds.audio import encode_flac
from salad_ds.data import features
from salad_ds.data.features import (
    FrameCache,
    FrameFormat,
    features_path,
    head_of,
    open_features,
    require_features,
    write_features,
)
from salad_ds.data.shards import Sample, ShardSet, ShardWriter
from salad_ds.errors import DataError

HALF = FrameFormat("whisper-6-abc", "float16", 6)
CODES = FrameFormat("mimi-8-abc", "codes", 32, 11)


@pytest.fixture
def shards(tmp_path) -> ShardSet:
    """Seven recordings in shards of three; only their keys and number matter."""
    wave = encode_flac(np.zeros(1600, np.float32), 16000)
    with ShardWriter(tmp_path / "speech", "silence", 3) as writer:
        for i in range(7):
            writer.add(Sample(f"s{i}", {"text": "a b", "duration": 0.1, "sample_rate": 16000}, wave))
    return ShardSet.open(tmp_path / "speech")


def frames_of(i: int, form: FrameFormat = HALF) -> np.ndarray:
    rng = np.random.default_rng(i)
    if form.dtype == "codes":
        return rng.integers(0, 1 << form.bits, (3 + i, form.width)).astype(np.int16)
    return rng.standard_normal((3 + i, form.width)).astype(np.float32)


def fill(shards: ShardSet, form: FrameFormat = HALF, leave_out: tuple[int, ...] = ()) -> None:
    for number in range(len(shards.shards)):
        samples = list(shards.samples_in(number))
        keys, counts = [shards.entry(i).key for i in samples], [3 + i for i in samples]
        with write_features(features_path(shards, number), form, shards.sha256(number), keys, counts) as put:
            for place in reversed(range(len(samples))):
                if samples[place] not in leave_out:
                    put(place, frames_of(samples[place], form))


@settings(max_examples=60)
@given(st.data(), st.integers(1, 15), st.integers(1, 40), st.integers(0, 9))
def test_codes_are_packed_and_unpacked(data, bits, width, n):
    form = FrameFormat("x", "codes", width, bits)
    codes = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 1 << bits, (n, width)).astype(np.int16)
    packed = form.pack(codes)
    assert packed.shape == (n, form.columns) and packed.dtype == np.uint8 and form.columns == -(-width * bits // 8)
    found = form.unpack(packed)
    assert found.dtype == np.int16 and np.array_equal(found, codes)
    with pytest.raises(DataError, match=f"do not fit {bits} bits"):
        form.pack(np.full((1, width), 1 << bits, np.int32))


def test_a_second_of_mimi_takes_half_a_kilobyte():
    assert CODES.frame_bytes == 44 and CODES.frame_bytes * 12.5 == 550


@pytest.mark.parametrize("form", [HALF, replace(HALF, dtype="float32"), CODES], ids=lambda form: form.dtype)
def test_what_is_put_in_comes_out(shards, form):
    fill(shards, form)
    require_features([shards.directory], form)
    cache = FrameCache(shards, form)
    for again in (cache, pickle.loads(pickle.dumps(cache))):
        for i in range(7):
            again.require(i, 3 + i)
            found, wanted = again.read(i, 1, 2 + i), frames_of(i, form)[1 : 2 + i]
            assert type(found) is np.ndarray and found.flags.owndata
            assert np.array_equal(found, wanted.astype(found.dtype)) and found.dtype == form.silence(1).dtype
    with safe_open(features_path(shards, 0), "np") as file:  # any reader of safetensors finds its way
        assert set(file.keys()) == {"starts", "counts", "frames", "keys"}
        assert file.get_slice("frames").get_shape() == [3 + 4 + 5, form.columns]
    for number in range(3):
        open_features(features_path(shards, number)).verify()


def test_the_same_frames_give_the_same_bytes(shards):
    fill(shards)
    before = [features_path(shards, number).read_bytes() for number in range(3)]
    fill(shards)
    assert [features_path(shards, number).read_bytes() for number in range(3)] == before
    assert not list(shards.directory.glob(".*.part"))


def test_what_could_not_be_encoded_is_missing_by_name(shards):
    fill(shards, leave_out=(1,))
    cache = FrameCache(shards, HALF)
    with pytest.raises(DataError, match="has no cached features"):
        cache.require(1, 4)
    with pytest.raises(DataError, match="has 5 cached frames, its length means 6"):
        cache.require(2, 6)
    assert np.array_equal(cache.read(2, 0, 5), frames_of(2).astype(np.float16))


def test_frames_that_float16_cannot_hold_are_refused(shards):
    with pytest.raises(DataError, match="do not fit float16.*1e.05"):
        HALF.pack(np.full((2, 6), 1e5, np.float32))
    with pytest.raises(DataError, match="do not fit"), write_features(
        features_path(shards, 0), HALF, shards.sha256(0), ["s0"], [1]
    ) as put:
        put(0, np.full((1, 6), np.nan, np.float32))
    assert not features_path(shards, 0).exists() and not list(shards.directory.glob(".*.part"))


def test_reading_touches_the_asked_frames_alone(tmp_path):
    """A sidecar of a tebibyte with holes: whoever read more of it than a span would not come back."""
    path, form, rows = tmp_path / "large.features.safetensors", FrameFormat("x", "float32", 512), 1 << 29
    end = 24 + rows * form.frame_bytes
    tensors = {"starts": ("I64", [2], 0, 16), "counts": ("I64", [1], 16, 24), "frames": ("F32", [rows, 512], 24, end)}
    tensors["keys"] = ("U8", [1], end, end + 1)
    head = head_of(
        {**form.header("0"), "samples": 1, "sha256": ""},
        {name: {"dtype": kind, "shape": shape, "data_offsets": at} for name, (kind, shape, *at) in tensors.items()},
    )
    with open(path, "wb") as file:
        file.write(head + np.array([0, rows, rows], np.int64).tobytes())
        file.seek(len(head) + end - form.frame_bytes)
        file.write(np.arange(512, dtype=np.float32).tobytes() + b"k")
    opened = open_features(path)
    assert np.array_equal(opened.read("k", rows - 1, rows), np.arange(512, dtype=np.float32)[None])
    assert np.array_equal(opened.read("k", 7, 9), np.zeros((2, 512)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"encoder": "whisper-6-other"}, "encoder whisper-6-abc, not whisper-6-other"),
        ({"dtype": "float32"}, "dtype float16, not float32"),
        ({"width": 7}, "width 6, not 7"),
    ],
)
def test_frames_of_another_encoder_are_refused_by_name(shards, change, told):
    fill(shards)
    with pytest.raises(DataError, match=f"000000.features.safetensors has {told}"):
        require_features([shards.directory], replace(HALF, **change))
    with pytest.raises(DataError, match=told):
        FrameCache(shards, replace(HALF, **change)).require(0, 3)


def test_frames_of_another_tar_and_missing_ones_are_refused(shards):
    with pytest.raises(DataError, match="000000.features.safetensors is missing") as caught:
        require_features([shards.directory])
    assert "salad-ds encode" in caught.value.mend
    fill(shards)
    with write_features(features_path(shards, 1), HALF, "0" * 64, ["a"], [1]) as put:
        put(0, np.zeros((1, 6)))
    with pytest.raises(DataError, match="holds the frames of another 000001.tar"):
        require_features([shards.directory], HALF)


def test_open_sidecars_are_bounded_in_bytes(shards, monkeypatch):
    """Of big shards fewer stay open than of small ones."""
    fill(shards)
    for limit, kept in ((1 << 20, len(shards.shards)), (100, 1)):
        monkeypatch.setattr(features, "SIDECAR_BYTES", limit)
        cache = FrameCache(shards, HALF)
        for index in range(len(shards)):
            cache.read(index, 0, 1)
        assert len(cache._sidecars.kept) == kept


def test_damage_is_found(shards):
    fill(shards)
    path = features_path(shards, 0)
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    for cut in (0, 5, 40, 8 + length, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="000000.features.safetensors is damaged"):
            open_features(path)
    for place in (length + 8, len(whole) // 2 + length // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DataError, match="damaged"):
            open_features(path).verify()
    at = whole.index(b"abc")
    path.write_bytes(whole[:at] + b"abd" + whole[at + 3 :])
    with pytest.raises(DataError, match="its header was changed"):
        require_features([shards.directory])
