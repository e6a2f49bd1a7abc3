"""From shards to global batches, in an order that can be resumed anywhere.

A global batch has as many *lanes* as rows (lanes.py). A rank owns a contiguous run of lanes and a worker some of the
rank's (workers.py), so the global batches are the same for every number of ranks that divides the lanes and for every
number of workers, and the state of the stream is a few integers per lane.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from salad_ds.data.collate import MicroBatch, collate
from salad_ds.data.lanes import Course, LaneState
from salad_ds.data.plan import Planner
from salad_ds.data.workers import Here, Workers
from salad_ds.errors import DataError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Tensors = TypeVar("Tensors", bound="DataclassInstance")
"""A micro-batch, or targets."""


@dataclass
class StreamState:
    """Position of the whole stream: one LaneState per lane of the global batch."""

    lanes: list[LaneState]

    def as_json(self) -> list[Any]:
        return [lane.as_json() for lane in self.lanes]

    @classmethod
    def from_json(cls, value: list[Any]) -> StreamState:
        return cls([LaneState.from_json(lane) for lane in value])


@dataclass
class Step:
    """What one rank needs for one optimizer step: its micro-batches, and its lanes' states after them."""

    batches: list[MicroBatch]
    states: list[LaneState]


class Stream:
    """The steps of one rank. Iterate for ever, once; the next ``data.prefetch`` steps are made while one is trained.

    What was skipped is told by the states of a step and counted by whoever takes it (train/lockstep.py): the count is
    that of the samples up to there, however far the loader is ahead, and of several ranks none stops alone.

    Raises RecipeError for shares that cannot be kept, DataError for numbers that do not fit the ranks or the state, and
    in the consumer whatever went wrong in making a step, when that step's turn has come; a loader process that has died
    is told at once. Closing the iterator ends loader thread and processes.
    """

    def __init__(
        self,
        planner: Planner,
        seed: int,
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        ranks: int = 1,
        pad_id: int = 0,
        state: StreamState | None = None,
    ) -> None:
        if global_batch % (ranks * micro_batch):
            raise DataError(
                f"global_batch {global_batch} is not a multiple of micro_batch {micro_batch} × {ranks} ranks",
                "change stages.*.global_batch or the number of ranks",
            )
        if state is not None and len(state.lanes) != global_batch:
            raise DataError(
                f"the checkpoint has {len(state.lanes)} lanes, the recipe a global batch of {global_batch}",
                "resume with the global batch the stage began with",
            )
        Course(planner, global_batch, seed)  # refuses weights before anything starts
        per_rank = global_batch // ranks
        self.mine = range(rank * per_rank, (rank + 1) * per_rank)
        self.states = [state.lanes[lane] if state else LaneState() for lane in self.mine]
        self.planner, self.seed, self.global_batch, self.ranks = planner, seed, global_batch, ranks
        self.micro_batch, self.pad_id, self.dummy = micro_batch, pad_id, planner.dummy()
        self._begun = False

    def _step(self, source: Here | Workers, number: int) -> Step:
        rows = [source.row(number, lane) for lane in range(len(self.mine))]
        batches = [
            collate([row.sequences for row in rows[i : i + self.micro_batch]], self.pad_id,
                    self.planner.data.context, self.dummy)
            for i in range(0, len(rows), self.micro_batch)
        ]  # fmt: skip
        if torch.cuda.is_available():
            batches = [pinned(batch) for batch in batches]
        self.states = [row.behind(before) for row, before in zip(rows, self.states, strict=True)]
        return Step(batches, self.states)

    def __iter__(self) -> Iterator[Step]:
        if self._begun:  # the lanes have run ahead of the steps that were taken
            raise RuntimeError("a stream is walked once; make another from the state of the last step")
        self._begun = True
        common = (self.planner, self.seed, self.global_batch, self.mine, self.states)
        workers = self.planner.data.workers
        source: Here | Workers = Workers(*common, workers) if workers else Here(*common)
        ready = Ready(self.planner.data.prefetch)

        def fill() -> None:
            number = 0
            while not ready.closed:
                try:
                    step = self._step(source, number)
                except BaseException as error:  # handed to the consumer, who raises it
                    ready.end(error)
                    return
                ready.put(step, source)
                number += 1

        loader = threading.Thread(target=fill, name="stream", daemon=True)
        loader.start()
        try:
            while True:
                yield ready.get()
        finally:
            ready.close()
            source.close()
            if threading.current_thread() is not loader:  # the garbage collector may close us from any thread
                loader.join()


class Ready:
    """Steps between the loader thread and the consumer, at most ``size``; then the error that ended them."""

    def __init__(self, size: int) -> None:
        self.size, self.closed, self.urgent = size, False, False
        self.steps: deque[Step] = deque()
        self.error: BaseException | None = None
        self.changed = threading.Condition()

    def put(self, step: Step, source: Here | Workers) -> None:
        """Wait for room; meanwhile look after the workers, whose death is not kept until the steps before it are
        used up."""
        with self.changed:
            while len(self.steps) >= self.size and not self.closed:
                self.changed.wait(0.2)
                try:
                    source.check()
                except DataError as error:
                    self.error, self.urgent, self.closed = error, True, True
            self.steps.append(step)
            self.changed.notify_all()

    def end(self, error: BaseException) -> None:
        with self.changed:
            self.error = self.error or error
            self.changed.notify_all()

    def get(self) -> Step:
        with self.changed:
            self.changed.wait_for(lambda: self.steps or self.error)
            if self.steps and not self.urgent:
                step = self.steps.popleft()
                self.changed.notify_all()
                return step
            assert self.error is not None
            raise self.error

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def pinned(batch: Tensors) -> Tensors:
    """The same in page-locked memory, from which a copy to the device does not wait for the host."""
    tensors: dict[str, Any] = {name: value.pin_memory() for name, value in vars(batch).items()
                               if isinstance(value, torch.Tensor)}  # fmt: skip
    return replace(batch, **tensors)
