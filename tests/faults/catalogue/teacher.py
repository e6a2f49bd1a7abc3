"""Teacher stores that lack something, are damaged, or are another's."""

from __future__ import annotations

from pathlib import Path

from tests.faults.catalogue.checkpoints import flip
from tests.faults.fault import Fault, NotAsPromised, Told, short
from tests.faults.room import Room


def refused(room: Room, *words: str, settings: tuple[str, ...] = ()) -> str:
    """The job ends for the store's sake; why."""
    with room.training(*settings) as job:
        return short(job.must_fail(*words).replace(str(room.directory), ""), 150)


def mended(room: Room, happened: str) -> Told:
    room.train()
    return Told(happened, room.lost())


def record_missing(room: Room) -> Told:
    """The store was made before the speech was there."""
    from salad_ds.config import load_recipe
    from salad_ds.teacher.precompute import precompute

    room.begin()
    shards = sorted((room.work / "teacher").glob("*.safetensors"))
    for shard in shards:
        shard.unlink()
    precompute(load_recipe(room.recipe), ["text/plain"])
    why = refused(room, "has no record of")
    room.verb("precompute")
    return mended(room, f"stopped: {why!r}; `salad-ds precompute` added what was missing")


def flipped(room: Room) -> Told:
    room.begin()
    shards = sorted((room.work / "teacher").glob("*.safetensors"))
    for shard in shards:
        flip(shard, places=64)
    why = refused(room, "is damaged")
    named = [shard for shard in shards if shard.name in why]
    if not named:
        raise NotAsPromised(f"no shard is named: {why}")
    for shard in shards:
        shard.unlink()
    room.verb("precompute")
    return mended(room, f"stopped: {why!r}; deleted, and `salad-ds precompute` made it again")


def another(room: Room) -> Told:
    from salad_ds.assets import resolve
    from tests.conftest import make_tiny_llm

    room.begin()
    other = room.directory / "llm-other"
    make_tiny_llm(other, Path(resolve("packaged:smollm2-135m")), tied=False)
    why = refused(room, "was made by teacher", settings=(f"teacher.llm={other}",))
    return mended(room, f"refused: {why!r}; the right teacher was named")


FAULTS = [
    Fault("record-missing", "a teacher store without the records of the speech", record_missing),
    Fault("store-flipped", "bits turned over in the teacher store", flipped),
    Fault("store-of-another", "the store of another teacher", another),
]
