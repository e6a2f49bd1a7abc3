"""A host that is switched off, and one whose cable is pulled: two network namespaces, each with a rank."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from tests.faults.fault import Fault, NotAsPromised, Told, short
from tests.faults.room import Room
from tests.multinode.lab import Lab, lacking
from tests.train.launch import REPOSITORY, environment

LAUNCHER = REPOSITORY / "launchers/deepspeed_hostfile.sh"


def struck(strike: Callable[[Lab, str], None]) -> Callable[[Room], Told]:
    """The second host is hurt in the middle of the stage; the job goes on where both ranks have a host."""

    def inflict(room: Room) -> Told:
        room.begin()
        home = str(Path(sys.executable).parent)
        variables = environment() | {"VIRTUAL_ENV": str(Path(home).parent), "OMP_WAIT_POLICY": "PASSIVE"}
        variables["PATH"] = f"{home}:{variables['PATH']}"
        with Lab(2, variables) as lab:
            hostfile = room.directory / "hostfile"
            hostfile.write_text("".join(f"{name} slots=1\n" for name in lab.names))
            logs = [room.directory / f"{name}.log" for name in lab.names]
            for log in logs:
                log.unlink(missing_ok=True)
            jobs = [lab.begin(name, LAUNCHER, room.recipe, "--stage", "stage1", "--hostfile", hostfile, "--no_ssh",
                              "--node_rank", number, "--master_addr", "node1", "stages.stage1.silence_seconds=10",
                              log=log, cwd=REPOSITORY)
                    for number, (name, log) in enumerate(zip(lab.names, logs, strict=True))]  # fmt: skip
            try:
                lab.wait_for(lambda: room.stepped(3)() or jobs[0].poll() is not None, "it does not train", 300)
                strike(lab, "node2")
                code = jobs[0].wait(timeout=200)
            finally:
                for job in jobs:
                    job.kill()
            if code == 0 or not room.unfinished():
                raise NotAsPromised(f"exit code {code}: {logs[0].read_text()[-1500:]}")
            said = logs[0].read_text()
            why = next((line for line in said.splitlines() if "has not been heard of" in line), "its connection ended")
        return room.goes_on(f"the other host's rank ended: {short(why.split('above): ')[-1], 90)!r}", rtol=1e-5)

    return inflict


def no_lab() -> str:
    return "PATH is not plain" if " " in os.environ["PATH"] else lacking()


FAULTS = [
    Fault("host-off", "one of two hosts switched off", struck(Lab.power_off), no_lab),
    Fault("cable-pulled", "the cable of one of two hosts pulled", struck(Lab.pull), no_lab),
]
