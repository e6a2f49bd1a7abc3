"""What ranks tell each other: small objects, between steps through the process group that trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist


def gathered(value: Any, group: Any = None) -> list[Any]:
    """Every rank's ``value``. A collective of ``group`` (default: the one that trains), where there are ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=group)
    return values


def from_first(work: Callable[[], Any]) -> Any:
    """What ``work``, which raises nothing, returns on rank 0, on all ranks. A collective, where there are ranks."""
    if not dist.is_initialized():
        return work()
    told = [work() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(told, src=0)
    return told[0]
