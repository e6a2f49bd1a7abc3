"""Losses that are not numbers, or far too large."""

from __future__ import annotations

import math

from tests.faults.fault import Fault, NotAsPromised, Told, short
from tests.faults.losses import DATA, lost_records, rows
from tests.faults.room import STEPS, Room

PATIENT = ("stages.stage1.bad_steps=3", "stages.stage1.spike=10")


def discarded(room: Room, how: str, step: int) -> Told:
    """One bad step: passed over, counted, and the next ones are trained."""
    room.begin()
    said = room.through(room.training(*PATIENT, struck=how), "1 steps were discarded")
    marked = [row["step"] for row in room.rows() if row["discarded"]]
    if marked != [step]:
        raise NotAsPromised(f"discarded steps in log.jsonl: {marked}")
    why = next(line for line in said.splitlines() if "steps were discarded" in line)
    return Told(f"{short(why)!r}; the steps before it are the same, all others read the same samples",
                room.lost(same_until=step - 1))


def back(room: Room) -> Told:
    room.begin()
    said = room.through(room.training(*PATIENT, struck="nan=5,6,7"), "3 bad steps in a row")
    why = next(line for line in said.splitlines() if "3 bad steps in a row" in line)
    whole, there, found = rows(room.whole()), room.rows(), []
    if [row["step"] for row in there] != list(range(1, STEPS + 1)):
        found.append(f"log.jsonl has the steps {[row['step'] for row in there]}")
    found += [f"step {row['step']} has the loss {row['loss']}" for row in there if not math.isfinite(row["loss"])]
    pairs = list(zip(whole[:4], there[:4], strict=True)) + list(zip(whole[7:], there[4:], strict=False))
    found += [f"step {have['step']} has not the data of batch {want['step']}" for want, have in pairs
              if any(want[key] != have[key] for key in DATA)]
    found += [f"step {have['step']}: another loss" for want, have in pairs[:4] if want["loss"] != have["loss"]]
    return Told(f"{short(why)!r}; all steps were taken", found + lost_records(room.work, room.work / "mlflow.db"))


def never(room: Room) -> Told:
    """A machine that computes nonsense; then one that does not."""
    room.begin()
    with room.training(*PATIENT, struck=f"nan={','.join(map(str, range(3, 99)))}") as job:
        why = job.must_fail("went back 3 times, and still its loss is nan")
    return room.goes_on(f"stopped: {short(why, 100)!r}", *PATIENT)


FAULTS = [
    Fault("nan", "a loss that is not a number", lambda room: discarded(room, "nan=5", 5)),
    Fault("spike", "a loss a hundred times too large", lambda room: discarded(room, "spike=9", 9)),
    Fault("roll-back", "three bad steps in a row", back),
    Fault("nan-for-ever", "no loss is a number any more", never),
]
