"""What a teacher says about N next tokens, in memory.

Shape letters: N positions, V vocabulary, K kept tokens per position, H hidden width of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T", bound="Rows")


class Rows:
    """Shared by the forms: move and slice every per-position tensor."""

    per_run: tuple[str, ...] = ()
    """Fields that do not have a row per position."""

    def rows(self: T, index: slice | Tensor) -> T:
        """The same form for a subset of the positions."""
        return type(self)(**{f.name: self._pick(f.name, index) for f in fields(self)})  # type: ignore[arg-type]

    def _pick(self, name: str, index: slice | Tensor) -> Tensor:
        value = getattr(self, name)
        return value if name in self.per_run else value[index]

    def to(self: T, device: torch.device | str, non_blocking: bool = False) -> T:
        moved = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return type(self)(**{name: value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value
                             for name, value in moved.items()})

    def __len__(self) -> int:
        return len(getattr(self, next(f.name for f in fields(self) if f.name not in self.per_run)))  # type: ignore[arg-type]


@dataclass
class DenseTargets(Rows):
    """The whole distribution. ``log_probs``: [N, V] float, each row sums to 1 after exp."""

    log_probs: Tensor


@dataclass
class SparseTargets(Rows):
    """A few tokens per position whose weights estimate the whole distribution.

    ``ids``: [N, K] int64. ``weights``: [N, K] float32; the exact probability of the top tokens, and
    ``tail mass / m`` for each of m tokens drawn from the tail with replacement, so that the weighted one-hot vectors
    have the teacher's distribution as their mean (arXiv 2503.16870 for the tail; the exact head is ours). Padding has
    weight 0. A token may occur twice: its weights add up. ``entropy``: [N] float32, nats, of the whole distribution.
    """

    ids: Tensor
    weights: Tensor
    entropy: Tensor


@dataclass
class GhostTargets(Rows):
    """The exact top and one *ghost* bucket for everything else: the loss is the KL over K + 1 events, the student's
    tail being one minus its probability of the K tokens. Biased (nothing is said about the inside of the tail) but a
    true KL: never negative.

    ``ids``: [N, K] int64, no id twice in a row, no padding. ``probs``: [N, K] float32. ``tail``: [N] float32, the mass
    of all other tokens; a row's probs and tail sum to 1.
    """

    ids: Tensor
    probs: Tensor
    tail: Tensor


@dataclass
class HiddenTargets(Rows):
    """The teacher's last hidden states and its head, for the exact distribution without storing it.

    ``hidden``: [N, H]; ``head``: [V, H], the same for every position. The logits are
    ``cap(logit_scale · hidden @ head.T)``, cap(x) = c·tanh(x / c) for ``logit_softcap`` c.
    """

    hidden: Tensor
    head: Tensor
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    per_run = ("head", "logit_scale", "logit_softcap")


Targets = DenseTargets | SparseTargets | GhostTargets | HiddenTargets
