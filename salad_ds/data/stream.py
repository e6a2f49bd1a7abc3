"""From shards to global batches, in an order that can be resumed anywhere.

A global batch has as many *lanes* as rows. Lane l of L walks the samples l, l + L, l + 2L, … of the mixture and packs
them into one row per step; nothing it does depends on the other lanes. A rank owns a contiguous run of lanes, so the
global batches are the same for every number of ranks that divides L, and the loader's state is a few integers per lane.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from salad_ds.data.collate import MicroBatch, collate
from salad_ds.data.order import Mixture
from salad_ds.data.plan import Plan, Planner
from salad_ds.errors import DataError, RecipeError

WINDOW = 6
"""Samples a lane looks ahead for one that still fits its row."""


@dataclass
class LaneState:
    """``cursor``: samples the lane has taken from the mixture. ``waiting``: mixture positions that did not fit yet, in
    order."""

    cursor: int = 0
    waiting: list[int] = field(default_factory=list)


class Lane:
    """One row per step. The row takes the oldest waiting sample, then every one of the next few that still fits."""

    def __init__(self, planner: Planner, mixture: Mixture, lane: int, lanes: int, seed: int, state: LaneState) -> None:
        self.planner, self.mixture, self.lane, self.lanes, self.seed = planner, mixture, lane, lanes, seed
        self.cursor = state.cursor
        self.waiting: list[tuple[int, Plan]] = []
        for position in state.waiting:
            plan = self._plan(position)
            if plan is not None:
                self.waiting.append((position, plan))

    @property
    def state(self) -> LaneState:
        return LaneState(self.cursor, [position for position, _ in self.waiting])

    def _plan(self, position: int) -> Plan | None:
        return self.planner.plan(*self.mixture[position], self.seed)

    def _look_ahead(self) -> None:
        missed = 0
        while len(self.waiting) < WINDOW:
            position = self.lane + self.lanes * self.cursor
            self.cursor += 1
            plan = self._plan(position)
            if plan is not None:
                self.waiting.append((position, plan))
                missed = 0
            elif (missed := missed + 1) > 1000:
                raise DataError(
                    f"1000 samples in a row cannot be used: {self.planner.skipped}",
                    "mend the shards, and run salad-ds align on them",
                )

    def row(self) -> list[Plan]:
        """Plans that together fill at most ``context`` positions."""
        taken: list[Plan] = []
        room = self.planner.data.context
        while True:
            self._look_ahead()
            chosen = next((i for i, (_, plan) in enumerate(self.waiting) if plan.positions <= room), None)
            if chosen is None:
                return taken
            _, plan = self.waiting.pop(chosen)
            taken.append(plan)
            room -= plan.positions


@dataclass
class StreamState:
    """Position of the whole stream: one LaneState per lane of the global batch."""

    lanes: list[LaneState]

    def as_json(self) -> list[Any]:
        return [[lane.cursor, lane.waiting] for lane in self.lanes]

    @classmethod
    def from_json(cls, value: list[Any]) -> StreamState:
        return cls([LaneState(int(cursor), [int(p) for p in waiting]) for cursor, waiting in value])


@dataclass
class Step:
    """What one rank needs for one optimizer step: its micro-batches, and its lanes' states after them."""

    batches: list[MicroBatch]
    states: list[LaneState]


class Stream:
    """The steps of one rank. Iterate for ever, once; audio of the next steps is decoded while the current one trains.

    Raises RecipeError for shares that cannot be kept, DataError for numbers that do not fit the ranks or the state, and
    in the consumer whatever went wrong in the loader thread. Closing the iterator ends the loader's threads.
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
        ahead: int = 2,
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
        weights = {source.path: source.weight for source in planner.sources}
        try:
            mixture = Mixture(
                [len(shards) for shards in planner.shards], [source.weight for source in planner.sources], seed
            )
        except ValueError as error:
            raise RecipeError(f"{error}: {weights}", "change the weights of this stage's sources") from None
        per_rank = global_batch // ranks
        mine = range(rank * per_rank, (rank + 1) * per_rank)
        self.lanes = [
            Lane(planner, mixture, lane, global_batch, seed, state.lanes[lane] if state else LaneState())
            for lane in mine
        ]
        self.planner, self.micro_batch, self.pad_id, self.ahead = planner, micro_batch, pad_id, ahead
        self.dummy = shortest_clip(planner)
        self._begun = False

    def _step(self, pool: ThreadPoolExecutor) -> Step:
        rows = [lane.row() for lane in self.lanes]
        loaded = [[pool.submit(self.planner.load, plan) for plan in row] for row in rows]
        sequences = [[sequence for future in row if (sequence := future.result()) is not None] for row in loaded]
        batches = [
            collate(sequences[i : i + self.micro_batch], self.pad_id, self.planner.data.context, self.dummy)
            for i in range(0, len(sequences), self.micro_batch)
        ]
        return Step(batches, [lane.state for lane in self.lanes])

    def __iter__(self) -> Iterator[Step]:
        if self._begun:  # the lanes have run ahead of the steps that were taken
            raise RuntimeError("a stream is walked once; make another from the state of the last step")
        self._begun = True
        ready: queue.Queue[Step | BaseException] = queue.Queue(maxsize=self.ahead)
        stop = threading.Event()
        pool = ThreadPoolExecutor(max(self.planner.data.workers, 1), thread_name_prefix="decode")

        def fill() -> None:
            while not stop.is_set():
                try:
                    item: Step | BaseException = self._step(pool)
                except BaseException as error:  # handed to the consumer, who raises it
                    item = error
                while not stop.is_set():
                    try:
                        ready.put(item, timeout=0.2)
                        break
                    except queue.Full:
                        continue
                if isinstance(item, BaseException):
                    return

        loader = threading.Thread(target=fill, name="stream", daemon=True)
        loader.start()
        try:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            if threading.current_thread() is not loader:  # the garbage collector may close us from any thread
                loader.join()


def shortest_clip(planner: Planner) -> int:
    """Fewest samples that still make one LLM position: the length of a dummy span."""
    low, high = 1, planner.sample_rate
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if planner.frames(middle) >= 1 else (middle + 1, high)
    return low
