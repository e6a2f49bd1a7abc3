"""The codec gives back what it was given, and refuses what it never gave."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.errors import StoreError
from salad_ds.teacher.codec import Coded, RankedCodec, leb128, read_leb128
from salad_ds.teacher.sampled import Sampled
from salad_ds.teacher.sampling import Record, join
from salad_ds.teacher.topk import TopK
from tests.teacher.records import any_record, assert_same, logits_of

RULES = st.one_of(st.builds(TopK, st.integers(1, 160), st.integers(0, 20)), st.builds(Sampled, st.integers(1, 300)))


@settings(max_examples=120)
@given(seed=st.integers(0, 2**32 - 1), rule=RULES, vocab=st.sampled_from([1, 2, 7, 256, 49152, 65537, 151936]),
       sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), listed=st.booleans())
def test_any_records_come_back(seed: int, rule: TopK | Sampled, vocab: int, sizes: list[int], listed: bool) -> None:
    if isinstance(rule, Sampled):  # as many tokens as it may have to draw
        vocab = max(vocab, rule.steps)
    rng, codec = np.random.default_rng(seed), RankedCodec(vocab, rule)
    records = [any_record(rule, rng, rows, vocab) for rows in sizes]
    ranks = rng.permutation(vocab)[:rng.integers(0, min(vocab, 500) + 1)] if listed else codec.rank(records)
    data = codec.encode(records, ranks)
    coded = [Coded(np.frombuffer(one, dtype=np.uint8), len(record), ranks)
             for one, record in zip(data, records, strict=True)]
    assert_same(codec.decode(coded), join(records))
    assert_same(codec.decode(coded[-1:]), records[-1])
    assert codec.encode(records[-1:], ranks) == data[-1:]  # whatever it is encoded with
    assert len(codec.decode([])) == 0


def test_rows_of_a_record() -> None:
    rule = TopK(5, 3)
    record = any_record(rule, np.random.default_rng(0), 9, 300)
    wanted = np.array([7, 0, 0, 8])
    taken = record.take(wanted)
    for place, row in enumerate(wanted):
        assert_same(taken.rows(slice(place, place + 1)), record.rows(slice(row, row + 1)))
    assert_same(join([record.rows(slice(0, 4)), record.rows(slice(4, 4)), record.rows(slice(4, 9))]), record)


def test_frequent_tokens_cost_less() -> None:
    rule, vocab, rng = TopK(20, 0), 50000, np.random.default_rng(0)
    names = rng.permutation(vocab)
    record = rule.keep(logits_of(400, 300, scale=1.0), rng.random((400, 22)))
    record.ids = names[record.ids]
    codec = RankedCodec(vocab, rule)
    ranks = codec.rank([record])
    assert len(ranks) >= 250 and set(ranks) <= set(names[:300])
    assert len(codec.encode([record], ranks)[0]) < 0.7 * len(codec.encode([record], ranks[:0])[0])


@settings(max_examples=300)
@given(seed=st.integers(0, 30), flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
       cut=st.one_of(st.none(), st.floats(0, 1)), topk=st.booleans())
def test_damaged_bytes_are_refused_or_a_record(seed: int, flips: list[tuple[float, int]], cut: float | None,
                                               topk: bool) -> None:
    """Without their checksum: whatever comes out is small and can be used, and nothing else is raised."""
    rule, vocab = TopK(9, 2) if topk else Sampled(20), 400
    record = any_record(rule, np.random.default_rng(seed), 5, vocab)
    codec = RankedCodec(vocab, rule)
    data = np.frombuffer(codec.encode([record], np.arange(8))[0], dtype=np.uint8).copy()
    for place, value in flips:
        data[min(int(place * len(data)), len(data) - 1)] = value
    data = data if cut is None else data[:int(cut * len(data))]
    try:
        found = codec.decode([Coded(data, 5, np.arange(8))])
        targets = rule.targets(found, rule.tails[0])
    except StoreError:
        return
    assert len(targets) == 5 and targets.ids.shape[1] <= vocab and (0 <= targets.ids).all()
    assert (targets.ids < vocab).all() and bool(targets.weights.isfinite().all())


def test_bytes_that_announce_too_much_are_refused_before_they_are_believed() -> None:
    codec = RankedCodec(1000, TopK(3, 0))
    for numbers, rows in (((2**30, 0, 0, 0, 1), 3), ((3, 24, 0, 0, 1), 3), ((3, 0, 2**20, 0, 1), 3),
                          ((3, 0, 0, 0, 2**31), 3), ((3, 0, 0, 0, 1), 2**31 - 1), ((3, 60, 0, 0, 1), 1)):
        data = np.frombuffer(b"".join(map(leb128, numbers)) + b"\xff" * 60, dtype=np.uint8)
        with pytest.raises(StoreError, match="does not decode"):
            codec.decode([Coded(data, rows, np.zeros(0, np.int64))])
    for data in (b"", b"\x80" * 40):
        with pytest.raises(StoreError, match="no beginning"):
            codec.decode([Coded(np.frombuffer(data, dtype=np.uint8), 1, np.zeros(0, np.int64))])


def test_a_token_twice_in_a_row_is_a_mistake() -> None:
    one, none = np.ones(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    twice = Record(np.array([[5]]), 2 * one, none, np.array([3, 3]), np.array([1, 1]), np.array([0, 0]), none[:0])
    with pytest.raises(ValueError, match="twice"):
        RankedCodec(9, Sampled(4)).encode([twice], none[:0])


@given(st.integers(0, 2**34))
def test_leb128(number: int) -> None:
    data = leb128(number)
    assert read_leb128(b"x" + data + b"\x00", 1) == (number, 1 + len(data))
    assert len(data) == max(1, (number.bit_length() + 6) // 7)
