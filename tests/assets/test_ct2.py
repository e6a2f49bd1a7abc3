"""The CTranslate2 reader: what is written in the documented layout is read; anything else is refused by name."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.assets import ct2
from salad_ds.errors import AssetError

CODES = {np.dtype("f4"): 0, np.dtype("i1"): 1, np.dtype("i2"): 2, np.dtype("i4"): 3, np.dtype("f2"): 4}


def string(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def written(weights: dict[str, np.ndarray], aliases: dict[str, str], version: int = 6) -> bytes:
    out = struct.pack("<I", version) + string("WhisperSpec") + struct.pack("<II", 3, len(weights))
    for name, value in weights.items():
        out += string(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        out += struct.pack("<BI", CODES[value.dtype], value.nbytes) + value.tobytes()
    out += struct.pack("<I", len(aliases))
    for alias, name in aliases.items():
        out += string(alias) + string(name)
    return out


WEIGHTS = {"encoder/w": np.arange(6, dtype="f2").reshape(2, 3), "scale": np.array(0.5, "f4"),
           "q": np.arange(4, dtype="i1")}


def test_reads_what_was_written():
    model = ct2.read(written(WEIGHTS, {"decoder/w": "encoder/w"}))
    assert model.spec == "WhisperSpec" and set(model.weights) == {*WEIGHTS, "decoder/w"}
    for name, value in WEIGHTS.items():
        assert model.weights[name].dtype == value.dtype and np.array_equal(model.weights[name], value)
    assert model.fp32("decoder/w").dtype == np.float32
    with pytest.raises(AssetError, match="no weight 'x'"):
        model.fp32("x")


@given(st.integers(0, len(written(WEIGHTS, {})) - 1))
def test_a_file_cut_short_anywhere_is_refused(length):
    with pytest.raises(AssetError):
        ct2.read(written(WEIGHTS, {})[:length])


@given(st.binary(max_size=200))
def test_noise_is_refused_or_read_but_never_crashes(noise):
    for data in (noise, written(WEIGHTS, {})[:20] + noise):
        try:
            ct2.read(data)
        except AssetError:
            pass


def test_other_versions_are_refused():
    with pytest.raises(AssetError, match="it says 4"):
        ct2.read(written(WEIGHTS, {}, version=4))
