"""All-reduce between ranks, as training does it: right, and how fast.

Bus bandwidth as NVIDIA's nccl-tests define it: 2·(n−1)/n · bytes / seconds, what each rank's link carries, comparable
over any number n of ranks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

SIZES = {"cuda": (1 << 20, 1 << 25, 1 << 29), "cpu": (1 << 16, 1 << 20, 1 << 23)}
"""Bytes of a message, by kind of device."""
REPEATS = 4


@dataclass
class Reduced:
    """Of one group of ranks. ``rates``: bytes of the message to bus bandwidth, bytes per second; ``right``: whether
    every sum was."""

    ranks: int
    rates: dict[int, float] = field(default_factory=dict)
    right: bool = True


def measure(group: dist.ProcessGroup | None, ranks: list[int], device: torch.device) -> Reduced:
    """A collective of ``group``, whose members are ``ranks``; the slowest rank's time counts."""
    found = Reduced(len(ranks))
    for size in SIZES[device.type]:
        mine = torch.full((size // 4,), float(ranks.index(dist.get_rank()) + 1), device=device)
        dist.all_reduce(mine, group=group)  # connects, too
        found.right &= bool((mine == len(ranks) * (len(ranks) + 1) / 2).all())
        mine.fill_(1.0)
        settle(device)
        began = time.perf_counter()
        for _ in range(REPEATS):
            dist.all_reduce(mine, group=group)
        settle(device)
        took = torch.tensor([time.perf_counter() - began], device=device)
        dist.all_reduce(took, dist.ReduceOp.MAX, group=group)
        found.rates[size] = 2 * (len(ranks) - 1) / len(ranks) * size * REPEATS / max(took.item(), 1e-9)
    return found


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def groups_of(hosts: dict[str, list[int]]) -> dict[str, list[list[int]]]:
    """Kinds of group to measure: ``hosts`` has the ranks of each host. The last kind has all ranks in one group."""
    kinds: dict[str, list[list[int]]] = {}
    inner = [ranks for ranks in hosts.values() if len(ranks) > 1]
    leaders = [ranks[0] for ranks in hosts.values()]
    if inner and len(hosts) > 1:
        kinds["within hosts"] = inner
        kinds["between hosts"] = [leaders]
    everybody = sorted(rank for ranks in hosts.values() for rank in ranks)
    if len(everybody) > 1:
        name = "all ranks" if kinds else "within the host" if len(hosts) == 1 else "between hosts"
        kinds[name] = [everybody]
    return kinds


def measure_all(hosts: dict[str, list[int]], device: torch.device) -> dict[str, Reduced]:
    """A collective of all ranks: this rank's figures, by kind of group; kinds that it has no part in are left out."""
    found = {}
    for kind, groups in groups_of(hosts).items():
        for ranks in groups:
            whole = len(ranks) == dist.get_world_size()
            group = None if whole else dist.new_group(ranks)  # every rank calls it, for every group
            if dist.get_rank() in ranks:
                found[kind] = measure(group, ranks, device)
        dist.barrier()  # one kind at a time: they would share the links
    return found
