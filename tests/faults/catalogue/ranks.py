"""Processes that are killed, stopped, told to stop, or started twice."""

from __future__ import annotations

import os
import signal

import psutil

from tests.faults.fault import Fault, NotAsPromised, Told, TooLate, short
from tests.faults.job import Job
from tests.faults.room import Room

WATCHED = "stages.stage1.silence_seconds=10"
UNWATCHED = "stages.stage1.silence_seconds=0"


def rank_killed(room: Room) -> Told:
    room.begin()
    with room.training(launched=True) as job:
        job.until(room.stepped(3), "step 3")
        job.send(signal.SIGKILL, to=job.ranks()[1])
        job.must_fail()
        job.gone()
    return room.goes_on("the launcher and the other rank ended")


def launcher_killed(room: Room) -> Told:
    """Its ranks are orphans, and may well train on: the next job waits for them."""
    room.begin()
    with room.training(launched=True) as job:
        job.until(room.stepped(3), "step 3")
        (launcher,) = psutil.Process(job.process.pid).children()
        job.send(signal.SIGKILL, to=launcher)
        job.ends()
        orphans = len(job.alive)
        said = room.train()
    went = "trained to the end by themselves" if "done before" in said else "the next job waited for"
    return Told(f"{orphans} orphaned processes, which {went}", room.lost())


def run_killed(room: Room) -> Told:
    room.begin()
    with room.run() as job:
        job.until(room.saved(), "a checkpoint")
        job.send(signal.SIGKILL, to=job.process)
        job.ends()
        with room.run() as again:
            if again.ends() != 0:
                raise NotAsPromised(again.said[-1000:])
            again.must_say("continuing after step")
    return Told("its ranks ended with it; the same command, given at once, went on", room.lost())


def power_cut(room: Room) -> Told:
    room.begin()
    with room.training() as job:
        job.until(room.stepped(5), "step 5")
        os.killpg(job.process.pid, signal.SIGKILL)
        job.gone()
    if not room.unfinished():
        raise TooLate("the stage was done")
    return room.goes_on("every process was gone at once")


def run_told(room: Room) -> Told:
    """As a batch system does it; checkpoints are far apart: without the one behind the signal all would be lost."""
    room.begin()
    with room.run("stages.stage1.checkpoint_every=1000") as job:
        job.until(room.stepped(3), "step 3")
        job.send(signal.SIGTERM, to=job.process)
        code = job.ends()
        job.must_say("was told to stop")
        if code != 85:
            raise NotAsPromised(f"exit code {code}, not 85")
    return room.goes_on("a checkpoint, and exit code 85")


def rank_told(room: Room) -> Told:
    room.begin()
    with room.training("stages.stage1.checkpoint_every=1000", launched=True) as job:
        job.until(room.stepped(3), "step 3")
        job.send(signal.SIGUSR1, to=job.ranks()[1])
        code = job.ends()
        job.must_say("SIGUSR1: stopping, with a checkpoint", "was told to stop")
        if code != 85:
            raise NotAsPromised(f"exit code {code}, not 85")
    return room.goes_on("all ranks agreed on a checkpoint, and exit code 85")


def rank_stopped(room: Room) -> Told:
    """Its sockets stay open: no collective would ever fail."""
    room.begin()
    with room.training(WATCHED) as job:
        job.until(room.stepped(3), "step 3")
        victim = job.ranks()[1]
        job.send(signal.SIGSTOP, to=victim)
        why = watched(job)
        job.send(signal.SIGKILL, to=victim)
        job.ends()
    return room.goes_on(f"the watchdog printed the stacks and ended the job: {why!r}")


def loader_stopped(room: Room) -> Told:
    """Everybody lives, and no step ends: as with a file system that never answers."""
    room.begin()
    with room.training("data.workers=1", "data.prefetch=1", "stages.stage1.hang_minutes=0.25") as job:
        job.until(room.stepped(1), "step 1")
        for rank in job.ranks():
            for worker in loaders(rank):
                job.send(signal.SIGSTOP, to=worker)
        why = watched(job)
    return room.goes_on(f"the watchdog printed the stacks and ended the job: {why!r}")


def watched(job: Job) -> str:
    """The watchdog's reason, behind the stacks; the job, or what can still end of it, has ended."""
    job.until(lambda: "watchdog of rank 0" in job.said, "the watchdog's word")
    line = job.must_say("watchdog of rank 0")
    job.must_say("most recent call first")
    return short(line.split("(its stacks are above): ", 1)[-1], 90)


def loader_killed(room: Room) -> Told:
    room.begin()
    with room.training("data.workers=1") as job:
        job.until(room.stepped(3), "step 3")
        (worker, *_) = loaders(job.ranks()[0])
        job.send(signal.SIGKILL, to=worker)
        why = job.must_fail("was killed by SIGKILL")
        job.gone()
    return room.goes_on(f"the job ended: {short(why, 90)!r}", "data.workers=1")


def loaders(rank: psutil.Process) -> list[psutil.Process]:
    """The processes below a rank that make its rows, not those that multiprocessing keeps for itself."""
    found = [child for child in rank.children(recursive=True) if "resource_tracker" not in " ".join(child.cmdline())]
    leaves = [child for child in found if not child.children()]
    if not leaves:
        raise NotAsPromised(f"rank {rank.pid} has no loader process")
    return leaves


def two_trainers(room: Room) -> Told:
    """The first one is held still, as by a debugger: it must be alive as long as the other waits."""
    room.begin()
    with room.training(UNWATCHED) as job:
        job.until(room.stepped(3), "step 3")
        ranks = job.ranks()
        for rank in ranks:
            job.send(signal.SIGSTOP, to=rank)
        with room.training(UNWATCHED) as other:
            why = other.must_fail("another job is training stage1")
        for rank in ranks:
            job.send(signal.SIGCONT, to=rank)
        if job.ends() != 0:
            raise NotAsPromised(f"the first job failed: {job.said[-800:]}")
    return Told(f"the second one was refused: {short(why, 90)!r}; the first one went on", room.lost())


FAULTS = [
    Fault("rank-killed", "kill -9 of one rank", rank_killed),
    Fault("launcher-killed", "kill -9 of the launcher", launcher_killed),
    Fault("run-killed", "kill -9 of `salad-ds run`", run_killed),
    Fault("power-cut", "every process killed at once", power_cut),
    Fault("run-told", "SIGTERM to `salad-ds run`", run_told),
    Fault("rank-told", "SIGUSR1 to one rank", rank_told),
    Fault("rank-stopped", "SIGSTOP of one rank", rank_stopped),
    Fault("loader-stopped", "a loader that never answers", loader_stopped),
    Fault("loader-killed", "kill -9 of a loader process", loader_killed),
    Fault("two-trainers", "a second job on the same work directory", two_trainers),
]
