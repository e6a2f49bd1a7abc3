"""Two ranks whose data differ in what goes wrong: what test_lockstep.py starts.

Run as a module: ``python -m tests.train.lockstep CASE...``; each rank prints what ended each case.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
import torch.distributed as dist

from salad_ds.data.lanes import LaneState
from salad_ds.data.plan import Skipped
from salad_ds.data.stream import Step
from salad_ds.errors import DataError
from salad_ds.train.lockstep import in_step
from salad_ds.train.stop import StopRequests


def steps(case: str, rank: int) -> Iterator[Step]:
    """Forty steps of two lanes; each row sees ten samples."""
    states = [LaneState([0], [0]), LaneState([0], [0])]
    for number in range(1, 41):
        if rank == 1 and number == 7 and case == "fault":
            raise DataError("speech/000003.tar is missing", "copy it back")
        if rank == 1 and number == 7 and case == "defect":
            raise ZeroDivisionError("a defect")
        bad = rank == 1 and case in ("lossy", "tolerable")
        told = [("has no word times", f"speech:u{number}")] if bad and (case == "lossy" or number % 4 == 0) else []
        states = [
            LaneState([number], [0], [], state.seen + 10, state.lost + len(told), list(told)) for state in states
        ]
        yield Step([], states)


def run(case: str) -> str:
    skipped, taken = Skipped(0.04), 0
    try:
        for _ in in_step(steps(case, dist.get_rank()), skipped, torch.device("cpu"), StopRequests()):
            taken += 1
            dist.barrier()  # the step: a rank that took one more than the other would wait here for ever
        end = "done"
    except Exception as error:
        end = f"{type(error).__name__}: {error}"
    return f"rank {dist.get_rank()} took {taken}: {end}; skipped {skipped.lost}"


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for name in sys.argv[1:]:
        sys.stdout.write(f"{name}: {run(name)}\n")
    sys.stdout.flush()
    dist.destroy_process_group()
