"""Worker processes: what they are given, what comes through the pipe, and what happens when one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.data.lanes import LaneState
from salad_ds.data.stream import Stream
from salad_ds.data.workers import Workers, duties, receive, send
from salad_ds.errors import DataError
from tests.data.test_stream import LANES, SEED, corpora, planner  # noqa: F401  (fixtures)
from tests.processes import gone

REPOSITORY = Path(__file__).parents[2]


@given(workers=st.integers(1, 12), lanes=st.integers(1, 12), steps=st.integers(1, 12))
def test_every_row_is_made_by_exactly_one_worker_and_none_idles(workers, lanes, steps):
    shared = duties(workers, lanes)
    assert len(shared) == workers and all(shared)
    for step in range(steps):
        made = sorted(d.lane for own in shared for d in own if step % d.turns == d.turn)
        assert made == list(range(lanes))
    if workers <= lanes:
        assert max(map(len, shared)) - min(map(len, shared)) <= 1


def test_arrays_come_through_as_they_are():
    """Large, small, empty, strided and integer arrays among other objects; then the end."""
    value = {"a": np.arange(300_000, dtype=np.float32).reshape(3, -1), "b": [np.zeros(0, np.float32), "x"],
             "c": np.arange(20)[::3], "d": (1, None)}  # fmt: skip
    reading, writing = os.pipe()
    thread = threading.Thread(target=lambda: [send(writing, value), send(writing, "next"), os.close(writing)])
    thread.start()
    found = receive(reading)
    assert found["d"] == (1, None) and found["b"][1] == "x" and receive(reading) == "next"
    for ours, theirs in ((found["a"], value["a"]), (found["b"][0], value["b"][0]), (found["c"], value["c"])):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    found["a"][0, 0] = 5.0  # its memory is ours
    with pytest.raises(EOFError):
        receive(reading)
    os.close(reading)
    thread.join()


OTHERS: set[int] = set()
"""Processes that earlier tests have left running, such as a server that forks ranks."""


@pytest.fixture(autouse=True)
def _others():
    OTHERS.clear()
    OTHERS.update(process.pid for process in psutil.Process().children(recursive=True))


def loaders() -> list[psutil.Process]:
    """The loader processes of this test that run; those that have been told to end get a moment."""
    mine = [process for process in psutil.Process().children(recursive=True) if process.pid not in OTHERS]
    return [p for p in mine if p.is_running() and p.status() != psutil.STATUS_ZOMBIE and len(p.parents()) > 1
            and p.parent().pid != os.getpid()]  # fmt: skip


def until(ready: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("when", ["waiting for a row", "while the queue is full"])
def test_a_killed_worker_is_told_at_once(planner, when):  # noqa: F811
    stream = Stream(planner("uneven", "text", workers=2), SEED, LANES, 1)
    walked = iter(stream)
    next(walked)
    victims = loaders()
    assert len(victims) == 2
    ready = walked.gi_frame.f_locals["ready"]  # its queue, which it does not show
    if when == "while the queue is full":
        until(lambda: len(ready.steps) == ready.size)
        time.sleep(1)  # one more step is made, and waits for room
    victims[0].send_signal(signal.SIGKILL)
    if when == "while the queue is full":
        until(lambda: ready.error)  # noticed though nobody takes a step, and told before those that lie ready
    with pytest.raises(DataError, match=f"loader process {victims[0].pid} was killed by SIGKILL") as caught:
        for _ in range(1 if when == "while the queue is full" else 10_000):
            next(walked)
    assert "memory" in caught.value.mend and gone([victim.pid for victim in victims])


def test_closing_ends_the_workers_whatever_they_do(planner):  # noqa: F811
    walked = iter(Stream(planner("uneven", "text", workers=3), SEED, LANES, 1))
    list(islice(walked, 2))
    workers = loaders()
    assert len(workers) == 3
    walked.close()
    assert gone([worker.pid for worker in workers])
    assert not [t for t in threading.enumerate() if t.name == "stream"]


SCRIPT = """
import sys, time
from pathlib import Path
from transformers import AutoTokenizer
from salad_ds.config import DataConfig, SourceConfig
from salad_ds.data.plan import Planner
from salad_ds.data.lanes import LaneState
from salad_ds.data.stream import Stream
from salad_ds.hearing import Hearing

if __name__ == "__main__":
    root, tokenizer = Path(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[2])
    planner = Planner([SourceConfig("speech", "uneven")], root.joinpath, DataConfig(context=64, workers=2), tokenizer,
                      Hearing(16000, ((1, 320),), 480000, 4))
    for step in Stream(planner, 0, 4, 1):
        print("step", flush=True)
        time.sleep(0.05)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_the_workers_end_with_their_process(how, corpora, smollm2_dir, tmp_path):  # noqa: F811
    """Ctrl-C goes to the whole group, as a terminal sends it; kill -9 to the training process alone."""
    (tmp_path / "train.py").write_text(SCRIPT)
    job = subprocess.Popen(
        [sys.executable, str(tmp_path / "train.py"), str(corpora), str(smollm2_dir)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    try:
        assert job.stdout.readline() == "step\n", job.communicate(timeout=60)[1][-2000:]
        family = psutil.Process(job.pid).children(recursive=True)
        assert len(family) >= 3
        os.killpg(job.pid, how) if how == signal.SIGINT else job.send_signal(how)
        _, errors = job.communicate(timeout=120)
        assert gone([process.pid for process in family])
        assert "Exception in" not in errors and errors.count("Traceback") <= 1, errors
    finally:
        job.kill()


@pytest.mark.parametrize("fault", [False, True])
def test_workers_of_one_lane_that_disagree_stop_the_stream(planner, fault):  # noqa: F811
    """Both plan every row of the lane; what only one of them could not read would give rows twice, or never."""
    plain = planner("speech", "text")
    source = Workers(plain, SEED, 1, [0], [LaneState()], 2)
    other = Workers(plain, SEED, 1, [0], [LaneState(taken=[3, 2], spent=[40, 30])], 2)
    try:
        source.row(0, 0)
        if fault:
            source.pipes[1], other.pipes[1] = other.pipes[1], source.pipes[1]
            with pytest.raises(DataError, match="disagree about what comes next"):
                source.row(1, 0)
        else:
            assert [source.row(step, 0).began.taken for step in (1, 2, 3)]
    finally:
        source.close()
        other.close()
