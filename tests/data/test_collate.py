"""Rows of sequences as tensors, checked against the cells they were laid out from, one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salad_ds.data.collate import MicroBatch, Sequence, collate
from salad_ds.data.interleave import Piece

PAD = 7


@st.composite
def sequences(draw) -> Sequence:
    """The start token, then text and speech pieces in turns (or text alone); token ids never equal PAD."""
    if draw(st.booleans()):
        n = draw(st.integers(1, 9))
        pieces = [Piece(False, 0, n, n)]
    else:
        pieces = [Piece(False, 0, 1, 1)]
        speech = draw(st.booleans())
        for tokens in draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)):
            first = pieces[-1].last
            positions = draw(st.integers(1, 5)) if speech else tokens
            pieces.append(Piece(speech, first, first + tokens, positions))
            speech = not speech
    behind = draw(st.integers(0, 3))  # tokens that the context has cut off
    ids = draw(st.lists(st.integers(8, 99), min_size=pieces[-1].last + behind, max_size=pieces[-1].last + behind))
    loudness = st.floats(0.125, 1, width=32)
    waves = [np.full(draw(st.integers(1, 6)), draw(loudness), np.float32) for piece in pieces if piece.speech]
    return Sequence(f"k{draw(st.integers(0, 99))}", tuple(ids), pieces, waves)


rows_of_sequences = st.lists(st.lists(sequences(), max_size=3), min_size=1, max_size=3).filter(lambda rows: any(rows))


def cells(row: list[Sequence], owner: int) -> list[tuple[int, int | None, int]]:
    """What lies at each position of a row: (owner, index in its text or None for sound, place in its sequence)."""
    found: list[tuple[int, int | None, int]] = []
    for number, sequence in enumerate(row, owner):
        place = 0
        for piece in sequence.pieces:
            for i in range(piece.positions):
                found.append((number, None if piece.speech else piece.first + i, place))
                place += 1
    return found


@settings(max_examples=120)
@given(rows=rows_of_sequences, spare=st.one_of(st.none(), st.integers(0, 5)))
def test_a_batch_is_its_sequences_cell_by_cell(rows, spare):
    longest = max(sum(sequence.positions for sequence in row) for row in rows)
    width = longest + (spare or 0)
    batch = collate(rows, PAD, None if spare is None else width)
    assert batch.input_ids.shape == batch.position_ids.shape == (len(rows), width)
    flat_sequences = [sequence for row in rows for sequence in row]
    assert batch.texts == [sequence.ids for sequence in flat_sequences]
    assert batch.keys == [sequence.key for sequence in flat_sequences]
    heard, wanted, used, owner = [], [], 0, 0
    for r, row in enumerate(rows):
        laid = cells(row, owner)
        for t, (number, index, place) in enumerate(laid):
            assert batch.position_ids[r, t] == place
            assert batch.input_ids[r, t] == (PAD if index is None else batch.texts[number][index])
            if index is None:
                heard.append(r * width + t)
            elif index > 0:
                assert laid[t - 1][0] == number, "the predecessor belongs to another sequence"
                wanted.append((r * width + t - 1, batch.texts[number][index], index - 1, number))
        assert batch.input_ids[r, len(laid) :].eq(PAD).all()
        assert batch.position_ids[r, len(laid) :].tolist() == list(range(width - len(laid)))
        used, owner = used + len(laid), owner + len(row)
    assert batch.used_positions == used
    assert batch.speech_positions.tolist() == heard
    assert sorted(targets(batch)) == sorted(wanted)
    for _, label, row, number in targets(batch):
        assert batch.texts[number][row + 1] == label
    waves = [wave for sequence in flat_sequences for wave in sequence.waves]
    assert batch.audio_lengths.tolist() == [len(wave) for wave in waves]
    assert batch.speech_lengths.tolist() == [p.positions for s in flat_sequences for p in s.pieces if p.speech]
    for s, wave in enumerate(waves):
        assert np.array_equal(batch.audio[s, : len(wave)], wave) and not batch.audio[s, len(wave) :].any()


def targets(batch: MicroBatch) -> list[tuple[int, int, int, int]]:
    """(flat position, label, row of the text, owner) of every target."""
    columns = (batch.target_positions, batch.labels, batch.target_rows, batch.target_owner)
    assert len({len(column) for column in columns}) == 1
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(rows=rows_of_sequences)
def test_the_teacher_is_asked_in_the_order_of_the_targets(rows):
    batch = collate(rows, PAD)
    asked = [(ids, row) for ids, wanted in batch.teacher_requests() for row in wanted.tolist()]
    assert asked == [(batch.texts[owner], row) for _, _, row, owner in targets(batch)]


def test_the_token_behind_a_span_is_predicted_from_the_last_frame():
    spoken = Sequence("a", (50, 51, 52, 53, 54), [Piece(False, 0, 1, 1), Piece(True, 1, 3, 4), Piece(False, 3, 5, 2)])
    spoken.waves.append(np.ones(9, np.float32))
    other = Sequence("b", (60, 61), [Piece(False, 0, 2, 2)])
    batch = collate([[other, spoken]], PAD, context=12)
    #             b b | a s s s s a a | padding
    assert batch.input_ids.tolist() == [[60, 61, 50, PAD, PAD, PAD, PAD, 53, 54, PAD, PAD, PAD]]
    assert batch.position_ids.tolist() == [[0, 1, 0, 1, 2, 3, 4, 5, 6, 0, 1, 2]]
    assert batch.speech_positions.tolist() == [3, 4, 5, 6]
    assert targets(batch) == [(0, 61, 0, 0), (6, 53, 2, 1), (7, 54, 3, 1)]
    assert batch.used_positions == 9


def test_reading_predicts_every_token_that_was_laid_out():
    spoken = Sequence("a", tuple(range(50, 60)), [Piece(False, 0, 1, 1), Piece(True, 1, 4, 2), Piece(False, 4, 8, 4)])
    read = spoken.as_text()
    assert (read.key, read.ids, read.waves) == ("a", spoken.ids, [])
    batch = collate([[read]], PAD)
    assert batch.input_ids.tolist() == [list(range(50, 58))]
    assert targets(batch) == [(i, 51 + i, i, 0) for i in range(7)]


@pytest.mark.parametrize("rows", [[[]], [[Sequence("a", (5, 6, 8), [Piece(False, 0, 3, 3)])], []]])
def test_without_speech_a_silent_span_fills_no_position(rows):
    batch = collate(rows, PAD, context=6, dummy=np.zeros(320, np.float32))
    assert batch.audio.shape == (1, 320) and not batch.audio.any()
    assert batch.audio_lengths.tolist() == [320] and batch.speech_lengths.tolist() == [0]
    assert batch.speech_positions.shape == (0,) and batch.speech_positions.dtype == torch.long
    assert len(batch.labels) == sum(len(row) for row in rows) * 2
    assert len(collate(rows, PAD, context=6).audio) == 0
    heard = Sequence("b", (5, 6), [Piece(False, 0, 1, 1), Piece(True, 1, 2, 2)], [np.ones(640, np.float32)])
    assert collate([*rows, [heard]], PAD, context=6, dummy=np.zeros(320, np.float32)).audio_lengths.tolist() == [640]


@settings(max_examples=60)
@given(rows=rows_of_sequences, data=st.data())
def test_slices_and_cached_frames_are_laid_out_span_by_span(rows, data):
    """Beside whose clip and which of its frames a span takes, nothing depends on how its sound comes."""
    bare = collate([[replace(s, waves=[]) for s in row] for row in rows], PAD)
    sliced, cached, wanted = [], [], []
    for row in rows:
        sliced.append([])
        cached.append([])
        for s in row:
            spans = [np.sort(data.draw(hnp.arrays(np.int64, st.integers(1, 4), elements=st.integers(0, 30))))
                     for piece in s.pieces if piece.speech]  # fmt: skip
            clip = sum(bool(t.slices) for r in sliced for t in r)
            wanted += [(clip, span) for span in spans]
            one = replace(s, waves=[np.ones(9, np.float32)] if spans else [], slices=spans)
            sliced[-1].append(one)
            cached[-1].append(replace(one, waves=[], frames=[np.outer(span + 1.0, [1, 2]) for span in spans]))
    one, other = collate(sliced, PAD), collate(cached, PAD)
    for batch in (one, other):
        for name, value in bare.model_inputs().items():
            assert torch.equal(batch.model_inputs()[name], value)
    assert len(other.audio) == 0 and other.slices is None and one.features is None
    if not wanted:
        assert one.slices is None and other.features is None
        return
    assert one.clips.tolist() == [clip for clip, _ in wanted] and len(one.audio) == wanted[-1][0] + 1
    for s, (_, span) in enumerate(wanted):
        assert one.slices[s].tolist() == [*span.tolist(), *[-1] * (one.slices.shape[1] - len(span))]
        assert other.features[s, : len(span), 1].tolist() == [2.0 * (frame + 1) for frame in span]
        assert not other.features[s, len(span) :].any()


def test_padding_of_codes_is_no_code():
    spoken = Sequence("a", (5, 6), [Piece(False, 0, 1, 1), Piece(True, 1, 2, 2)], frames=[np.ones((2, 3), np.int16)])
    longer = replace(spoken, frames=[np.zeros((4, 3), np.int16)])
    features = collate([[spoken, longer]], PAD).features
    assert features.dtype == torch.int16 and features[0].tolist() == [[1] * 3] * 2 + [[-1] * 3] * 2
    dummy = np.full((1, 3), -1, np.int16)
    batch = collate([[Sequence("b", (5,), [Piece(False, 0, 1, 1)])]], PAD, dummy=dummy)
    assert batch.features.tolist() == [dummy.tolist()] and batch.speech_lengths.tolist() == [0] and not len(batch.audio)


def test_moving_keeps_everything():
    dummy = np.zeros(2, np.float32)
    batch = collate([[Sequence("a", (5, 6, 8), [Piece(False, 0, 3, 3)])]], PAD, context=4, dummy=dummy)
    moved = batch.to("meta")
    assert all(value.device.type == "meta" for value in moved.model_inputs().values())
    assert moved.audio_lengths.device.type == "cpu", "the encoder wants them there"
    assert moved.audio.shape == (1, 2) and moved.texts == batch.texts and moved.used_positions == 3
