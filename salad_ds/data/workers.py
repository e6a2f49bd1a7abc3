"""Who makes the rows: this process, or worker processes beside it.

A worker is given lanes and makes their rows in order, one after the other, so what it sends is what is wanted next and
nobody has to ask for anything. It owns its lanes; only where there are more workers than lanes do several share one:
each plans all of its rows, which is cheap, and loads every n-th.

Workers are started by a fork server, a process of its own that has imported what they need and holds neither threads
nor a CUDA context. A row travels through a pipe: its objects as a pickle, its arrays behind it as they are, read
straight into the memory they are used from. Ten megabytes, the most that a row of sound has, take 5 ms, without the
lock of Python; one copy into shared memory takes 4, and would have to be cleaned up after whoever is killed. Making the
row takes ten times as long. A worker that dies closes its pipe.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import struct
import traceback
from collections.abc import Sequence as Listed
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from salad_ds.data.lanes import Course, Lane, LaneState, Row, with_journal
from salad_ds.data.plan import Planner
from salad_ds.errors import DataError, SaladError

PIPE_BYTES = 1 << 20
"""Wanted size of a pipe: the kernel's 64 KiB would wake both ends 160 times per row."""


@dataclass(frozen=True)
class Duty:
    """A worker makes every ``turns``-th row of a lane (of those of this rank), beginning with row ``turn``."""

    lane: int
    turn: int
    turns: int


def duties(workers: int, lanes: int) -> list[list[Duty]]:
    """What each of ``workers`` does for ``lanes`` lanes."""
    if workers <= lanes:
        return [[Duty(lane, 0, 1) for lane in range(worker, lanes, workers)] for worker in range(workers)]
    shared = [len(range(lane, workers, lanes)) for lane in range(lanes)]
    return [[Duty(w % lanes, w // lanes, shared[w % lanes])] for w in range(workers)]


class Here:
    """Rows made in this process, when they are asked for."""

    def __init__(self, planner: Planner, seed: int, lanes: int, mine: Listed[int], states: Listed[LaneState]) -> None:
        planner = with_journal(planner)
        course = Course(planner, lanes, seed)
        self.lanes = [Lane(planner, course, lane, state) for lane, state in zip(mine, states, strict=True)]

    def row(self, step: int, lane: int) -> Row:
        """The row of lane ``mine[lane]`` in step ``step``; to be asked for step by step, lane by lane."""
        made = self.lanes[lane].row()
        assert made is not None
        return made

    def check(self) -> None:
        """Raises DataError when rows will never come."""

    def close(self) -> None:
        """End what makes rows; safe from any thread, and more than once."""


class Workers:
    """Rows made by processes, in the same order and to the same bytes as ``Here`` makes them."""

    def __init__(
        self, planner: Planner, seed: int, lanes: int, mine: Listed[int], states: Listed[LaneState], workers: int
    ) -> None:
        kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context: Any = multiprocessing.get_context(kind)
        if kind == "forkserver":
            context.set_forkserver_preload([__name__])
        shared = duties(workers, len(mine))
        self.makers = [[worker for worker, own in enumerate(shared) if any(d.lane == lane for d in own)]
                       for lane in range(len(mine))]  # fmt: skip
        blob = pickle.dumps(with_journal(planner), protocol=5)
        self.behind: list[LaneState | None] = [None] * len(mine)
        self.pipes: list[Connection] = []
        self.processes: list[Any] = []
        self.closed = False
        try:
            for own in shared:
                reading, writing = context.Pipe(duplex=False)
                self.pipes.append(reading)
                chosen = [(duty, mine[duty.lane], states[duty.lane]) for duty in own]
                process = context.Process(
                    target=serve, args=(blob, seed, lanes, chosen, writing), name="salad-ds loader", daemon=True
                )
                process.start()
                self.processes.append(process)
                writing.close()
        except BaseException:
            self.close()
            raise

    def row(self, step: int, lane: int) -> Row:
        makers = self.makers[lane]
        number = makers[step % len(makers)]
        pipe = self.pipes[number]
        while pipe not in wait([pipe, *(p.sentinel for p in self.processes if p.exitcode is None)]):
            self.check()
        try:
            found = receive(pipe.fileno())
        except EOFError:
            self.processes[number].join(5)
            self.check()
            raise DataError("a loader process ended without a word", "run again with data.workers=0") from None
        if isinstance(found, BaseException):
            raise found
        if len(makers) > 1 and self.behind[lane] not in (None, found.began):
            raise DataError(
                "loader processes that share a row disagree about what comes next: one of them could not read what "
                "another could",
                "look at the storage; then run again, the stage goes on from its last checkpoint",
            )
        self.behind[lane] = found.state
        return found

    def check(self) -> None:
        """Raises DataError, naming the signal, when a worker has died."""
        for process in self.processes:
            code = None if self.closed else process.exitcode
            if code:
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
                raise DataError(
                    f"loader process {process.pid} {how}",
                    "SIGKILL mostly means that memory ran out: lower data.workers, data.prefetch or "
                    "data.shuffle_shards; then run again, the stage goes on from its last checkpoint",
                )

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join()
        self.pipes = []  # closed when the thread that may still read from them lets go


def serve(
    blob: bytes, seed: int, lanes: int, chosen: list[tuple[Duty, int, LaneState]], pipe: Connection
) -> None:
    """A worker's life: rows into ``pipe`` until nobody reads from it. An error is sent as the last thing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training process, which then closes the pipe
    import torch

    torch.set_num_threads(1)
    widen(pipe.fileno())
    try:
        planner = pickle.loads(blob)
        course = Course(planner, lanes, seed)
        owned = [(duty, Lane(planner, course, lane, state)) for duty, lane, state in chosen]
        step = 0
        while True:
            for duty, lane in owned:
                row = lane.row(load=step % duty.turns == duty.turn)
                if row is not None:
                    send(pipe.fileno(), row)
            step += 1
    except BrokenPipeError:
        return
    except BaseException as error:
        with contextlib.suppress(BrokenPipeError):
            send(pipe.fileno(), _portable(error))


def _portable(error: BaseException) -> BaseException:
    """The error with its traceback as a note, for a traceback does not travel; or its words, if it does not either."""
    if not isinstance(error, SaladError):
        error.add_note(f"in a loader process:\n{''.join(traceback.format_exception(error))}")
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError("in a loader process:\n" + "".join(traceback.format_exception(error)))


def widen(pipe: int) -> None:
    """A larger buffer for ``pipe``, where the system allows it."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def send(pipe: int, value: Any) -> None:
    """Write ``value`` to a pipe: its arrays as they are, behind the pickle of everything else."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    raws = [buffer.raw() for buffer in buffers]
    sizes = [len(raw) for raw in raws]
    counts = struct.pack("<QQ", len(head), len(sizes)), struct.pack(f"<{len(sizes)}Q", *sizes)
    parts: list[bytes | memoryview] = [*counts, head, *raws]
    for part in parts:
        rest = memoryview(part)
        while len(rest):
            rest = rest[os.write(pipe, rest) :]


def receive(pipe: int) -> Any:
    """What ``send`` wrote. Raises EOFError when the other end is closed."""
    length, count = struct.unpack("<QQ", _read(pipe, 16))
    sizes = struct.unpack(f"<{count}Q", _read(pipe, 8 * count))
    head = _read(pipe, length)
    whole = _read(pipe, sum(sizes))
    buffers, at = [], 0
    for size in sizes:
        buffers.append(whole[at : at + size])
        at += size
    return pickle.loads(head, buffers=buffers)


def _read(pipe: int, size: int) -> memoryview:
    whole = memoryview(np.empty(size, dtype=np.uint8))
    rest = whole
    while len(rest):
        got = os.readv(pipe, [rest])
        if not got:
            raise EOFError("the other end is closed")
        rest = rest[got:]
    return whole
