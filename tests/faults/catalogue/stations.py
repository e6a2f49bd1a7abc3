"""The stations before training, killed: the same command again must leave the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.faults.fault import Fault, NotAsPromised, Told, TooLate
from tests.faults.forked import Forked
from tests.faults.losses import leftovers, lost_files
from tests.faults.room import Room


def struck(room: Room, how: str, verb: str, *settings: str) -> None:
    """SIGKILL to a verb at an exact place."""
    with room.job(Forked(0, "tests.faults.struck", how, verb, room.recipe, *settings)) as job:
        code = job.ends()
        if code == 0:
            raise TooLate(f"{verb} ended well: it never came to {how}")
        if code != -9:
            raise NotAsPromised(f"exit code {code}: {job.said[-1000:]}")


def again(room: Room, verb: str, happened: str, *directories: str, whole: Path | None = None,
          settings: tuple[str, ...] = ()) -> Told:
    room.verb(verb, *settings)
    found = leftovers(room.work)
    for name in directories:
        found += lost_files((whole or room.seed()) / name, room.work / name)
    return Told(f"{happened}; the same command left the same bytes as a run that was left alone", found)


def prepare(room: Room) -> Told:
    room.seed()
    shutil.rmtree(room.work, ignore_errors=True)
    struck(room, "before=000001.tar", "prepare")
    there = len(list((room.work / "speech/natural").glob("*.tar")))
    room.verb("prepare")
    return again(room, "align", f"{there} of 3 shards of speech were whole", "speech/natural", "text/plain")


def align(room: Room) -> Told:
    room.back_to(room.seed())
    for words in (room.work / "speech/natural").glob("*.words.jsonl"):
        words.unlink()
    struck(room, "before=000001.words.jsonl", "align")
    there = len(list((room.work / "speech/natural").glob("*.words.jsonl")))
    return again(room, "align", f"{there} of 3 shards had their word times", "speech/natural")


def precompute(room: Room) -> Told:
    room.back_to(room.seed())
    shutil.rmtree(room.work / "teacher")
    struck(room, "before=*.safetensors", "precompute")
    there = len(list((room.work / "teacher").glob("*.safetensors")))
    return again(room, "precompute", f"{there} shards of the store were whole", "teacher")


SPOKEN = ("synthesize.text=text/plain", "synthesize.out=speech/spoken", "synth.workers=1", "synth.asr=''")


def synthesize(room: Room) -> Told:
    whole = room.directory / "spoken"
    room.back_to(room.seed())
    if not whole.is_dir():
        room.verb("synthesize", *SPOKEN)
        (room.work / "speech/spoken").rename(whole)
        room.back_to(room.seed())
    place = room.work / "speech/spoken"

    def begun() -> bool:
        return any(path.stat().st_size > 50_000 for path in place.glob("writing.*spool"))

    with room.job(Forked(0, "salad_ds", "synthesize", room.recipe, *SPOKEN)) as job:
        job.until(begun, "an item was spoken")
        job.process.kill()
        job.gone()
    there = sorted(path.name for path in place.iterdir() if not path.name.startswith("."))
    room.verb("synthesize", *SPOKEN)
    return Told(f"left: {', '.join(there)}; the same command left the same bytes as a run that was left alone",
                lost_files(whole, place))


FAULTS = [
    Fault("prepare-killed", "kill -9 of `salad-ds prepare` before a shard takes its name", prepare),
    Fault("align-killed", "kill -9 of `salad-ds align`", align),
    Fault("precompute-killed", "kill -9 of `salad-ds precompute`", precompute),
    Fault("synthesize-killed", "kill -9 of `salad-ds synthesize`", synthesize),
]
