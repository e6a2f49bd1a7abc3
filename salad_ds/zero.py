"""DeepSpeed as far as training and teaching share it: joining the process group, and loading into ZeRO-3 shards."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from salad_ds.launched import gpu, meet

PATIENCE = datetime.timedelta(days=7)
"""For groups of CPUs whose ranks finish at different times; a dead one is the launcher's to notice."""


def start_processes(timeout_minutes: float = 30.0) -> tuple[int, int, torch.device]:
    """Join the process group that the launcher described; alone where none did. Returns (rank, ranks, device).

    On CPU DeepSpeed would compile a shared-memory all-reduce on first use, for minutes, and a build that is killed
    leaves a lock that hangs every later run: it is switched off, gloo does the work.
    """
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not cuda:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    meet()
    if not dist.is_initialized():
        deepspeed.init_distributed(
            dist_backend="nccl" if cuda else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
            timeout=datetime.timedelta(minutes=timeout_minutes),
        )
    device = torch.device("cuda", gpu()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    return dist.get_rank(), dist.get_world_size(), device


@contextlib.contextmanager
def sharded_loading(config: dict[str, Any]) -> Iterator[None]:
    """Within it, transformers loads models straight into ZeRO-3 shards."""
    from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

    if config.get("zero_optimization", {}).get("stage") != 3:
        yield
        return
    alive = HfDeepSpeedConfig(config)
    try:
        yield
    finally:
        del alive
        unset_hf_deepspeed_config()
