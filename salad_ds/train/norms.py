"""The gradient's norm by part of the model: which of adapter, embeddings, layers and head is it that moves?

Under ZeRO every rank holds a share of each gradient. The squares of the shares are summed where they lie, and one
collective of a few numbers adds the ranks' sums: no gradient is gathered. With an optimizer in host memory DeepSpeed
has taken the shares' norms on the device before it sent them there, and these are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

PARTS = ("adapter", "embeddings", "llm", "head")
"""``embeddings``: the LLM's table, which is its head as well where they are tied; ``llm``: its layers."""


class PartNorms:
    """``take`` between the last backward of a step and the optimizer, on every rank; ``read`` what it found.

    Of ZeRO stages 1 to 3; of anything else nothing is read.
    """

    def __init__(self, engine: Any) -> None:
        self.optimizer, self.device = engine.optimizer, engine.device
        self.of = parts_of(engine.module)
        self.names = [name for name in PARTS if name in self.of.values()]
        self.found: Tensor | None = None

    @torch.no_grad()
    def take(self) -> None:
        """Norms of the step's mean gradient before clipping, in the gradient's own scale (fp16: unscaled)."""
        if not sharded(self.optimizer):
            return
        squares = torch.zeros(len(self.names), dtype=torch.float64, device=self.device)
        for parameter, square in local_squares(self.optimizer):
            squares[self.names.index(self.of[parameter])] += square.to(squares)
        dist.all_reduce(squares)
        self.found = squares.sqrt() / float(self.optimizer.loss_scale)

    def read(self) -> dict[str, float]:
        """``grad_norm_<part>`` of the step that ``take`` saw."""
        if self.found is None:
            return {}
        return {f"grad_norm_{name}": norm for name, norm in zip(self.names, self.found.tolist(), strict=True)}


def parts_of(model: nn.Module) -> dict[nn.Parameter, str]:
    """Each trained parameter's part; a tied weight is the table's."""
    table = model.get_input_embeddings().weight  # type: ignore[operator]
    head = model.get_output_embeddings().weight  # type: ignore[operator]
    parts = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("adapter."):
            parts[parameter] = "adapter"
        else:
            parts[parameter] = "embeddings" if parameter is table else "head" if parameter is head else "llm"
    return parts


def sharded(optimizer: Any) -> bool:
    """Whether this is a ZeRO optimizer, of which a rank may well hold no share at all."""
    return hasattr(optimizer, "params_in_partition") or hasattr(optimizer, "fp16_groups")


def local_squares(optimizer: Any) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """(parameter, sum of squares of this rank's share of its gradient), of those that this rank has a share of.

    DeepSpeed has a public word for it under ZeRO-3 alone (``safe_get_local_grad``), which copies shares back from host
    memory; its own norm (``scaled_global_norm``, ``_get_norm_groups``) reads what is read here.
    """
    third = hasattr(optimizer, "fp16_groups")
    offloaded = bool(getattr(optimizer, "offload_optimizer" if third else "cpu_offload", False))
    if third and not offloaded:
        from deepspeed.utils import safe_get_local_grad

        for group in optimizer.fp16_groups:
            for parameter in group:
                yield parameter, square_sum(safe_get_local_grad(parameter))
        return
    groups = optimizer.fp16_groups if third else getattr(optimizer, "params_in_partition", [])
    for number, group in enumerate(groups):
        if offloaded:
            known = optimizer.norm_for_param_grads
            for parameter in group:
                if (place := optimizer.get_param_id(parameter)) in known:
                    yield parameter, torch.as_tensor(known[place]).double().square()
            continue
        shares = [share for share in optimizer.averaged_gradients.get(number) or [] if not padding(share)]
        for parameter, share in zip(group, shares, strict=False):
            yield parameter, square_sum(share)


def square_sum(share: Tensor) -> Tensor:
    """Summed in float64, which on a CPU it has to be: in float32 a million numbers are off by 1e-4."""
    return torch.linalg.vector_norm(share.detach(), dtype=torch.float64).square()


def padding(share: Tensor) -> bool:
    """Whether ZeRO-2 appended it to make partitions equally long."""
    return bool(getattr(share, "_zero_padding", False))
