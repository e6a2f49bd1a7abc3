"""``salad-ds doctor --cluster RECIPE``: what would break a job over many ranks, found in seconds and named by host.

Every rank runs it, under any launcher, alone or before training (``train --preflight``, which the launchers add). Rank
0 prints one table. Three parts: the ranks meet and say what they have; hosts look into the work directory, connect to
each other and tell the time; and where all that was well, the process group that training uses is made, and reduces.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from salad_ds.cluster import bandwidth, links
from salad_ds.cluster.agreement import Job, compare, listed
from salad_ds.cluster.deadline import Deadline
from salad_ds.cluster.facts import facts_of
from salad_ds.cluster.meeting import Meeting
from salad_ds.cluster.sharing import share, shared
from salad_ds.config import Recipe
from salad_ds.doctor import FAULT, NOTE, OK, Finding, line
from salad_ds.errors import RecipeError, SaladError, in_words

PATIENCE = 300.0
"""Seconds that ranks wait for each other: hosts load Python from a slow file system, or pull an image first."""
CLOCKS, FAR_OFF = 1.0, 60.0
"""Seconds between clocks: from the first on logs do not line up, from the second on credentials and file ages fail."""


def require_fit(recipe: Recipe, stage: str) -> None:
    """Before training ``stage``. Raises SaladError on every rank when there is a fault."""
    if not examine(recipe, stage, sys.stderr):
        raise SaladError("the preflight found faults: this job would not train",
                         "see the table above; --no-preflight starts it all the same")


def examine(recipe: Recipe, stage: str = "", stream: TextIO = sys.stdout, patience: float = PATIENCE) -> bool:
    """Check this job and print the table on rank 0; whether there was no fault, on every rank. ``stage``: the one to be
    trained; all of the recipe by default."""
    if stage and stage not in recipe.stages:
        raise RecipeError(f"the recipe has no stage {stage!r}", f"its stages are {', '.join(recipe.stages) or 'none'}")
    stages = [stage] if stage else list(recipe.stages)
    with Meeting(patience) as meeting:
        table = Table(stream if meeting.rank == 0 else None)
        gather(meeting, recipe, stages, table)
        hosts = meeting.hear("hosts")
        if not meeting.hear("go on"):
            return False
        with Deadline(patience, meeting.rank, meeting.host):
            reduce(meeting, hosts, table)
        if meeting.rank == 0:
            meeting.tell("verdict", table.end())
        return bool(meeting.hear("verdict"))


class Table:
    """Rank 0's. ``stream`` None: another rank's, which prints nothing."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream, self.faults, self.began = stream, 0, time.monotonic()

    def add(self, finding: Finding) -> None:
        self.faults += finding.state == FAULT
        if self.stream is not None:
            self.stream.write(line(finding))
            self.stream.flush()

    def end(self) -> bool:
        if self.stream is not None:
            found = f"{self.faults} to mend ({FAULT})" if self.faults else "nothing to mend"
            self.stream.write(f"\npreflight: {found}, {time.monotonic() - self.began:.1f} s\n")
            self.stream.flush()
        return not self.faults


def gather(meeting: Meeting, recipe: Recipe, stages: list[str], table: Table) -> None:
    """Parts one and two. Rank 0 then tells all ``hosts`` (host to ranks) and whether to ``go on``."""
    if meeting.rank == 0:
        placed: dict[str, list[int]] = {}
        for rank, host in meeting.hosts.items():
            placed.setdefault(host, []).append(rank)
        meeting.tell("hosts", placed)
    hosts = meeting.hear("hosts")
    leads = hosts[meeting.host][0] == meeting.rank
    with links.Listener() if leads else contextlib.nullcontext() as listener:
        try:
            said = facts_of(recipe, stages, leads)
        except Exception as error:  # one rank's trouble is a line of the table
            what, mend = in_words(error)
            said = {"failed": what, "mend": mend}
        if listener is not None:
            said["port"] = listener.port
        meeting.say("facts", said)
        if meeting.rank == 0:
            facts = meeting.all("facts")
            plan = compared(meeting, facts, table)
            meeting.tell("plan", plan)
        plan = meeting.hear("plan")
        if plan:
            meeting.say("sharing", share(recipe, plan["token"], meeting, leads))
            found = links.probe_all({host: (at, port) for host, (at, port) in plan["places"].items()
                                     if host != meeting.host}) if leads else {}
            meeting.say("links", {host: link.plain() for host, link in found.items()})
            if meeting.rank == 0:
                for finding in (*shared(meeting, hosts, recipe), *linked(meeting.all("links"), hosts)):
                    table.add(finding)
        if meeting.rank == 0:
            meeting.tell("go on", bool(plan) and not table.faults)
            if not plan or table.faults:
                table.end()
        meeting.hear("go on")  # until rank 0 has heard all, a slower host may still ask this listener


def compared(meeting: Meeting, facts: list[dict[str, Any]], table: Table) -> dict[str, Any]:
    """What rank 0 makes of the facts: lines of the table, and the plan of part two; {} where a rank has failed."""
    failed = [(rank, said) for rank, said in enumerate(facts) if "failed" in said]
    for rank, said in failed[:8]:
        table.add(Finding(FAULT, "ranks", f"rank {rank} on {meeting.hosts[rank]}: {said['failed']}",
                          said["mend"] or "see --debug"))
    if failed:
        return {}
    job = Job(meeting.hosts, facts)
    for finding in compare(job):
        table.add(finding)
    places = {host: (facts[rank]["network"]["address"] or host, facts[rank]["port"])
              for host, rank in job.leaders.items()}
    return {"token": secrets.token_hex(4), "places": places}


def linked(said: list[dict[str, dict[str, Any]]], hosts: dict[str, list[int]]) -> Iterator[Finding]:
    """Connections between hosts, and their clocks."""
    if len(hosts) < 2:
        return
    of = {host: said[ranks[0]] for host, ranks in hosts.items()}
    broken = [f"{here} → {there}: {link['fault']}" for here, all_of in of.items() for there, link in all_of.items()
              if link["fault"]]
    trips = sorted(link["round_trip"] for all_of in of.values() for link in all_of.values() if not link["fault"])
    yield Finding(FAULT if broken else OK, "connections", listed(broken) if broken
                  else f"every host reaches every other; round trip {trips[0] * 1e3:.2f} to {trips[-1] * 1e3:.2f} ms",
                  "allow all TCP ports between these hosts: gloo and NCCL take any" if broken else "")
    first = next(iter(hosts))
    clocks = {host: link for host, link in of[first].items() if not link["fault"]}
    if not clocks:
        return
    off = {host: max(abs(link["offset"]) - link["round_trip"] / 2, 0.0) for host, link in clocks.items()}
    worst = max(off.values())
    shown = [f"{host} {link['offset'] * 1e3:+.1f} ms ± {link['round_trip'] * 5e2:.1f}" for host, link in clocks.items()
             if worst <= CLOCKS or off[host] > CLOCKS]
    yield Finding(FAULT if worst > FAR_OFF else NOTE if worst > CLOCKS else OK, "clocks",
                  f"against {first}: {listed(shown)}", "let chrony or ntpd set them" if worst > CLOCKS else "")


def reduce(meeting: Meeting, hosts: dict[str, list[int]], table: Table) -> None:
    """Part three: the process group, and its all-reduce."""
    if meeting.size == 1:
        table.add(Finding(OK, "all-reduce", "one rank: nothing to reduce"))
        return
    from salad_ds.zero import start_processes

    _, _, device = start_processes()
    said = {kind: [found.rates, found.right, found.ranks]
            for kind, found in bandwidth.measure_all(hosts, device).items()}
    meeting.say("rates", said)
    if meeting.rank == 0:
        for finding in reduced(meeting.all("rates"), hosts, "NCCL" if device.type == "cuda" else "gloo"):
            table.add(finding)


def reduced(said: list[dict[str, Any]], hosts: dict[str, list[int]], backend: str) -> Iterator[Finding]:
    """One line per kind of group; of several groups the slowest counts, and is named where it is half as fast as the
    middle one."""
    for kind in dict.fromkeys(kind for one in said for kind in one):
        heads = {host: said[ranks[0]][kind] for host, ranks in hosts.items() if kind in said[ranks[0]]}
        wrong = [host for host, (_, right, _) in heads.items() if not right]
        slowest = {size: min(rates[size] for rates, _, _ in heads.values()) for size in next(iter(heads.values()))[0]}
        largest = max(slowest, key=int)
        speeds = {host: rates[largest] for host, (rates, _, _) in heads.items()}
        middle = sorted(speeds.values())[len(speeds) // 2]
        lame = [host for host, speed in speeds.items() if speed < middle / 2]
        shown = ", ".join(f"{amount(int(size))} {rate / 1e9:.3g} GB/s" for size, rate in slowest.items())
        text = f"{kind}, {backend}, {max(count for _, _, count in heads.values())} ranks: {shown}"
        if wrong:
            yield Finding(FAULT, "all-reduce", f"{kind}: wrong sums on {listed(wrong)}",
                          "look at the memory and the network cards of these hosts")
        elif lame:
            yield Finding(NOTE, "all-reduce", f"{text}; slow: {listed(lame)}", "all wait for them: take them out")
        else:
            yield Finding(OK, "all-reduce", text)


def amount(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
