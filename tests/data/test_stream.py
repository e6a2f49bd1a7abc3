"""From real shards to global batches: the same for every number of ranks and workers, resumable anywhere, and no
sample lost or fatal."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salad_ds.audio import encode_flac
from salad_ds.config import DataConfig, EncoderConfig, SourceConfig
from salad_ds.data.collate import MicroBatch
from salad_ds.data.order import Mixture
from salad_ds.data.plan import Planner
from salad_ds.data.shards import Sample, ShardSet, ShardWriter, Word, write_words
from salad_ds.data.stream import Lane, LaneState, Stream, StreamState
from salad_ds.errors import DataError, SaladError
from salad_ds.model.encoder import build_encoder
from salad_ds.text import split_words

WORDS = "the quick brown fox jumps over a lazy dog while seven old friends quietly watch from their window".split()
RATE, WORD_SECONDS, STACK, CONTEXT = 24000, 0.2, 4, 64
LANES, SEED = 4, 11


def text_of(number: int) -> str:
    rng = np.random.default_rng(number)
    return " ".join(rng.choice(WORDS, rng.integers(6, 34)))


def times(text: str, seconds: float = WORD_SECONDS) -> list[Word]:
    return [Word(round(i * seconds, 4), round((i + 0.9) * seconds, 4), 1.0) for i in range(len(split_words(text)))]


def spoken(key: str, number: int) -> Sample:
    """Noise that is as long as its text, with a level of its own for every word."""
    text = text_of(number)
    rng = np.random.default_rng(number)
    levels = rng.uniform(0.05, 0.3, len(split_words(text))).repeat(round(WORD_SECONDS * RATE))
    wave = np.clip(rng.standard_normal(len(levels)) * levels, -1, 1).astype(np.float32)
    meta = {"text": text, "duration": len(wave) / RATE, "sample_rate": RATE}
    return Sample(key, meta, encode_flac(wave, RATE))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """``speech``: 14 utterances, one FLAC that does not decode, one utterance without word times. ``text``: 20 texts.
    ``deaf``: nothing decodes. ``silent``: no word times at all. ``long``: 40 s between the words of some."""
    root = tmp_path_factory.mktemp("corpora")
    with ShardWriter(root / "speech", "noise", 6, words_engine="made") as writer:
        for i in range(16):
            sample = spoken("broken" if i == 5 else "untimed" if i == 9 else f"s{i:02d}", i)
            if i == 5:
                sample = Sample(sample.key, sample.meta, b"fLaC" + bytes(range(200)))
            writer.add(sample, None if i == 9 else times(sample.text))
    with ShardWriter(root / "text", "words", 8) as writer:
        for i in range(20):
            writer.add(Sample(f"t{i:02d}", {"text": text_of(100 + i)}))
    with ShardWriter(root / "deaf", "noise", 20, words_engine="made") as writer:
        for i in range(20):
            writer.add(Sample(f"d{i:02d}", {"text": text_of(i), "duration": 9.0}, b"junk"), times(text_of(i)))
    with ShardWriter(root / "silent", "noise", 20) as writer:
        for i in range(20):
            writer.add(spoken(f"q{i:02d}", i))
    with ShardWriter(root / "long", "noise", 20, words_engine="made") as writer:
        for i in range(10):
            sample = spoken(f"l{i:02d}", i)
            slow = 40.0 + i if i < 3 else WORD_SECONDS
            writer.add(sample, times(sample.text, slow))
    return root


@pytest.fixture(scope="module")
def encoder():
    return build_encoder(EncoderConfig("whisper", "packaged:whisper-tiny.en"), from_pretrained=False)


@pytest.fixture(scope="module")
def planner(corpora, encoder, tokenizer):
    """``planner("speech", "text", context=…)``: a new planner over these corpora, in equal shares."""

    def make(*names: str, frames=None, **data) -> Planner:
        limits = {"context": CONTEXT, "text_words": [3, 7], "speech_words": [2, 5], "max_bad_share": 0.9, "workers": 2}
        sources = [SourceConfig(kind="text" if name == "text" else "speech", path=name) for name in names]
        count = frames or (lambda samples: math.ceil(encoder.num_frames(samples) / STACK))
        return Planner(sources, lambda name: corpora / name, DataConfig(**limits | data), tokenizer, 16000, count)

    return make


def walk(planner, steps: int, ranks: int = 1, state: StreamState | None = None, **options):
    """``steps`` steps of every rank: per step the micro-batches of the global batch; and the stream's state at the
    end."""
    options = {"global_batch": LANES, "micro_batch": 1, "pad_id": 0, "ahead": 2, "seed": SEED} | options
    done = []
    for rank in range(ranks):
        walked = iter(Stream(planner(), rank=rank, ranks=ranks, state=state, **options))
        done.append(list(islice(walked, steps)))
        walked.close()
    batches = [[batch for part in done for batch in part[i].batches] for i in range(steps)]
    lanes = [lane for part in done for lane in part[-1].states] if steps else []
    return batches, StreamState(lanes)


def content(batch: MicroBatch) -> dict[str, object]:
    """Everything a micro-batch holds, to the byte."""
    return {
        name: (value.dtype, tuple(value.shape), value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value
        for name, value in vars(batch).items()
    }


def contents(steps: list[list[MicroBatch]]) -> list[list[dict[str, object]]]:
    return [[content(batch) for batch in step] for step in steps]


@pytest.fixture(scope="module")
def reference(planner):
    """Six steps of a single rank."""
    return contents(walk(lambda: planner("speech", "text"), 6)[0])


@pytest.mark.parametrize("ranks, micro_batch", [(2, 2), (4, 1), (1, 4)])
def test_the_global_batches_do_not_depend_on_the_ranks(planner, reference, ranks, micro_batch):
    def make():
        return planner("speech", "text", workers=ranks)

    batches, _ = walk(make, 3, ranks, micro_batch=micro_batch)
    if micro_batch == 1:
        assert contents(batches) == reference[:3]
    else:
        assert contents(batches) == contents(walk(make, 3, 1, micro_batch=micro_batch, ahead=1)[0])
        rows = [[key for batch in step for key in batch.keys] for step in batches]
        assert rows == [[key for batch in step for key in batch["keys"]] for step in reference[:3]]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 5), before=st.sampled_from([1, 2, 4]), after=st.sampled_from([1, 2, 4]), data=st.data())
def test_a_stream_goes_on_exactly_where_it_was_cut(planner, reference, cut, before, after, data):
    workers, ahead = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    first, state = walk(lambda: planner("speech", "text", workers=workers), cut, before, ahead=ahead)
    again = StreamState.from_json(json.loads(json.dumps(state.as_json()))) if cut else None
    assert again is None or again == state
    second, _ = walk(lambda: planner("speech", "text", workers=4 - workers), min(6 - cut, 2), after, again)
    assert contents(first + second) == reference[: cut + len(second)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 99), lanes=st.integers(1, 5), context=st.integers(16, 120), epochs=st.integers(1, 3))
def test_rows_fit_and_every_sample_comes_once_per_epoch(planner, seed, lanes, context, epochs):
    planned = planner("speech", context=context, max_bad_share=1.0)
    size = len(planned.shards[0])
    mixture = Mixture([size], [1.0], seed)
    emitted, taken = Counter(), []
    for number in range(lanes):
        lane = Lane(planned, mixture, number, lanes, seed, LaneState())
        while min([position for position, _ in lane.waiting] or [0]) < epochs * size:
            row = lane.row()
            assert row and sum(plan.positions for plan in row) <= context
            emitted.update(plan.key for plan in row)
        state = lane.state
        walked = {number + lanes * i for i in range(state.cursor)}
        assert set(state.waiting) <= walked
        taken += walked - set(state.waiting)
    usable = {planned.shards[0].entry(i).key for i in range(size)} - {"untimed"}
    asked = Counter(planned.shards[0].entry(mixture[position][2]).key for position in taken)
    assert emitted == Counter({key: n for key, n in asked.items() if key in usable})
    whole = [Counter(mixture[position][2] for position in taken if mixture[position][1] == e) for e in range(epochs)]
    assert all(epoch == Counter(range(size)) for epoch in whole)


def test_speech_is_cut_where_its_words_are(planner, corpora):
    """The sound of every span is that of its words: the recording, cut at the word times and resampled."""
    from salad_ds.audio import decode, resample

    planned, shards = planner("speech"), ShardSet.open(corpora / "speech")
    plan = next(p for p in (planned.plan(0, e, 3, SEED) for e in range(9)) if sum(x.speech for x in p.pieces) > 1)
    sequence = planned.load(plan)
    wave, rate = decode(shards.read(3).audio)
    heard = [piece for piece in plan.pieces if piece.speech]
    assert len(sequence.waves) == len(heard)
    for piece, part in zip(heard, sequence.waves, strict=True):
        assert round(piece.start / WORD_SECONDS, 6) % 1 == 0
        expected = resample(wave[round(piece.start * rate) : round(piece.end * rate)], rate, 16000)
        assert part.dtype == np.float32 and np.array_equal(part, expected[: len(part)])
        assert abs(len(part) - 16000 * (piece.end - piece.start)) <= 1
        assert math.ceil(math.ceil(len(part) / 320) / STACK) == piece.positions


def test_bad_samples_are_counted_and_named_and_nothing_else_is_lost(planner):
    planned = planner("speech")
    steps, _ = walk(lambda: planned, 12)
    keys = Counter(key for step in steps for batch in step for key in batch.keys)
    assert set(keys) == {f"s{i:02d}" for i in range(16)} - {"s05", "s09"}
    skipped = planned.skipped
    assert set(skipped.counts) == {"has no word times", next(why for why in skipped.counts if "decode" in why)}
    assert {name for names in skipped.examples.values() for name in names} == {"speech:broken", "speech:untimed"}
    assert skipped.seen > sum(keys.values())


@pytest.mark.parametrize("name, reason", [("deaf", "does not decode"), ("silent", "has no word times")])
def test_too_many_bad_samples_stop_with_names(planner, name, reason):
    with pytest.raises(DataError, match=reason) as caught:
        walk(lambda: planner(name, "text", max_bad_share=0.05), 20)
    assert caught.value.what.count("samples cannot be used") == 1
    assert f"{name}:" in caught.value.what and "max_bad_share" in caught.value.mend


def test_when_nothing_at_all_can_be_used_the_reasons_are_told(planner):
    with pytest.raises(DataError, match="1000 samples in a row.*has no word times.*silent:q"):
        walk(lambda: planner("silent", max_bad_share=1.0), 1)


def test_a_span_longer_than_the_encoder_hears_costs_one_sample(planner, encoder):
    planned = planner("long")
    plans = {planned.shards[0].entry(i).key: planned.plan(0, 0, i, SEED) for i in range(10)}
    unusable = {key for key, plan in plans.items() if plan is None}
    assert unusable == {"l00", "l01", "l02"}
    ((reason, count),) = planned.skipped.counts.items()
    assert "longer than" in reason and count == 3
    assert planned.skipped.examples[reason] == ["long:l00", "long:l01", "long:l02"]
    steps, _ = walk(lambda: planner("long"), 2)
    assert {key for step in steps for batch in step for key in batch.keys}.isdisjoint(unusable)


def test_shards_of_others_need_no_duration(planner, corpora):
    """A tar with plain {"text"} metadata: the length is the one in the audio's header."""
    sample = spoken("x", 3)
    directory = corpora / "foreign"
    directory.mkdir()
    with webdataset.TarWriter(str(directory / "a.tar"), encoder=False) as tar:
        tar.write({"__key__": "x", "json": json.dumps({"text": sample.text}).encode(), "flac": sample.audio})
    write_words(directory / "a.tar", "made", {"x": times(sample.text)})
    plan = planner("foreign").plan(0, 0, 0, SEED)
    assert plan is not None and plan.key == "x"


def test_what_goes_wrong_in_the_loader_reaches_the_consumer(planner, encoder):
    def frames(samples: int) -> int:
        if samples > 16000 * WORD_SECONDS * 4:
            raise ZeroDivisionError("a defect")
        return encoder.num_frames(samples)

    walked = iter(Stream(planner("speech", frames=frames), SEED, LANES, 1))
    with pytest.raises(ZeroDivisionError, match="a defect"):
        for _ in range(50):
            next(walked)
    assert loader_threads() == []


def test_lanes_without_speech_stay_in_step(planner, encoder):
    """Every micro-batch of every rank has a span, so that encoder and adapter run everywhere; a dummy fills nothing."""
    steps, _ = walk(lambda: planner("text"), 2, ranks=4)
    for batch in (batch for step in steps for batch in step):
        assert batch.speech_lengths.tolist() == [0] and not batch.audio.any() and len(batch.speech_positions) == 0
        features = encoder(batch.audio, batch.audio_lengths)
        assert features.shape[1] >= 1 and features.isfinite().all()
    mixed, _ = walk(lambda: planner("speech", "text"), 6, ranks=4)
    assert all(len(batch.audio) >= 1 for step in mixed for batch in step)
    assert any(batch.speech_lengths.tolist() == [0] for step in mixed for batch in step), "no lane without speech"


def loader_threads() -> list[str]:
    """Names of the loader's threads that are still alive; those that have been told to stop get a moment."""
    until = time.monotonic() + 3
    while True:
        alive = [t.name for t in threading.enumerate() if t.name.startswith(("stream", "decode"))]
        if not alive or time.monotonic() > until:
            return alive
        time.sleep(0.02)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_closing_early_leaves_no_thread_behind(planner, steps):
    stream = Stream(planner("speech", "text"), SEED, LANES, 1, ahead=1)
    walked = iter(stream)
    for _ in range(steps):
        next(walked)
    time.sleep(0.1 * (steps > 0))  # the queue is full now: the loader waits for room
    began = time.monotonic()
    walked.close()
    assert loader_threads() == [] and time.monotonic() - began < 2
    assert stream is not None


def test_a_stream_is_walked_once(planner):
    """Its lanes have run ahead of the steps that were taken: another walk would leave samples out."""
    stream = Stream(planner("text"), SEED, LANES, 1)
    walked = iter(stream)
    next(walked)
    walked.close()
    with pytest.raises(RuntimeError, match="once"):
        next(iter(stream))


def test_contradictions_are_refused(planner):
    with pytest.raises(SaladError, match="not a multiple of micro_batch 2 × 4 ranks"):
        Stream(planner("text"), SEED, LANES, 2, ranks=4)
    with pytest.raises(SaladError, match="2 lanes, the recipe a global batch of 4"):
        Stream(planner("text"), SEED, LANES, 1, state=StreamState([LaneState(), LaneState()]))
    rare = planner("speech", "text")
    rare.sources[0].weight = 0.001
    with pytest.raises(SaladError, match="speech.*0.001"):
        Stream(rare, SEED, LANES, 1)
    for source in rare.sources:
        source.weight = 0.0
    with pytest.raises(SaladError, match="weight"):
        Stream(rare, SEED, LANES, 1)
