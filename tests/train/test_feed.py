"""The feed hands over what the stream and the store hold, in order, ahead of time, and never more than it should."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
import torch

from salad_ds.data.collate import Sequence, collate
from salad_ds.data.interleave import Piece
from salad_ds.data.lanes import LaneState
from salad_ds.data.stream import Step
from salad_ds.errors import DataError, StoreError
from salad_ds.teacher.sampling import uniforms
from salad_ds.teacher.store import StoreSettings, TeacherStore
from salad_ds.teacher.stored import StoredTeacher
from salad_ds.text import text_key
from salad_ds.train.feed import Feed, Stopwatch

VOCAB, STEPS, MICRO_BATCHES = 300, 5, 3
CPU = torch.device("cpu")


def text(step: int, micro_batch: int, n: int) -> tuple[int, ...]:
    rng = np.random.default_rng([step, micro_batch, n])
    return (0, *rng.integers(1, VOCAB, 4 + n).tolist())


def step_of(step: int) -> Step:
    """Three micro-batches of one row with two texts."""
    rows = [[Sequence(f"{n}", ids := text(step, m, n), [Piece(False, 0, len(ids), len(ids))]) for n in range(2)]
            for m in range(MICRO_BATCHES)]  # fmt: skip
    return Step([collate([row], 0, 32) for row in rows], [LaneState([step])])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> StoredTeacher:
    """A store of random distributions for every text of every step."""
    settings = StoreSettings(teacher="t", tokenizer="k", vocab=VOCAB, top_k=8, samples=4, seed=0)
    store = TeacherStore.create(tmp_path_factory.mktemp("store"), settings)
    texts = [text(s, m, n) for s in range(STEPS) for m in range(MICRO_BATCHES) for n in range(2)]
    g = torch.Generator().manual_seed(0)
    store.add([(key := text_key(ids), store.rule.keep(torch.randn(len(ids) - 1, VOCAB, generator=g) * 2, uniforms(
        0, key, len(ids) - 1, store.rule.uniforms))) for ids in texts], {})  # fmt: skip
    store.refresh()
    return StoredTeacher(store)


class Slow(StoredTeacher):
    def targets(self, requests):
        time.sleep(0.1)
        return super().targets(requests)


def source(taken: list[int], steps: int = STEPS, pause: float = 0.0, fault: int | None = None) -> Iterator[Step]:
    """The steps; ``taken`` notes which were asked for, and -1 when it is closed or ends."""
    try:
        for step in range(steps):
            time.sleep(pause)
            if step == fault:
                raise DataError("a shard is damaged", "mend it")
            taken.append(step)
            yield step_of(step)
    finally:
        taken.append(-1)


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "feed" or t.name.startswith("targets")]


def check(feed: Feed, teacher: StoredTeacher | None, device: torch.device) -> None:
    """Every micro-batch of every step, with the targets that the teacher gives when it is asked directly."""
    seen = 0
    for number, work in enumerate(feed):
        wanted = step_of(number)
        assert work.states == [LaneState([number])]
        assert work.labels == sum(len(batch.labels) for batch in wanted.batches)
        for fed, batch in zip(work.batches, wanted.batches, strict=True):
            assert fed.batch.input_ids.device.type == device.type
            assert torch.equal(fed.batch.input_ids.cpu(), batch.input_ids) and fed.batch.texts == batch.texts
            if teacher is None:
                assert fed.targets is None
            else:
                truth = teacher.targets(batch.teacher_requests())
                assert fed.targets.weights.device.type == device.type
                assert torch.equal(fed.targets.ids.cpu(), truth.ids)
                assert torch.equal(fed.targets.weights.cpu(), truth.weights)
                assert len(truth) == len(fed.batch.labels)
            seen += 1
    assert seen == STEPS * MICRO_BATCHES


@pytest.mark.parametrize(("ahead", "workers"), [(1, 1), (4, 3), (50, 2)])
def test_everything_comes_in_order_with_its_targets(teacher, ahead: int, workers: int) -> None:
    check(Feed(source(taken := []), teacher, CPU, ahead, workers), teacher, CPU)
    assert taken == [0, 1, 2, 3, 4, -1] and not threads()
    check(Feed(source([], 99), None, CPU, ahead, workers, steps=STEPS), None, CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_everything_comes_to_the_device_on_a_stream_of_its_own(teacher) -> None:
    device = torch.device("cuda", 0)
    busy = torch.randn(4096, 4096, device=device)
    for _ in range(20):  # copies that did not wait would be read too early, or overwritten while the step runs
        busy = busy @ busy / 64
    check(Feed(source([]), teacher, device, 4, 2), teacher, device)


def test_the_feed_runs_ahead_and_no_further(teacher) -> None:
    """One step is trained, one lies decoded, one is being decoded; and micro-batches of at most one more were taken
    to the device. However small the steps, ``ahead`` + 1 micro-batches are on the device."""
    taken: list[int] = []
    feed = Feed(source(taken), teacher, CPU, ahead=2)
    with closing(iter(feed)) as steps:
        work = next(steps)
        end = time.monotonic() + 60
        while len(taken) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.3)
        assert taken == [0, 1, 2]
        for left in (2, 1, 0):
            next(work.batches)
            assert len(feed.sent) == 2 and len(feed.waiting) + 2 == left + (MICRO_BATCHES if left < 2 else 0)
    assert taken[-1] == -1 and not threads()


def test_closing_early_ends_the_threads_and_the_stream(teacher) -> None:
    for steps_taken in (0, 1):
        steps = iter(Feed(source(taken := []), Slow(teacher.store), CPU))
        for _ in range(steps_taken):
            next(steps)
        steps.close()
        assert not threads() and (taken[-1:] == [-1] or not steps_taken)


def test_a_fault_of_the_stream_comes_when_its_step_would(teacher) -> None:
    steps = iter(Feed(source(taken := [], fault=2), teacher, CPU))
    for _ in range(2):
        list(next(steps).batches)
    with pytest.raises(DataError, match="a shard is damaged"):
        next(steps)
    assert taken == [0, 1, -1] and not threads()


def test_a_text_that_the_store_lacks_is_named_before_its_step_begins(teacher) -> None:
    steps = iter(Feed(source([], steps=STEPS + 1), teacher, CPU))
    for _ in range(STEPS):
        list(next(steps).batches)
    with pytest.raises(StoreError, match=r"no record of the text with the token ids \[0, "):
        next(steps)
    assert not threads()


def test_a_teacher_that_shares_the_device_is_asked_in_the_step(teacher) -> None:
    class Live(StoredTeacher):
        ahead = False

        def targets(self, requests):
            raise AssertionError("asked ahead of the step")

    for number, work in enumerate(Feed(source([]), Live(teacher.store), CPU)):
        for fed, batch in zip(work.batches, step_of(number).batches, strict=True):
            assert fed.targets is None
            assert [ids for ids, _ in fed.requests] == batch.texts
            truth = teacher.targets(batch.teacher_requests())
            assert torch.equal(teacher.targets(fed.requests).ids, truth.ids)


def test_waiting_is_told_apart(teacher) -> None:
    def waits(feed: Feed) -> tuple[float, float]:
        works = [(work.data_wait, work.teacher_wait) for work in feed if [list(work.batches)]]
        return tuple(map(sum, zip(*works, strict=True)))

    tries = []
    for _ in range(3):  # a machine that stalls adds to one wait, or hides another
        data, told = waits(Feed(source([], pause=0.2), teacher, CPU))
        other_data, other_told = waits(Feed(source([]), Slow(teacher.store), CPU, workers=3))
        if data > max(0.6, other_data) and other_told > max(0.3, told):
            return
        tries.append((data, told, other_data, other_told))
    pytest.fail(f"slow data (its wait, the teacher's), a slow teacher (the same): {tries}")


def test_a_stopwatch_adds_up_and_begins_anew() -> None:
    watch, began = Stopwatch(CPU), time.perf_counter()
    for _ in range(2):
        with watch:
            time.sleep(0.02)
    assert 0.04 <= watch.read() <= time.perf_counter() - began
    assert watch.read() == 0
