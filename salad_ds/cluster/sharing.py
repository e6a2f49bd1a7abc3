"""Whether the work directory is one and the same on every host: what one writes there, the others read."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from salad_ds.cluster.agreement import listed
from salad_ds.cluster.meeting import Meeting
from salad_ds.config import Recipe
from salad_ds.doctor import FAULT, OK, Finding

SHARING = 15.0
"""Seconds until a file that one host has written must be seen by another: more than NFS keeps what it knows."""


def share(recipe: Recipe, token: str, meeting: Meeting, leads: bool) -> str:
    """Whether the work directory is one for all hosts: rank 0 writes a token there that all read; then the first rank
    of every other host writes one for rank 0. Returns what is wrong, on this rank."""
    work = recipe.path(".")
    first = work / f".preflight-{token}-0"
    try:
        if meeting.rank == 0:
            work.mkdir(parents=True, exist_ok=True)
            first.write_text(token)
            meeting.tell("written", True)
        if not meeting.hear("written"):
            return ""  # rank 0 says why
        if not appears(first, token):
            return f"does not see what rank 0 wrote into {work.absolute()}"
        if leads and meeting.rank:
            (work / f".preflight-{token}-{meeting.rank}").write_text(token)
    except OSError as error:
        if meeting.rank == 0:
            meeting.tell("written", False)
        return f"cannot write into {work.absolute()} ({error.strerror})"
    return ""


def appears(path: Path, token: str) -> bool:
    end = time.monotonic() + SHARING
    while True:
        with contextlib.suppress(OSError):
            if path.read_text() == token:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(0.2)


def shared(meeting: Meeting, hosts: dict[str, list[int]], recipe: Recipe) -> Iterator[Finding]:
    """Rank 0's line about the work directory; the tokens are taken away."""
    said, work = meeting.all("sharing"), recipe.path(".")
    token = meeting.hear("plan")["token"]
    wrong = {}
    for host, ranks in hosts.items():
        if reason := next(filter(None, (said[rank] for rank in ranks)), ""):
            wrong[host] = reason
        elif ranks[0] and not appears(work / f".preflight-{token}-{ranks[0]}", token):
            wrong[host] = f"writes into another {work.absolute()} than rank 0"
    for path in work.glob(f".preflight-{token}-*"):
        with contextlib.suppress(OSError):
            path.unlink()
    yield Finding(FAULT if wrong else OK, "work directory",
                  listed([f"{host} {reason}" for host, reason in wrong.items()]) if wrong else f"{work.absolute()}, "
                  + (f"one for all {len(hosts)} hosts" if len(hosts) > 1 else "writable"),
                  "mount one file system at the same path on every host, and let them write there" if wrong else "")
