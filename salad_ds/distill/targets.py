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
        return type(self)(**{f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)})  # type: ignore[arg-type]

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
class HiddenTargets(Rows):
    """The teacher's last hidden states and its head, for the exact distribution without storing it.

    ``hidden``: [N, H]; ``head``: [V, H], the same for every position. The logits are ``hidden @ head.T``.
    """

    hidden: Tensor
    head: Tensor
    per_run = ("head",)


Targets = DenseTargets | SparseTargets | HiddenTargets


def concatenate(parts: list[SparseTargets]) -> SparseTargets:
    """Stack records of different K under each other; the narrower ones are padded with weight 0."""
    width = max((part.ids.shape[1] for part in parts), default=1)

    def widen(value: Tensor) -> Tensor:
        return torch.nn.functional.pad(value, (0, width - value.shape[1]))

    if not parts:
        return SparseTargets(torch.zeros(0, width, dtype=torch.long), torch.zeros(0, width), torch.zeros(0))
    return SparseTargets(
        torch.cat([widen(part.ids) for part in parts]),
        torch.cat([widen(part.weights) for part in parts]),
        torch.cat([part.entropy for part in parts]),
    )
