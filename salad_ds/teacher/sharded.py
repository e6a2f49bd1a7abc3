"""A teacher larger than a device: ZeRO-3 shards over all ranks, on the devices or in the hosts' memory.

Each layer is gathered for its own forward and let go after it, so a forward pass is a collective: **every rank must
make the same number of them**, each with texts of its own. ``together`` says how many that are, ``TeacherForward.idle``
makes those for which a rank has no text.

DeepSpeed does this under ``deepspeed.initialize`` with stage 3 and no optimizer; the weights are read straight into
shards (``zero.sharded_loading``), so that no rank ever holds the whole model.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

IDLE_TOKENS = 8
"""Length of the text of a pass that is made for the other ranks' sake."""


def zero3_config(dtype: torch.dtype, device: torch.device, offload: bool) -> dict[str, Any]:
    """DeepSpeed config of a frozen model. ``offload``: the shards lie in host memory, pinned for a device."""
    cuda = device.type == "cuda"
    zero: dict[str, Any] = {"stage": 3, "overlap_comm": cuda}
    if offload:
        zero["offload_param"] = {"device": "cpu", "pin_memory": cuda}
    return {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed wants one; nothing here depends on it
        "zero_optimization": zero,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "steps_per_print": 1_000_000_000,
    }


def sharded_engine(module: nn.Module, config: dict[str, Any]) -> Any:
    """``module`` (loaded within ``sharded_loading(config)``) as an engine whose call gathers and lets go of weights."""
    import deepspeed

    engine, *_ = deepspeed.initialize(model=module, config=config)
    return engine


def whole(parameter: nn.Parameter, device: torch.device) -> Tensor:
    """A copy on ``device`` of a sharded parameter. A collective."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().to(device, copy=True)


def together(count: int, group: Any) -> int:
    """The largest ``count`` of all ranks of ``group``. A collective between CPUs: the device is not waited for."""
    most = torch.tensor(count)
    dist.all_reduce(most, dist.ReduceOp.MAX, group=group)
    return int(most)
