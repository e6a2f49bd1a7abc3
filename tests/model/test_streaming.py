"""Audio in pieces gives what it gives at once, whatever the pieces."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.audio import resample
from salad_ds.config import AdapterConfig, EncoderConfig, ModelConfig
from salad_ds.errors import DataError, SaladError
from salad_ds.model.build import build_student
from salad_ds.model.processing import SaladProcessor
from salad_ds.model.streaming import Resampler, SpeechStream
from tests.model.listening import listener, mimi_dir  # noqa: F401

FRAME = 1920
GREEDY = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}


@pytest.fixture(scope="module")
def exact(listener):  # noqa: F811
    """The listener in float64 (its clips stay float32): pieces and whole then differ by nothing but a mistake."""
    model, processor = listener
    return copy.deepcopy(model).double(), processor


def wave(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


def cut_at(clip: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Pieces of ``sizes``, again and again, until nothing is left."""
    pieces, at = [], 0
    while at < len(clip):
        pieces.append(clip[at : at + sizes[len(pieces) % len(sizes)]])
        at += len(pieces[-1])
    return pieces


def streamed(model, processor, clips, between, pieces) -> SpeechStream:
    """``between``: texts before, between and behind the clips."""
    stream = SpeechStream(model, processor)
    stream.read(between[0])
    for clip, text in zip(clips, between[1:], strict=True):
        for piece in pieces(clip):
            stream.feed(piece)
        stream.finish()
        stream.read(text)
    return stream


@settings(max_examples=25)
@given(
    st.integers(1, 11 * FRAME),
    st.lists(st.one_of(st.integers(1, 4 * FRAME), st.just(FRAME), st.just(3 * FRAME)), min_size=1, max_size=4)
    .filter(lambda sizes: max(sizes) > 200),
)  # fmt: skip
def test_any_pieces_give_the_embeddings_and_the_cache_of_the_whole(exact, samples, sizes):
    model, processor = exact
    clip = wave(samples, samples)
    whole, mask = model.embed_prompt(**processor("Say <|audio|> again", [(clip, 24000)]))
    stream = streamed(model, processor, [clip], ["Say ", " again"], lambda clip: cut_at(clip, sizes))
    got = torch.cat(stream.rows, 1)
    assert stream.positions == int(mask.sum()) == got.shape[1]
    torch.testing.assert_close(got, whole, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        once = model.llm.get_decoder()(inputs_embeds=whole[:, :-1], use_cache=True).past_key_values
    assert stream.cache.get_seq_length() == whole.shape[1] - 1, "all but the last position are read before generate"
    for ours, reference in zip(stream.cache.layers, once.layers, strict=True):
        torch.testing.assert_close(ours.keys, reference.keys, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.values, reference.values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sizes", [[700], [FRAME], [50_000], [1, 30_000]], ids=str)
def test_two_clips_in_pieces_answer_as_at_once(listener, sizes):  # noqa: F811
    model, processor = listener
    clips = [wave(20_000, 1), wave(31_234, 2)]
    prompt = "First <|audio|> then <|audio|>"
    inputs = processor(prompt, [(clip, 24000) for clip in clips])
    stream = streamed(model, processor, clips, ["First ", " then ", ""], lambda clip: cut_at(clip, sizes))
    tokens = stream.generate(**GREEDY)
    assert torch.equal(tokens, model.generate(**inputs, **GREEDY)) and tokens.shape == (1, 5)
    assert stream.first_token_seconds > 0
    assert not torch.equal(tokens, model.generate(**processor(prompt, [(c[::-1], 24000) for c in clips]), **GREEDY))


def test_positions_come_while_the_speaker_speaks(listener):  # noqa: F811
    """Three frames of 1920 samples make one: nothing waits for the end but what is not whole."""
    stream = SpeechStream(*listener)
    begun = stream.positions
    told = [stream.feed(piece) for piece in cut_at(wave(8 * FRAME + 5), [FRAME])]
    assert told == [0, 0, 1, 0, 0, 1, 0, 0, 0] and stream.positions == begun + 2
    assert stream.finish() == 1


def test_codes_are_heard_in_pieces_too(tiny_untied_llm_dir, mimi_dir):  # noqa: F811
    model, tokenizer = build_student(
        ModelConfig(llm=str(tiny_untied_llm_dir), encoder=EncoderConfig("mimi", str(mimi_dir), features="codes"),
                    adapter=AdapterConfig(layers=1, width=32, mlp=48, heads=4, kv_heads=2, stack=2))
    )  # fmt: skip
    model.eval().double()
    processor, clip = SaladProcessor.of(model, tokenizer), wave(7 * FRAME - 3)
    stream = streamed(model, processor, [clip], ["", ""], lambda clip: cut_at(clip, [2500]))
    whole, _ = model.embed_prompt(**processor("<|audio|>", [(clip, 24000)]))
    assert whole[0, 1:].std() > 0
    torch.testing.assert_close(torch.cat(stream.rows, 1), whole, rtol=1e-9, atol=1e-9)


def test_an_encoder_that_looks_ahead_hears_the_clip_when_it_ends(tiny_llm_dir):
    model, tokenizer = build_student(
        ModelConfig(llm=str(tiny_llm_dir), encoder=EncoderConfig("whisper", "packaged:whisper-tiny.en"),
                    adapter=AdapterConfig(layers=1, width=32, mlp=48, heads=4, kv_heads=2, stack=4))
    )  # fmt: skip
    processor, clip = SaladProcessor.of(model.eval(), tokenizer), wave(17_000)
    stream = SpeechStream(model, processor)
    assert not stream.incremental and sum(stream.feed(piece) for piece in cut_at(clip, [999])) == 0
    whole, _ = model.embed_prompt(**processor("<|audio|>", [(clip, 16000)]))
    assert stream.finish() == whole.shape[1] - 1
    torch.testing.assert_close(torch.cat(stream.rows, 1), whole, rtol=1e-5, atol=1e-6)
    with pytest.raises(DataError, match="30"):
        for _ in range(32):
            stream.feed(wave(16000))


@settings(max_examples=30)
@given(
    st.sampled_from([48_000, 44_100, 22_050, 16_000, 8_000, 24_000]),
    st.integers(1, 9000),
    st.lists(st.integers(1, 3000), min_size=1, max_size=4).filter(lambda sizes: max(sizes) > 100),
)
def test_a_wave_is_resampled_as_it_arrives_as_at_once(rate, samples, sizes):
    clip, arriving = wave(samples), Resampler(rate, 24_000)
    got = np.concatenate([*(arriving.feed(piece) for piece in cut_at(clip, sizes)), arriving.finish()])
    np.testing.assert_allclose(got, resample(clip, rate, 24_000), rtol=0, atol=1e-6)


def test_what_cannot_be_streamed_is_named(listener):  # noqa: F811
    stream = SpeechStream(*listener)
    with pytest.raises(SaladError, match="no clip to finish"):
        stream.finish()
    with pytest.raises(DataError, match="audio"):
        stream.read("one <|audio|> two")
    for samples in (np.zeros((2, 5), np.float32), np.zeros(5, np.int16), np.array([np.nan], np.float32)):
        with pytest.raises(DataError, match="mono floats"):
            stream.feed(samples)
    stream.feed(wave(100), 16_000)
    with pytest.raises(SaladError, match="before the clip has ended"):
        stream.read("text")
    with pytest.raises(DataError, match="16000 Hz goes on at 24000"):
        stream.feed(wave(100), 24_000)
    assert stream.generate(**GREEDY).shape == (1, 5), "an open clip ends with generate"
    with pytest.raises(SaladError, match="has ended"):
        stream.feed(wave(100))
    empty = SpeechStream(*listener)
    empty.feed(np.zeros(0, np.float32))
    with pytest.raises(DataError, match="no samples"):
        empty.finish()
