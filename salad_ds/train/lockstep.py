"""All ranks take a step, or none does.

A rank whose data fail would leave the others waiting in their next collective, for half an hour or for ever. So before
each step the ranks say whether they have one, how many samples were skipped, and whether they were told to stop: one
all-reduce of five numbers. When one of them has none, or too many samples of the global batches were lost, every rank
stops with the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist

from salad_ds.data.lanes import LaneState
from salad_ds.data.plan import Skipped, merged
from salad_ds.errors import DataError, in_words
from salad_ds.train.stop import StopRequests
from salad_ds.train.together import gathered


class Ready(Protocol):
    """A step with its lanes' states behind it."""

    states: list[LaneState]


Work = TypeVar("Work", bound=Ready)


def in_step(steps: Iterator[Work], skipped: Skipped, device: torch.device, stop: StopRequests,
            require: Callable[[], None] = lambda: None) -> Iterator[Work]:
    """``steps``, as long as every rank has one and none was told to stop; ``stop.agreed`` then says so on all. What a
    step has skipped is counted in ``skipped`` when it is taken.

    Raises, on every rank, and with ``stop.agreed``: DataError when a larger share than ``skipped.max_share`` of all
    ranks' samples could not be used, with all reasons; and what ended ``steps``, or ``require`` before one of them
    raised, on some rank, named there as it is and on the others as a DataError that says which rank it was.
    """
    while True:
        step, fault = None, None
        try:
            require()
            step = next(steps, None)
        except Exception as error:
            fault = error
        states = step.states if step is not None else []
        for reason, name in [entry for state in states for entry in state.skipped]:
            skipped.note(reason, name)
        told = [fault is not None, step is None, bool(stop.asked), sum(s.seen for s in states),
                sum(s.lost for s in states)]
        numbers = torch.tensor(told, dtype=torch.int64, device=device)
        dist.all_reduce(numbers)
        faults, ended, stops, seen, lost = numbers.tolist()
        stop.agreed = faults > 0 or stops > 0
        if faults:
            raise reason_of(fault)
        if ended or stops or step is None:
            return
        if skipped.too_many(seen, lost):
            whole = Skipped(1.0)
            whole.add(merged(gathered(skipped.table())))
            stop.agreed = True
            raise DataError(
                f"{lost} of {seen} samples cannot be used: {whole}", "mend the shards, or raise data.max_bad_share"
            )
        yield step


def reason_of(fault: Exception | None) -> Exception:
    """What this rank raises when some rank has a fault. A collective."""
    words = gathered(None if fault is None else in_words(fault))
    if fault is not None:
        return fault
    rank, (what, mend) = next((rank, word) for rank, word in enumerate(words) if word is not None)
    return DataError(f"rank {rank} has stopped: {what}", mend)
