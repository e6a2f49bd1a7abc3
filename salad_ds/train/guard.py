"""Steps that must not be taken: a loss that is not finite, or far above the latest ones.

Such a step is discarded before the weights change, and counted. The judgement is a pure function of the losses of the
global batches, which every rank knows, so all ranks judge alike. After ``bad_steps`` of them in a row the weights are
suspected themselves: the stage goes back to its newest checkpoint, and on with the data behind the bad ones.

A discarded step counts: it has a number and a line in the log, its data are used up, and the learning rate moves on, so
that the rate of step n is that of the recipe whatever happened before, and the decay ends where the stage does.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from salad_ds.errors import SaladError

WINDOW = 64
"""Steps whose losses a spike is measured against."""
LEAST = 8
"""Before so many steps were taken nothing is called a spike."""
MOST_ROLLBACKS = 3
"""To one and the same checkpoint."""


class RollBack(Exception):
    """Too many bad steps in a row. ``why``: the last one's fault; ``step``: its number."""

    def __init__(self, why: str, step: int) -> None:
        self.why, self.step = why, step
        super().__init__(why)


@dataclass
class Guard:
    """``spike``: a loss above this many times the median of the latest is one; 0: only what is not finite.
    ``bad_steps``: in a row, before RollBack."""

    spike: float
    bad_steps: int
    discarded: int = 0
    """In all."""
    in_a_row: int = 0
    loss: float = 0.0
    why: str = ""
    """What is wrong with the newest step, "" for nothing."""
    last: str = ""
    """What was wrong with the last step that was discarded."""
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def takes(self, loss: float) -> bool:
        """Whether a step with this loss (nats per target) may change the weights."""
        self.loss, self.why = loss, self.fault(loss)
        return not self.why

    def saw(self, applied: bool) -> bool:
        """Count the step: ``applied``, what DeepSpeed made of it (it discards what has no finite gradient, whatever the
        loss). Returns that. Raises SaladError where it took a step that it should not have."""
        if applied and self.why:
            raise SaladError(f"a bad step changed the weights ({self.why}): this DeepSpeed config does not "
                             "look at gradients", "take ZeRO stage 3, or bf16 with check_grad_overflow")
        if applied:
            self.in_a_row = 0
            self.losses.append(self.loss)
        else:
            self.why = self.why or "its gradient is not finite"
            self.last = self.why
            self.discarded += 1
            self.in_a_row += 1
        return applied

    def fault(self, loss: float) -> str:
        if not math.isfinite(loss):
            return f"its loss is {loss}"
        if self.spike and len(self.losses) >= LEAST and loss > self.spike * (usual := median(self.losses)):
            return f"its loss is {loss:.4g}, {loss / usual:.1f} times the latest ones'"
        return ""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: a run that goes on judges as one that never stopped."""
        return {"discarded": self.discarded, "in_a_row": self.in_a_row, "last": self.last, "losses": list(self.losses)}

    def restore(self, state: dict[str, Any]) -> None:
        self.discarded, self.in_a_row, self.last = state["discarded"], state["in_a_row"], state["last"]
        self.losses.extend(state["losses"])

    def require_progress(self, step: int) -> None:
        """Raises RollBack after too many bad steps in a row, of which ``step`` is the newest."""
        if self.in_a_row >= self.bad_steps:
            raise RollBack(self.last, step)
