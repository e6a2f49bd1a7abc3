"""Means over tokens of what was measured per utterance."""

from __future__ import annotations

import numpy as np


def ratio(sums: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Mean per token of per-utterance sums [n], and its standard error over utterances (delta method of a ratio).

    One utterance alone has no standard error: NaN.
    """
    n, mean = len(sums), float(sums.sum() / counts.sum())
    if n < 2:
        return {"mean": mean, "se": float("nan")}
    spread = np.sqrt(((sums - mean * counts) ** 2).sum() / (n - 1) / n) / counts.mean()
    return {"mean": mean, "se": float(spread)}
