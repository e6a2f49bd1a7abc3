"""What the answers to multiple-choice items allow to be said: accuracies, gaps, their uncertainty.

Two conditions of the same items are four counts: both right, only the first, only the second, neither. To draw items
with replacement is to draw these counts from a multinomial distribution, so the paired bootstrap over items is exact
and cheap however many items there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from salad_ds.data.order import stable_seed

RESAMPLES = 10_000
LEVEL = (2.5, 97.5)
"""Percentiles of the resamples: an interval of 95 %."""


@dataclass(frozen=True)
class Pairs:
    """Counts of items by which of two conditions they were answered correctly in."""

    both: int
    first: int
    second: int
    neither: int

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool]) -> Pairs:
        a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
        if a.shape != b.shape:
            raise ValueError(f"{len(a)} and {len(b)} answers are no pairs")
        return cls(int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum()))

    @property
    def items(self) -> int:
        return self.both + self.first + self.second + self.neither

    @property
    def correct(self) -> tuple[int, int]:
        return self.both + self.first, self.both + self.second

    @classmethod
    def read(cls, gap: dict[str, Any]) -> Pairs:
        """From what ``gap`` says."""
        return cls(gap["both"], gap["first_only"], gap["second_only"], gap["neither"])

    def resampled(self, seed: int) -> np.ndarray:
        """[RESAMPLES, 2] accuracies in both conditions of items drawn with replacement."""
        counts = np.array([self.both, self.first, self.second, self.neither])
        draws = np.random.default_rng(stable_seed("bootstrap", seed)).multinomial(
            self.items, counts / self.items, RESAMPLES
        )
        return np.stack([draws[:, 0] + draws[:, 1], draws[:, 0] + draws[:, 2]], 1) / self.items


def interval(values: np.ndarray) -> list[float]:
    low, high = np.percentile(values, LEVEL)
    return [float(low), float(high)]


def accuracy(correct: Sequence[Pairs], which: int, seed: int) -> dict[str, Any]:
    """Of condition ``which`` (0, 1), over one task or as the mean over several: ``correct``, ``accuracy``, ``ci``."""
    draws = np.mean([pairs.resampled(stable_seed(seed, i)) for i, pairs in enumerate(correct)], 0)
    return {
        "correct": sum(pairs.correct[which] for pairs in correct),
        "accuracy": float(np.mean([pairs.correct[which] / pairs.items for pairs in correct])),
        "ci": interval(draws[:, which]),
    }


def gap(tasks: Sequence[Pairs], seed: int) -> dict[str, Any]:
    """First minus second accuracy, paired over items, over one task or as the mean over several.

    ``mean``, ``ci``; ``items``, and of them those right in ``both``, in ``first_only``, ``second_only`` and in
    ``neither``; ``p``: McNemar's test of whether the disagreements go both ways alike (exact, two-sided; over several
    tasks their items are pooled).
    """
    draws = np.mean([pairs.resampled(stable_seed(seed, i)) for i, pairs in enumerate(tasks)], 0)
    first, second = sum(pairs.first for pairs in tasks), sum(pairs.second for pairs in tasks)
    return {
        "mean": float(np.mean([(pairs.first - pairs.second) / pairs.items for pairs in tasks])),
        "ci": interval(draws[:, 0] - draws[:, 1]),
        "items": sum(pairs.items for pairs in tasks),
        "both": sum(pairs.both for pairs in tasks),
        "first_only": first,
        "second_only": second,
        "neither": sum(pairs.neither for pairs in tasks),
        "p": mcnemar(first, second),
    }


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided p-value of McNemar's test: is a disagreement as likely one way as the other?

    Without any disagreement it is 1.
    """
    disagreements = first_only + second_only
    return float(binomtest(first_only, disagreements, 0.5).pvalue) if disagreements else 1.0
