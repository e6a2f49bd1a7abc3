"""The codec gives back what it was given, to the error it states, in the bytes it promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.errors import StoreError
from salad_ds.teacher.codec import DEEPEST, LEVELS, EliasFano, FixedWidthCodec, make_codec
from salad_ds.teacher.sampling import Record


def random_record(rng: np.random.Generator, rows: int, vocab: int, k: int, m: int, depth: float) -> Record:
    top = np.sort(np.stack([rng.choice(vocab, k, replace=False) for _ in range(rows)]).reshape(rows, k), axis=1)
    log_probs = (-rng.random((rows, k)) * depth - math.log(k)).astype(np.float32)
    tail = (1 - np.exp(log_probs.astype(np.float64)).sum(1)).clip(0, 1).astype(np.float32)
    drawn = np.sort(rng.integers(0, vocab, (rows, m)), axis=1)
    return Record(top, log_probs, tail, rng.random(rows).astype(np.float32) * 10, drawn)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), vocab=st.sampled_from([3, 7, 256, 49152, 65536, 65537, 151936, 262144]),
       k=st.integers(1, 160), m=st.integers(0, 40), rows=st.integers(1, 5), depth=st.floats(0.0, 90.0))
def test_round_trip(seed: int, vocab: int, k: int, m: int, rows: int, depth: float) -> None:
    k = min(k, vocab)
    record = random_record(np.random.default_rng(seed), rows, vocab, k, m, depth)
    codec = make_codec("ef1", vocab, k, m)
    data = np.frombuffer(codec.encode(record), dtype=np.uint8)
    assert len(data) == rows * codec.row_bytes
    back = codec.decode(data, rows)
    np.testing.assert_array_equal(back.top_ids, record.top_ids)
    np.testing.assert_array_equal(back.drawn_ids, record.drawn_ids)
    np.testing.assert_array_equal(back.tail, record.tail)
    np.testing.assert_array_equal(back.entropy, record.entropy)
    span = -record.top_log_probs.min(1, keepdims=True)
    bound = span * (1 + 2**-10) / LEVELS / 2 + 4e-6 * (1 + span)  # half a step, and float32's own rounding
    assert (np.abs(back.top_log_probs - record.top_log_probs) <= bound).all()
    picked = np.random.default_rng(seed).integers(0, rows, 3)
    np.testing.assert_array_equal(codec.decode(data, rows, picked).top_ids, record.top_ids[picked])


def test_weights_sum_to_one_after_rounding() -> None:
    record = random_record(np.random.default_rng(1), 64, 151936, 128, 32, 20.0)
    codec = FixedWidthCodec(151936, 128, 32)
    weights = codec.decode(np.frombuffer(codec.encode(record), dtype=np.uint8), 64).targets().weights
    np.testing.assert_allclose(weights.double().sum(1).numpy(), 1.0, atol=1e-6)


def test_what_lies_too_deep_is_cut_off() -> None:
    record = Record(np.array([[0, 5]]), np.array([[0.0, -np.inf]], dtype=np.float32), np.zeros(1, np.float32),
                    np.zeros(1, np.float32), np.zeros((1, 0), np.int64))
    codec = FixedWidthCodec(9, 2, 0)
    back = codec.decode(np.frombuffer(codec.encode(record), dtype=np.uint8), 1)
    np.testing.assert_allclose(back.top_log_probs, [[0.0, -DEEPEST]], rtol=1e-3)


@pytest.mark.parametrize(("vocab", "ids"), [(151936, 195), (49152, 168)])
def test_ids_lie_near_their_entropy(vocab: int, ids: int) -> None:
    k = 128
    bound = (math.lgamma(vocab + 1) - math.lgamma(k + 1) - math.lgamma(vocab - k + 1)) / math.log(2) / 8
    assert EliasFano(vocab, k).bytes == ids <= bound * 1.06


def test_bytes_of_the_default_record() -> None:
    assert FixedWidthCodec(49152, 128, 32).row_bytes == 484
    assert FixedWidthCodec(151936, 128, 32).row_bytes == 518


def test_unknown_codec_and_bytes_that_are_not_a_record() -> None:
    with pytest.raises(StoreError, match="'zz9'"):
        make_codec("zz9", 10, 2, 0)
    codec = FixedWidthCodec(1000, 4, 2)
    with pytest.raises(StoreError, match="bytes instead of"):
        codec.decode(np.zeros(7, dtype=np.uint8), 1)
    with pytest.raises(StoreError, match="does not decode"):
        codec.decode(np.zeros(codec.row_bytes, dtype=np.uint8), 1)
