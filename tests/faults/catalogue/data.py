"""Shards that end too early, go away, or cannot be read; a sample that is no sound."""

from __future__ import annotations

import os
import shutil

from salad_ds.data.shards import ShardSet
from salad_ds.files import read_json
from tests.faults.fault import Fault, NotAsPromised, Told, short
from tests.faults.room import Room

SPEECH = "speech/natural"
STRICT = "data.max_bad_share=0"


def truncated(room: Room) -> Told:
    """Early: some steps behind the newest one have been read already."""
    room.begin()
    settings = ("data.prefetch=1", STRICT)
    with room.training(*settings) as job:
        job.until(room.stepped(1), "step 1")
        for tar in sorted((room.work / SPEECH).glob("*.tar")):
            os.truncate(tar, 0)
        why = job.must_fail("cannot be used")
        job.gone()
    mend(room)
    return room.goes_on(f"stopped: {short(why.replace(str(room.directory), ''), 150)!r}; the shards were copied back",
                        *settings)


def mend(room: Room) -> None:
    shutil.rmtree(room.work / SPEECH)
    shutil.copytree(room.seed() / SPEECH, room.work / SPEECH, symlinks=True)


def vanishes(room: Room) -> Told:
    room.begin()
    with room.training() as job:
        job.until(room.stepped(3), "step 3")
        (room.work / SPEECH / "000001.tar").unlink()
        if job.ends() != 0:
            raise NotAsPromised(job.said[-1000:])
    return Told("the job holds its shards open, and never noticed", room.lost())


def missing(room: Room) -> Told:
    room.begin_stopped()
    (room.work / SPEECH / "000001.tar").unlink()
    with room.training(STRICT) as job:
        why = job.must_fail("000001.tar")
    mend(room)
    return room.goes_on(f"refused: {short(why.replace(str(room.directory), ''), 130)!r}; it was copied back")


def unreadable(room: Room) -> Told:
    """A file whose bytes the kernel refuses with EIO, as of a broken disk."""
    room.begin_stopped()
    tar = room.work / SPEECH / "000001.tar"
    tar.unlink()
    tar.symlink_to("/proc/self/mem")
    with room.training(STRICT) as job:
        why = job.must_fail("000001.tar")
    mend(room)
    return room.goes_on(f"refused: {short(why.replace(str(room.directory), ''), 130)!r}; it was copied back")


def corrupt(room: Room) -> Told:
    """The sound of one sample is noise; no shard, no checkpoint and no store is at fault."""
    room.begin()
    place = room.work / SPEECH
    entry = ShardSet.open(place).entry(0)
    offset, size, _ = entry.audio
    with open(place / "000000.tar", "r+b") as file:
        file.seek(offset)
        file.write(os.urandom(size))
    room.train()
    passed = read_json(room.stage / "done.json")["skipped"]
    names = {name for reason in passed.values() for name in reason["examples"]}
    times = sum(reason["count"] for reason in passed.values())
    found = [] if names == {f"{SPEECH}:{entry.key}"} else [f"passed over: {sorted(names)}"]
    found += [] if len(room.rows()) == 10 else ["steps are missing"]
    return Told(f"passed over {times} times, counted and named in done.json: {short('; '.join(passed), 90)!r}", found)


FAULTS = [
    Fault("shards-truncated", "shards cut to nothing under a running job", truncated),
    Fault("shard-vanishes", "a shard deleted under a running job", vanishes),
    Fault("shard-missing", "a shard missing at a resume", missing),
    Fault("shard-unreadable", "a shard that the kernel cannot read (EIO)", unreadable),
    Fault("sample-corrupt", "a recording that is noise", corrupt),
]
