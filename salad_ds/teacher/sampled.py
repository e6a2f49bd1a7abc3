"""The rule ``sampled``: few tokens, no bias, the least noise for the bytes.

A probability of 1/R or more (R: the *resolution*) is kept, in steps of 1/2R; what is less is drawn, each draw standing
for about 1/R. A sharp row thus takes two or three tokens, a flat one R of them, and each token removes about as much
noise as any other: the noise of a row, the sum over the vocabulary of the variance of a weight, is its tail's mass / R.

A row of kept probabilities is rounded like one quantity, by ticks over their running sum: each is off by less than a
step, their sum by less than a step too. So the tail's mass is what remains of 1, and the weights of a row sum to 1
exactly. That, and draws of equal weight, need no bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from salad_ds.distill.targets import SparseTargets
from salad_ds.teacher import grid
from salad_ds.teacher.sampling import ENTROPY_BITS, ENTROPY_STEPS, Record, Tail, distribution, impossible, sparse

STEP_BITS = 1
"""Steps of a probability of 1/R: 2^STEP_BITS."""
MARGIN = 1e-5


@dataclass(frozen=True)
class Sampled:
    """Fields of a row: the entropy. Numbers are in units of 1/R."""

    resolution: int

    uniforms = 2
    field_bits = (ENTROPY_BITS,)
    tails = ("draws",)

    @property
    def draws(self) -> int:
        return self.resolution

    @property
    def steps(self) -> int:
        """Steps of the mass 1."""
        return self.resolution << STEP_BITS

    def keep(self, logits: Tensor, uniforms: np.ndarray) -> Record:
        log_probs, entropy = distribution(logits)
        probs, count = log_probs.exp_(), len(entropy)
        # Float32 does not quite sum to 1: what is kept has 1/R after all, and what is not stays below.
        kept = probs > (1 + MARGIN) / self.resolution
        row, token = (place.cpu().numpy() for place in kept.nonzero(as_tuple=True))
        exact = probs[kept].cpu().numpy().astype(np.float64)
        outside = Tail(probs.masked_fill_(kept, 0.0).clamp_max_((1 - MARGIN) / self.resolution))
        steps, remaining = self._round(row, exact, outside.total.cpu().numpy(), uniforms[:, 0])
        ticks = self._draws(remaining)
        drawn, valid = outside.draw(torch.from_numpy(ticks).to(probs.device),
                                    torch.from_numpy(uniforms[:, 1]).to(probs.device))

        exponents = np.frexp(steps.astype(np.float64))[1].astype(np.int64) - 1 - STEP_BITS
        return Record(entropy[:, None], np.bincount(row, minlength=count), ticks, token, exponents,
                      steps - (1 << (exponents + STEP_BITS)), drawn[valid])

    @staticmethod
    def _draws(remaining: np.ndarray) -> np.ndarray:
        """Draws for the steps that the exact tokens leave. The mass of the tail is at most a step below them, and with
        that step less there are ticks only so close that no token of the tail reaches over two."""
        return np.where(remaining > 0, np.maximum((remaining - 1) >> STEP_BITS, 1), 0)

    def _round(self, row: np.ndarray, exact: np.ndarray, mass: np.ndarray,
               uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Steps of every kept probability, and what remains of ``self.steps`` in each row."""
        sums = np.bincount(row, exact, len(mass)) + mass
        running = np.cumsum(exact / sums[row])
        first, behind = np.searchsorted(row, np.arange(len(mass))), np.searchsorted(row, np.arange(len(mass)), "right")
        before = np.concatenate([np.zeros(1), running])[first]
        level = np.minimum((running - before[row]) * self.steps, self.steps)
        filled = behind > first
        level[behind[filled & (mass == 0)] - 1] = self.steps
        ends = np.floor(level + uniform[row]).astype(np.int64)
        steps = np.diff(ends, prepend=0)
        steps[first[filled]] = ends[first[filled]]
        return steps, self.steps - np.bincount(row, steps, len(mass)).astype(np.int64)

    def mantissa_bits(self, exponents: np.ndarray, fields: np.ndarray) -> np.ndarray:
        return grid.mantissa_bits(exponents, STEP_BITS, 0)

    def expected_draws(self, fields: np.ndarray, rows: np.ndarray, exponents: np.ndarray,
                       mantissas: np.ndarray) -> np.ndarray:
        return self._draws(self._remaining(len(fields), rows, exponents, mantissas))

    def _remaining(self, count: int, rows: np.ndarray, exponents: np.ndarray, mantissas: np.ndarray) -> np.ndarray:
        """[N] steps that the exact tokens of ``rows`` leave."""
        if exponents.max(initial=0) > self.steps.bit_length():
            raise impossible()
        steps = np.bincount(rows, (1 << (exponents + STEP_BITS)) + mantissas, count)
        return self.steps - steps.astype(np.int64)

    def targets(self, record: Record, tail: str = "draws") -> SparseTargets:
        """The only ``tail`` is ``draws``: unbiased."""
        rows = np.repeat(np.arange(len(record)), record.exact)
        remaining = self._remaining(len(record), rows, record.exponents, record.mantissas)
        if (remaining < 0).any() or (record.drawn != self._draws(remaining)).any():
            raise impossible()
        steps = (1 << (record.exponents + STEP_BITS)) + record.mantissas
        return sparse(record, steps / self.steps, remaining / np.maximum(record.drawn, 1) / self.steps,
                      record.fields[:, 0] / ENTROPY_STEPS)
