"""The processes that share a precompute run: who am I, wait for the others, let one speak for all.

Under ``deepspeed``, ``torchrun`` or any launcher that sets RANK and WORLD_SIZE there are several; alone there is one.
Only messages between CPUs are needed, so the group is gloo whatever the training uses; a sharded teacher brings
DeepSpeed's own besides.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar, cast

import torch.distributed as dist

from salad_ds.errors import SaladError
from salad_ds.zero import PATIENCE, start_processes

T = TypeVar("T")


class Ranks:
    """``rank``, ``size``, ``local``: place in the run and on the machine. A context manager around the run.

    ``sharded``: the teacher will lie in ZeRO-3 shards, so that even one rank alone needs DeepSpeed's process group.
    """

    def __init__(self, sharded: bool = False) -> None:
        self.sharded = sharded
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.local = int(os.environ.get("LOCAL_RANK", self.rank))
        self.group: Any = None
        self.began = False

    def __enter__(self) -> Ranks:
        self.began = not dist.is_initialized() and (self.sharded or self.size > 1)
        if self.sharded:
            start_processes()
        elif self.began:
            dist.init_process_group("gloo", timeout=PATIENCE)
        if self.size > 1:
            self.group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self.began:
            dist.destroy_process_group()

    def gather(self, value: T) -> list[T]:
        """Every rank's ``value``, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def first(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on rank 0, on every rank. A SaladError there is raised everywhere."""
        if self.size == 1:
            return work()
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = work()
            except SaladError as error:
                box[1] = (type(error), error.what, error.mend)
        dist.broadcast_object_list(box, src=0, group=self.group)
        if box[1] is not None:
            kind, what, mend = box[1]
            raise kind(what, mend)
        return box[0]

    def everywhere(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on this rank, once it has ended on all. A SaladError of any is raised on all."""
        result, failure = None, None
        try:
            result = work()
        except SaladError as error:
            failure = (type(error), error.what, error.mend)
        for rank, failed in enumerate(self.gather(failure)):
            if failed is not None:
                kind, what, mend = failed
                raise kind(what if rank == self.rank else f"rank {rank}: {what}", mend)
        return cast(T, result)
