"""From the stream to the step: micro-batches with their targets, on the device before they are needed.

A thread walks the stream and lets workers read and decode what the teacher's store says about a step, one step ahead of
the one that is trained; a step is handed over when all of it is there, so that what is wrong with it is known before
any of it is trained. The micro-batches then go to the device a few ahead, on CUDA from page-locked memory on a stream
of their own: neither does the step wait for a copy nor a copy for the step. A live teacher shares the device with the
student: it is asked in the step, and the feed only prepares the questions.

Nothing here decides anything: a step comes with the stream's state behind it, however far the feed has run ahead.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from salad_ds.data.collate import MicroBatch
from salad_ds.data.lanes import LaneState
from salad_ds.data.stream import Step, pinned
from salad_ds.distill.targets import Targets
from salad_ds.teacher.stored import Request, Teacher


@dataclass
class Fed:
    """One micro-batch. ``targets``: what the teacher says about it; None if it is to be asked in the step (then there
    are ``requests``), or if there is no teacher."""

    batch: MicroBatch
    requests: list[Request]
    targets: Targets | None
    arrived: Any = None
    """CUDA event: the copies are done."""


@dataclass
class Work:
    """One optimizer step of one rank. ``labels``: how many text targets its micro-batches have; ``states``: of the
    rank's lanes behind it. ``batches`` must be walked to the end before the next step is taken.

    ``data_wait``, ``teacher_wait``: seconds for which the step was asked for in vain, because the stream had not
    delivered it, or because its targets were not decoded."""

    labels: int
    states: list[LaneState]
    batches: Iterator[Fed]
    data_wait: float
    teacher_wait: float


GRACE = 10.0
"""Seconds that a closed feed waits for its thread: one that hangs in a read from far storage ends with the process."""


@dataclass
class _Decoded:
    step: Step
    batches: list[Fed] = field(default_factory=list)
    delivered: float = 0.0
    """When the stream had it, seconds of ``time.perf_counter``."""


class Feed:
    """The steps of ``stream`` (the first ``steps`` of them, or all), ready to be trained; to be walked once.

    ``teacher``: None for hard labels alone. ``ahead``: micro-batches on the device beside the one that is trained.
    ``workers``: threads that decode. What goes wrong in the stream or in the store is raised when that step's turn has
    come. Closing the iterator ends the threads, and the stream.
    """

    def __init__(
        self,
        stream: Iterable[Step],
        teacher: Teacher | None,
        device: torch.device,
        ahead: int = 4,
        workers: int = 2,
        steps: int | None = None,
    ) -> None:
        self.stream, self.teacher, self.device, self.steps = stream, teacher, device, steps
        self.ahead, self.workers, self.closed = ahead, max(workers, 1), False
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.decoded: queue.Queue[_Decoded | BaseException | None] = queue.Queue(maxsize=1)
        self.taken: deque[_Decoded | BaseException | None] = deque()  # from the queue, but not yet trained
        self.waiting: deque[Fed] = deque()  # on the host
        self.sent: deque[Fed] = deque()  # on the device

    def __iter__(self) -> Generator[Work]:
        walker = threading.Thread(target=self._walk, name="feed", daemon=True)
        walker.start()
        try:
            while True:
                began = time.perf_counter()
                if not self.taken:
                    self._take(block=True)
                ended, item = time.perf_counter(), self.taken.popleft()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    return
                data = min(max(item.delivered - began, 0.0), ended - began)
                labels = sum(len(fed.batch.labels) for fed in item.batches)
                yield Work(labels, item.step.states, self._batches(len(item.batches)), data, ended - began - data)
        finally:
            self.closed = True
            walker.join(GRACE)

    def _walk(self) -> None:
        """The thread that walks the stream, at most one decoded step ahead of what was taken."""
        steps = iter(self.stream)
        try:
            with ThreadPoolExecutor(self.workers, "targets", self._settle) as pool:
                for step in itertools.islice(steps, self.steps):
                    item = _Decoded(step, delivered=time.perf_counter())
                    item.batches = list(pool.map(self._decode, step.batches))
                    if not self._put(item):
                        return
            self._put(None)
        except BaseException as error:  # handed to the consumer, who raises it
            self._put(error)
        finally:
            if close := getattr(steps, "close", None):
                close()

    def _settle(self) -> None:
        """A new thread is on the first device, whose memory is another rank's."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def _put(self, item: _Decoded | BaseException | None) -> bool:
        while not self.closed:
            try:
                self.decoded.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _decode(self, batch: MicroBatch) -> Fed:
        """One micro-batch, in a worker's thread."""
        requests = batch.teacher_requests() if self.teacher is not None else []
        if self.teacher is None or not self.teacher.ahead:
            return Fed(batch, requests, None)
        targets = self.teacher.targets(requests)
        return Fed(batch, requests, targets if self.side is None else pinned(targets))

    def _take(self, block: bool) -> bool:
        """Take a step from the queue; False if there is none and we do not wait."""
        try:
            item = self.decoded.get(block)
        except queue.Empty:
            return False
        self.taken.append(item)
        if isinstance(item, _Decoded):
            self.waiting.extend(item.batches)
            return True
        return False  # nothing comes behind it

    def _batches(self, count: int) -> Iterator[Fed]:
        for _ in range(count):
            while len(self.sent) <= self.ahead and (self.waiting or self._take(block=False)):
                self.sent.append(self._send(self.waiting.popleft()))
            fed = self.sent.popleft()
            self._accept(fed)
            yield fed

    def _send(self, fed: Fed) -> Fed:
        """Begin to copy a micro-batch to the device."""
        if self.side is None:
            targets = None if fed.targets is None else fed.targets.to(self.device)
            return replace(fed, batch=fed.batch.to(self.device), targets=targets)
        with torch.cuda.stream(self.side):
            batch = pinned(fed.batch).to(self.device)
            targets = None if fed.targets is None else fed.targets.to(self.device, non_blocking=True)
            return replace(fed, batch=batch, targets=targets, arrived=self.side.record_event())

    def _accept(self, fed: Fed) -> None:
        """Let the step's stream wait for the copies, and keep their memory until that stream has used it."""
        if fed.arrived is None:
            return
        current = torch.cuda.current_stream(self.device)
        current.wait_event(fed.arrived)
        for part in (fed.batch, fed.targets):
            for value in vars(part).values() if part is not None else ():
                if isinstance(value, Tensor) and value.is_cuda:
                    value.record_stream(current)


class Stopwatch:
    """Seconds spent within ``with`` blocks, on a GPU those of its work; ``read`` waits for it and begins anew."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.marks: list[tuple[Any, Any]] = []
        self.began: Any = None

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def __enter__(self) -> None:
        self.began = self._now()

    def __exit__(self, *_: object) -> None:
        self.marks.append((self.began, self._now()))

    def read(self) -> float:
        marks, self.marks = self.marks, []
        if not self.cuda:
            return sum(end - begin for begin, end in marks)
        if marks:
            marks[-1][1].synchronize()
        return sum(begin.elapsed_time(end) for begin, end in marks) / 1000
