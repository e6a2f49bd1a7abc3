"""What gives out first: each limit of a plan as the share of it that is used."""

from __future__ import annotations

from dataclasses import dataclass

from salad_ds.plan.estimate import Plan

CHECKPOINTING = 0.05
"""Of the time, that writing checkpoints may take."""


@dataclass(frozen=True)
class Limit:
    """``share`` of what there is that is used: 1 and more is where it breaks. ``grows``: how it goes with the number of
    GPUs."""

    name: str
    share: float
    used: str
    there: str


def limits(plan: Plan) -> list[Limit]:
    """All of them, the tightest first."""
    stage, machines, workers = plan.asked.settings, plan.machines, plan.asked.recipe.data.workers
    between = plan.checkpoint.seconds / (stage.checkpoint_every * plan.speed.step)
    decoding = max(workers, 1) * machines.ranks
    found = [
        Limit("GPU memory", plan.memory.peak / machines.gpu.memory, size(plan.memory.peak), size(machines.gpu.memory)),
        Limit("rows of a global batch", machines.ranks / stage.global_batch, f"{machines.ranks:,} GPUs",
              f"{stage.global_batch:,} rows"),
        Limit("network and links" if plan.traffic.seconds_between < plan.traffic.seconds_within else "network",
              plan.traffic.seconds / plan.speed.compute, f"{plan.traffic.seconds:.2g} s per step",
              f"{plan.speed.compute:.2g} s of work"),
        Limit("reading recordings", plan.reading.bytes / machines.storage, f"{size(plan.reading.bytes)}/s",
              f"{size(machines.storage)}/s"),
        Limit("decoding recordings", plan.reading.cores / decoding, f"{plan.reading.cores:.1f} cores",
              f"{decoding:,} data workers"),
        Limit("checkpoints", between / CHECKPOINTING, f"{between:.1%} of the time", f"{CHECKPOINTING:.0%}"),
    ]  # fmt: skip
    return sorted((one for one in found if one.share > 0), key=lambda one: -one.share)


def size(value: float) -> str:
    """Bytes in decimal units, three figures."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} PB"
