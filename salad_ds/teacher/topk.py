"""The rule ``topk``: the k likeliest tokens of a row, the mass of all others, and m draws from these.

Probabilities are rounded at random, the mean being the truth. The error of a probability q is less than q / 4; from
2^-8 upwards it is less than 2^-10, whatever q. The mass of the tail is off by less than 2^-11 of itself. The sum of it
all is then scaled to 1 (a few thousandths at most, of which a part of 1e-5 at most of a weight is bias).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from salad_ds.distill.targets import GhostTargets, SparseTargets
from salad_ds.teacher import grid
from salad_ds.teacher.sampling import ENTROPY_BITS, ENTROPY_STEPS, Record, Tail, distribution, impossible, sparse

LEAST_BITS = 2
"""Mantissa bits of the least likely tokens."""
ABSOLUTE = 8
"""From 2^-ABSOLUTE upwards the step of a probability no longer grows with it."""
DEEPEST = 63
"""Smaller probabilities than 2^-DEEPEST are stored as this."""


@dataclass(frozen=True)
class TopK:
    """Fields of a row: entropy, mass of the tail, and the octave s of the least of the top: numbers are in units of
    2^-s."""

    k: int
    draws: int

    field_bits = (ENTROPY_BITS, grid.TAIL_BITS, 6)

    @property
    def tails(self) -> tuple[str, ...]:
        return ("draws", "ghost", "renormalise") if self.draws else ("ghost", "renormalise")

    @property
    def uniforms(self) -> int:
        return self.k + 2

    def keep(self, logits: Tensor, uniforms: np.ndarray) -> Record:
        log_probs, entropy = distribution(logits)
        k = min(self.k, log_probs.shape[1])
        top = log_probs.topk(k, dim=-1, sorted=False).indices
        exact = np.maximum(np.exp(log_probs.gather(-1, top).cpu().numpy().astype(np.float64)), 2.0**-DEEPEST)
        rest = log_probs.exp_().scatter_(-1, top, 0.0)
        outside = Tail(rest)
        tail = grid.pack_mass(outside.total.clamp(0, 1).cpu().numpy(), uniforms[:, k])
        # As many draws as leave the likeliest of the tail less than the distance of two ticks.
        most = (outside.total / rest.amax(-1) * (1 - 1e-6)).nan_to_num(0.0).floor()
        most = most.clamp(min(self.draws, 1), self.draws)
        drawn, valid = outside.draw(torch.where(torch.from_numpy(tail > 0).to(most.device), most, 0).long(),
                                    torch.from_numpy(uniforms[:, k + 1]).to(rest.device))
        octave = np.maximum(1 - np.frexp(exact.min(1))[1], 0)
        exponents, mantissas = grid.round_up_or_down(np.ldexp(exact, octave[:, None]), LEAST_BITS,
                                                     octave[:, None] - ABSOLUTE, uniforms[:, :k])
        return Record(np.stack([entropy, tail, octave], 1), np.full(len(top), k), valid.sum(1),
                      top.cpu().numpy().ravel(), exponents.ravel(), mantissas.ravel(), drawn[valid])

    def mantissa_bits(self, exponents: np.ndarray, fields: np.ndarray) -> np.ndarray:
        return grid.mantissa_bits(exponents, LEAST_BITS, fields[:, 2] - ABSOLUTE)

    def expected_draws(self, fields: np.ndarray, rows: np.ndarray, exponents: np.ndarray,
                       mantissas: np.ndarray) -> np.ndarray:
        return np.zeros(len(fields), dtype=np.int64)  # nearly always the same number

    def targets(self, record: Record, tail: str) -> SparseTargets | GhostTargets:
        """``draws``: unbiased. ``ghost``: the tail as one event. ``renormalise``: the top alone, scaled to 1."""
        count = len(record)
        rows = np.repeat(np.arange(count), record.exact)
        octave = record.fields[rows, 2]
        bits = self.mantissa_bits(record.exponents, record.fields[rows])
        probs = np.ldexp(grid.numbers_of(record.exponents, record.mantissas, bits), -octave)
        mass = grid.unpack_mass(record.fields[:, 1])
        if ((record.exponents > octave).any() or (record.exact != record.exact[:1]).any()
                or ((record.drawn > 0) & (mass == 0)).any()):
            raise impossible()
        if tail == "draws":
            mass = np.where(record.drawn > 0, mass, 0.0)
            total = np.bincount(rows, probs, count) + mass
            return sparse(record, probs / total[rows], mass / total / np.maximum(record.drawn, 1),
                          record.fields[:, 0] / ENTROPY_STEPS)
        width = int(record.exact[0]) if count else self.k
        ids, top = torch.from_numpy(record.ids.reshape(count, width)), probs.reshape(count, width)
        total = top.sum(1) + (mass if tail == "ghost" else 0)
        top = torch.from_numpy((top / total[:, None]).astype(np.float32))
        if tail == "ghost":
            return GhostTargets(ids, top, torch.from_numpy((mass / total).astype(np.float32)))
        return SparseTargets(ids, top, torch.special.entr(top).sum(-1))
