"""From real shards to global batches: the same for every number of ranks and workers, resumable anywhere, and no
sample lost or fatal."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salad_ds.audio import encode_flac
from salad_ds.config import DataConfig, SourceConfig
from salad_ds.data.collate import MicroBatch
from salad_ds.data.lanes import WINDOW, Course, Lane, LaneState, with_journal
from salad_ds.data.plan import Planner, Skipped
from salad_ds.data.shards import Sample, ShardSet, ShardWriter, Word, write_words
from salad_ds.data.stream import Step, Stream, StreamState
from salad_ds.errors import DataError, SaladError
from salad_ds.hearing import Hearing
from salad_ds.text import split_words

WORDS = "the quick brown fox jumps over a lazy dog while seven old friends quietly watch from their window".split()
RATE, WORD_SECONDS, CONTEXT = 24000, 0.2, 64
LANES, SEED = 4, 11
WHISPER = Hearing(16000, ((1, 320),), 480000, stack=4)


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
    """``speech``: 14 utterances, one FLAC that does not decode, one utterance without word times, in shards of 6, 6
    and 4. ``text``: 20 texts. ``uneven``: tars of somebody else with 1, 3, 1, 3, 1 and 2 utterances, of which the third
    holds no sample and the fifth none with word times. ``deaf``: nothing decodes. ``silent``: no word times at all.
    ``long``: 40 s between the words of some."""
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
    (root / "uneven").mkdir()
    numbers = iter(range(40, 60))
    for shard, size in enumerate([1, 3, 1, 3, 1, 2]):
        samples = [spoken(f"u{next(numbers)}", 40 + shard) for _ in range(size)]
        path = root / "uneven" / f"{shard}.tar"
        with webdataset.TarWriter(str(path), encoder=False) as tar:
            for sample in samples:
                meta = b"no JSON" if shard == 2 else json.dumps({"text": sample.text}).encode()
                tar.write({"__key__": sample.key, "json": meta, "flac": sample.audio})
        write_words(path, "made", {} if shard == 4 else {sample.key: times(sample.text) for sample in samples})
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
def planner(corpora, tokenizer):
    """``planner("speech", "text", context=…)``: a new planner over these corpora, in equal shares."""

    def make(*names: str, hearing: Hearing = WHISPER, **data) -> Planner:
        limits = {"context": CONTEXT, "text_words": [3, 7], "speech_words": [2, 5], "max_bad_share": 0.9, "workers": 0,
                  "shuffle_shards": 2}  # fmt: skip
        sources = [SourceConfig(kind="text" if name == "text" else "speech", path=name) for name in names]
        return Planner(sources, lambda name: corpora / name, DataConfig(**limits | data), tokenizer, hearing)

    return make


def walk(planner, steps: int, ranks: int = 1, state: StreamState | None = None, **options):
    """``steps`` steps of every rank: per step the micro-batches of the global batch; the stream's state at the end; and
    what was skipped on the way."""
    options = {"global_batch": LANES, "micro_batch": 1, "pad_id": 0, "seed": SEED} | options
    done: list[list[Step]] = []
    for rank in range(ranks):
        walked = iter(Stream(planner(), rank=rank, ranks=ranks, state=state, **options))
        done.append(list(islice(walked, steps)))
        walked.close()
    batches = [[batch for part in done for batch in part[i].batches] for i in range(steps)]
    lanes = [lane for part in done for lane in part[-1].states] if steps else []
    skipped = [[told for part in done for lane in part[i].states for told in lane.skipped] for i in range(steps)]
    return batches, StreamState(lanes), skipped


def content(batch: MicroBatch) -> dict[str, object]:
    """Everything a micro-batch holds, to the byte."""
    return {
        name: (value.dtype, tuple(value.shape), value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value
        for name, value in vars(batch).items()
    }


def contents(steps: list[list[MicroBatch]]) -> list[list[dict[str, object]]]:
    return [[content(batch) for batch in step] for step in steps]


def in_json(state: StreamState) -> StreamState:
    """The state as a checkpoint gives it back."""
    again = StreamState.from_json(json.loads(json.dumps(state.as_json())))
    assert again == state
    return again


MIX = ("speech", "uneven", "text")
TOTAL = 9
"""Steps: several epochs of each source, so that borders of groups and epochs are crossed."""


@pytest.fixture(scope="module")
def reference(planner):
    """Nine steps of a single rank without workers: batches, and what was skipped."""
    batches, _, skipped = walk(lambda: planner(*MIX), TOTAL)
    assert sum(map(len, skipped)) >= 3, "no bad sample was met: nothing is tested"
    return contents(batches), skipped


def test_the_reference_goes_through_epochs(planner, reference):
    keys = Counter(key for step in reference[0] for batch in step for key in batch["keys"])
    assert max(keys.values()) >= 2 and len(keys) >= 25


@pytest.mark.parametrize("workers, ranks", [(1, 1), (2, 1), (5, 1), (3, 2), (1, 4)])
def test_batches_do_not_depend_on_workers_or_ranks(planner, reference, workers, ranks):
    """Two workers share four lanes; five share them so that two work on one; three for two lanes; more ranks (4) than
    ``speech`` has shards (3)."""
    batches, state, skipped = walk(lambda: planner(*MIX, workers=workers), 5, ranks)
    assert contents(batches) == reference[0][:5]
    assert skipped == reference[1][:5]
    assert sum(lane.lost for lane in state.lanes) == sum(len(step) for step in skipped)


@pytest.mark.parametrize("micro_batch, ranks", [(2, 2), (4, 1)])
def test_micro_batches_cut_the_same_rows_differently(planner, reference, micro_batch, ranks):
    batches, _, _ = walk(lambda: planner(*MIX), 3, ranks, micro_batch=micro_batch)
    rows = [[key for batch in step for key in batch.keys] for step in batches]
    assert rows == [[key for batch in step for key in batch["keys"]] for step in reference[0][:3]]
    assert {len(step) for step in batches} == {LANES // micro_batch}


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, TOTAL - 1), min_size=1, max_size=2, unique=True).map(sorted),
    ranks=st.lists(st.sampled_from([1, 2, 4]), min_size=3, max_size=3),
    workers=st.lists(st.sampled_from([0, 0, 0, 0, 1, 2, 5]), min_size=3, max_size=3),
    prefetch=st.integers(1, 3),
)
def test_a_stream_goes_on_exactly_where_it_was_cut(planner, reference, cuts, ranks, workers, prefetch):
    """Stopped once or twice, anywhere, and gone on with another number of ranks and of workers: the remaining global
    batches are those of a run that was never stopped, byte for byte, sound included; so is what was skipped."""
    steps, told, state, at = [], [], None, 0
    for end, count, hands in zip([*cuts, TOTAL], ranks, workers, strict=False):
        part, state, skipped = walk(
            lambda hands=hands: planner(*MIX, workers=hands, prefetch=prefetch), end - at, count, state
        )
        state, at = in_json(state), end
        steps += part
        told += skipped
    assert contents(steps) == reference[0] and told == reference[1]
    assert sum(lane.lost for lane in state.lanes) == sum(map(len, reference[1]))


def test_the_state_is_a_few_integers(planner):
    """Per lane: two per source, two per waiting sample, two counters. A paper-sized global batch stays below 100 kB."""
    _, state, _ = walk(lambda: planner("speech", "text"), 2)
    for lane in state.lanes:
        assert len(lane.taken) == len(lane.spent) == 2 and len(lane.waiting) < WINDOW
    assert len(json.dumps(state.as_json())) * 512 / LANES < 200_000


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 99), lanes=st.integers(1, 5), context=st.integers(60, 160), name=st.sampled_from(MIX))
def test_rows_fit_and_every_sample_comes_once_per_epoch(planner, seed, lanes, context, name):
    planned = with_journal(planner(name, context=context))
    size, course = len(planned.shards[0]), Course(planned, lanes, seed)
    emitted, taken = Counter(), []
    for number in range(lanes):
        lane = Lane(planned, course, number, LaneState())
        while min([n for (_, n), _ in lane.waiting] or [0]) * lanes + number < 2 * size:
            row = lane.plans()
            assert row and 0 < sum(plan.positions for plan in row) <= context
            emitted.update(plan.key for plan in row)
        waiting = {n for (_, n), _ in lane.waiting}
        taken += [number + lanes * n for n in range(lane.taken[0]) if n not in waiting]
    walked = [course.orders[0][position] for position in taken]
    usable = {planned.shards[0].entry(i).key for i in range(size)} - {"untimed", "u48"}
    asked = Counter(planned.shards[0].entry(index).key for _, index in walked)
    assert emitted == Counter({key: n for key, n in asked.items() if key in usable})
    for epoch in (0, 1):
        assert Counter(index for e, index in walked if e == epoch) == Counter(range(size))


def test_sources_share_positions_not_samples(planner):
    """Utterances of 60 positions and texts of 20, in shares of 2 : 1."""
    planned = with_journal(planner("speech", "text", context=256))
    planned.sources[0].weight = 2.0
    had = Counter()
    for number in range(LANES):
        lane = Lane(planned, Course(planned, LANES, SEED), number, LaneState())
        for plan in (plan for _ in range(40) for plan in lane.plans()):
            had[plan.source] += plan.positions
    assert had[0] / sum(had.values()) == pytest.approx(2 / 3, abs=0.02)


def test_padding_is_rare(planner):
    """Samples of 10 to 60 positions in rows of 256: at most 3 % of all positions are empty."""
    steps, _, _ = walk(lambda: planner("uneven", "text", context=256), 4)
    batches = [batch for step in steps for batch in step]
    waste = 1 - sum(b.used_positions for b in batches) / sum(b.input_ids.numel() for b in batches)
    assert 0 <= waste <= 0.03


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
        assert WHISPER.positions(WHISPER.frames(len(part))) == piece.positions


def test_bad_samples_are_named_and_nothing_else_is_lost(planner):
    steps, state, skipped = walk(lambda: planner("speech"), 12)
    keys = Counter(key for step in steps for batch in step for key in batch.keys)
    assert set(keys) == {f"s{i:02d}" for i in range(16)} - {"s05", "s09"}
    told = {name: reason for step in skipped for reason, name in step}
    assert set(told) == {"speech:broken", "speech:untimed"}
    assert told["speech:untimed"] == "has no word times" and "decode" in told["speech:broken"]
    assert sum(lane.seen for lane in state.lanes) >= sum(keys.values()) + sum(map(len, skipped))
    assert sum(lane.lost for lane in state.lanes) == sum(map(len, skipped))


def test_audio_that_never_decodes_leaves_rows_of_text_and_counts(planner):
    """Only loading finds out: the rows have room where those utterances were planned, and no step is lost."""
    steps, state, skipped = walk(lambda: planner("deaf", "text"), 4)
    assert {name.split(":")[0] for step in skipped for _, name in step} == {"deaf"}
    assert all(len(step) == LANES for step in steps)
    assert {key[0] for step in steps for batch in step for key in batch.keys} == {"t"}
    reasons = Skipped(0.05)
    for reason, name in [told for step in skipped for told in step]:
        reasons.note(reason, name)
    assert reasons.too_many(sum(lane.seen for lane in state.lanes), reasons.lost)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_of_which_nothing_can_be_used_stops_with_reasons(planner, workers):
    with pytest.raises(DataError, match="1000 samples in a row.*1000 has no word times.*silent:q"):
        walk(lambda: planner("silent", "text", max_bad_share=1.0, workers=workers), 1)


def test_a_span_longer_than_the_encoder_hears_costs_one_sample(planner):
    planned = planner("long")
    plans = {planned.shards[0].entry(i).key: planned.plan(0, 0, i, SEED) for i in range(10)}
    unusable = {key for key, plan in plans.items() if plan is None}
    assert unusable == {"l00", "l01", "l02"}
    ((reason, count),) = planned.skipped.counts.items()
    assert "longer than" in reason and count == 3
    assert planned.skipped.examples[reason] == ["long:l00", "long:l01", "long:l02"]
    steps, _, _ = walk(lambda: planner("long"), 2)
    assert {key for step in steps for batch in step for key in batch.keys}.isdisjoint(unusable)


@pytest.mark.parametrize("encoding", ["separate", "slice"])
def test_no_silence_is_heard_where_the_sound_ends_before_its_words(tmp_path, tokenizer, encoding):
    """The JSON, and so the word times, tell of a second that the recording has not."""
    sample = spoken("a", 3)
    seconds = sample.meta["duration"] - 1
    wave = np.random.default_rng(0).uniform(-0.2, 0.2, round(seconds * RATE)).astype(np.float32)
    with ShardWriter(tmp_path / "short", "noise", 6, words_engine="made") as writer:
        for i in range(6):
            writer.add(Sample(f"h{i}", sample.meta, encode_flac(wave, RATE)), times(sample.text))
    settings = {"text_words": [3, 7], "speech_words": [2, 5], "max_bad_share": 1.0, "span_encoding": encoding}
    short = Planner([SourceConfig(kind="speech", path="short")], lambda name: tmp_path / name,
                    DataConfig(context=CONTEXT, **settings), tokenizer, WHISPER)  # fmt: skip
    plans = [plan for i in range(6) for epoch in range(6) if (plan := short.plan(0, epoch, i, SEED))]
    loaded = [(plan, short.load(plan)) for plan in plans]
    late = [plan for plan, found in loaded if found is None]
    assert len(plans) == 36 and late
    for plan, found in loaded:
        ends = [piece.end for piece in plan.pieces if piece.speech]
        assert found is None or encoding == "separate" and max(ends, default=0) <= seconds + 0.36


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


@dataclass(frozen=True)
class Defect(Hearing):
    def frames(self, samples: int) -> int:
        if samples > 16000 * WORD_SECONDS * 4:
            raise ZeroDivisionError("a defect")
        return super().frames(samples)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_goes_wrong_in_the_loader_reaches_the_consumer(planner, workers):
    defect = Defect(WHISPER.sample_rate, WHISPER.convolutions, WHISPER.max_samples, WHISPER.stack)
    walked = iter(Stream(planner("speech", hearing=defect, workers=workers), SEED, LANES, 1))
    with pytest.raises(ZeroDivisionError, match="a defect") as caught:
        for _ in range(50):
            next(walked)
    assert bool(workers) == ("in a loader process" in "".join(getattr(caught.value, "__notes__", [])))
    assert loader_threads() == []


def test_lanes_without_speech_stay_in_step(planner):
    """Every micro-batch of every rank has a span, so that encoder and adapter run everywhere; a dummy fills nothing."""
    steps, _, _ = walk(lambda: planner("text"), 2, ranks=4)
    for batch in (batch for step in steps for batch in step):
        assert batch.speech_lengths.tolist() == [0] and not batch.audio.any() and len(batch.speech_positions) == 0
        assert WHISPER.frames(batch.audio.shape[1]) == 1
    mixed, _, _ = walk(lambda: planner("deaf", "speech", "text"), 6, ranks=4)
    assert all(len(batch.audio) >= 1 for step in mixed for batch in step)
    assert any(batch.speech_lengths.tolist() == [0] for step in mixed for batch in step), "no lane without speech"


def loader_threads() -> list[str]:
    """Names of the loader's threads that are still alive; those that have been told to stop get a moment."""
    until = time.monotonic() + 30
    while True:
        alive = [t.name for t in threading.enumerate() if t.name == "stream"]
        if not alive or time.monotonic() > until:
            return alive
        time.sleep(0.02)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_closing_early_leaves_no_thread_behind(planner, steps):
    stream = Stream(planner("speech", "text", prefetch=1), SEED, LANES, 1)
    walked = iter(stream)
    for _ in range(steps):
        next(walked)
    time.sleep(0.1 * (steps > 0))  # the queue is full now: the loader waits for room
    began = time.monotonic()
    walked.close()
    assert loader_threads() == [] and time.monotonic() - began < 30
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
    mute = planner("speech", "text")
    for source in mute.sources:
        source.weight = 0.0
    with pytest.raises(SaladError, match="weight.*speech"):
        Stream(mute, SEED, LANES, 1)
