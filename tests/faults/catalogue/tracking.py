"""MLflow: away, gone in the middle, locked."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from tests.faults.fault import Fault, NotAsPromised, Told
from tests.faults.losses import lost
from tests.faults.room import STEPS, Room
from tests.tracking_server import Gate, serving


def server_room(room: Room) -> Path:
    """An empty directory for what a server keeps."""
    place = room.directory / "server"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return place


@contextlib.contextmanager
def reachable(place: Path, gate: Gate) -> Iterator[None]:
    """A server at the gate's address, which stays the same when another server takes its place."""
    with serving(place) as address:
        gate.behind = int(address.rpartition(":")[2])
        gate.open()
        try:
            yield
        finally:
            gate.shut()


def away(room: Room) -> Told:
    room.begin()
    place, gate = server_room(room), Gate("nowhere:0")
    uri = f"tracking.uri={gate.address}"
    room.train(uri)
    if not (room.work / "tracking-unsent.jsonl").is_file():
        raise NotAsPromised("nothing waits to be sent, and yet there was no server")
    with reachable(place, gate):
        room.send(uri)
    return Told("the stage trained to its end; its records waited in a file, and the next station sent them",
                lost(room.whole(), room.work, ledger=place / "server.db"))


def gone_and_back(room: Room) -> Told:
    """The ranks are held still while the server starts again, which takes longer than the rest of the stage."""
    room.begin()
    place, gate = server_room(room), Gate("nowhere:0")
    settings = (f"tracking.uri={gate.address}", "stages.stage1.silence_seconds=0")
    with contextlib.ExitStack() as stack:
        with reachable(place, gate):
            job = stack.enter_context(room.training(*settings))
            job.until(room.stepped(2), "step 2")
        job.until(room.stepped(4), "step 4")
        for rank in job.ranks():
            job.send(signal.SIGSTOP, to=rank)
        with reachable(place, gate):
            for rank in job.ranks():
                job.send(signal.SIGCONT, to=rank)
            if job.ends() != 0:
                raise NotAsPromised(job.said[-1000:])
            room.send(*settings)
    return Told("the stage trained on; the server was told what it had missed",
                lost(room.whole(), room.work, ledger=place / "server.db"))


def locked(room: Room) -> Told:
    room.begin()
    with room.training() as job:
        job.until(lambda: (room.work / "mlflow.db").is_file() and room.stepped(2)(), "step 2")
        hold = sqlite3.connect(room.work / "mlflow.db", timeout=60)
        try:
            hold.execute("BEGIN EXCLUSIVE")
            job.until(room.stepped(STEPS), "the last step")
        finally:
            hold.close()
        if job.ends() != 0:
            raise NotAsPromised(job.said[-1000:])
    room.send()
    return Told("the stage trained on to its last step; its records followed when the lock was gone", room.lost())


def unmade(room: Room) -> Told:
    """SIGKILL to everything as soon as the file has its first bytes: its tables take seconds."""
    room.begin()
    for name in ("mlflow.db", "tracking.json"):
        (room.work / name).unlink()
    ledger = room.work / "mlflow.db"
    with room.training() as job:
        job.until(lambda: any(path.stat().st_size > 0 for path in room.work.glob("*mlflow.db*")), "MLflow's file")
        os.killpg(job.process.pid, signal.SIGKILL)
        job.gone()
    size = ledger.stat().st_size if ledger.is_file() else 0
    room.train()
    return Told(f"it had {size} bytes; the next job made it whole", room.lost())


FAULTS = [
    Fault("mlflow-away", "no MLflow server, from the start", away),
    Fault("mlflow-gone", "an MLflow server that ends and comes back", gone_and_back),
    Fault("mlflow-unmade", "kill -9 while MLflow makes its SQLite file", unmade),
    Fault("mlflow-locked", "MLflow's SQLite file locked by another", locked),
]
