"""Checkpoints and logs that are cut short, damaged, or find no room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from salad_ds.files import read_json
from tests.faults.fault import Fault, NotAsPromised, Told, TooLate, short
from tests.faults.room import Room


def killed_in_saving(how: str, after: str, named: str) -> Callable[[Room], Told]:
    """SIGKILL at a place of writing the checkpoint of step 6; the next job continues behind step ``after``."""

    def inflict(room: Room) -> Told:
        room.begin()
        with room.training(struck=how) as job:
            job.must_fail()
            job.gone()
        there = sorted(path.name for path in room.checkpoints.glob("step-*"))
        if not any(name.startswith("step-00000006") for name in there):
            raise TooLate(f"there are {there}")
        said = room.train(says=f"continuing after step {after}")
        if named and named not in said:
            raise NotAsPromised(f"it does not say {named!r}: {said[-800:]}")
        return Told(f"left: {', '.join(there)}; the same command went on after step {after}", room.lost())

    return inflict


def damaged(damage: Callable[[Path], object], reason: str) -> Callable[[Room], Told]:
    """The newest checkpoint is hurt: it is named, passed over, and the one before it taken."""

    def inflict(room: Room) -> Told:
        room.begin_stopped()
        damage(room.checkpoints / "step-00000005")
        said = room.train(says="continuing after step 4")
        line = next((line for line in said.splitlines() if "passing over" in line and reason in line), None)
        if line is None:
            raise NotAsPromised(f"it does not say {reason!r}: {said[-800:]}")
        why = line.replace(f"{room.checkpoints}/", "")
        return Told(f"{short(why)!r}; went on after step 4", room.lost())

    return inflict


def largest(checkpoint: Path) -> Path:
    return max(checkpoint.rglob("*.pt"), key=lambda path: path.stat().st_size)


def flip(path: Path, places: int = 1) -> None:
    """One bit of ``places`` bytes, evenly through the file, is turned over."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        for number in range(places):
            file.seek(size * (2 * number + 1) // (2 * places))
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))


def torn_mark(checkpoint: Path) -> None:
    mark = checkpoint / "complete.json"
    os.truncate(mark, mark.stat().st_size // 2)


def torn_log(room: Room) -> Told:
    """A machine that lost its power while a line was written; and a line of a step that is behind the checkpoint."""
    room.begin_stopped()
    with open(room.stage / "log.jsonl", "a") as log:
        log.write('{"step": 6, "loss": 9.9}\n{"step": 7, "lo')
    return room.goes_on("the lines behind the checkpoint were dropped")


def disk_full(room: Room) -> Told:
    """A small file system below the checkpoints, which fills."""
    room.begin()
    size = sum(path.stat().st_size for path in (room.whole() / "stage1/checkpoints").rglob("step-*/*.pt")) // 2
    room.checkpoints.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size * 5 // 2}", "tmpfs", str(room.checkpoints)]
    subprocess.run(mount, check=True)
    try:
        with room.training("stages.stage1.keep=9") as job:
            why = job.must_fail("cannot be written", "make room in")
        there = [read_json(path / "complete.json")["step"] for path in room.checkpoints.glob("step-????????")]
        subprocess.run(["mount", "-o", "remount,size=400m", str(room.checkpoints)], check=True)
        told = room.goes_on(f"stopped: {short(why.replace(str(room.directory), ''), 120)!r}, with the steps {there} "
                            "whole; room was made")
    finally:
        subprocess.run(["umount", "-l", str(room.checkpoints)], check=False)
    return told


def no_root() -> str:
    return "" if os.geteuid() == 0 else "needs root, to mount a small disk"


def other_ranks(room: Room) -> Told:
    room.begin_stopped()
    told = room.goes_on("the checkpoint of two ranks was made universal; one rank", ranks=1, rtol=1e-5)
    return Told(told.happened + ", losses and weights to 1e-5", told.lost)


FAULTS = [
    Fault("half-written", "kill -9 with half of a checkpoint's file written",
          killed_in_saving("half=step-00000006.part", "4", "passing over")),
    Fault("unnamed", "kill -9 before a whole checkpoint takes its name",
          killed_in_saving("before=step-00000006", "4", "passing over")),
    Fault("unpruned", "kill -9 between renaming and pruning", killed_in_saving("after=step-00000006", "6", "")),
    Fault("checkpoint-flipped", "one bit turned over in a checkpoint",
          damaged(lambda path: flip(largest(path)), "its checksum is another")),
    Fault("checkpoint-file-gone", "a file of a checkpoint deleted",
          damaged(lambda path: largest(path).unlink(), "is missing")),
    Fault("checkpoint-mark-torn", "a checkpoint's mark cut in the middle",
          damaged(torn_mark, "complete.json is missing or damaged")),
    Fault("log-torn", "log.jsonl cut in the middle of a line", torn_log),
    Fault("disk-full", "no room for a checkpoint", disk_full, no_root),
    Fault("other-ranks", "one rank where there were two", other_ranks),
]
