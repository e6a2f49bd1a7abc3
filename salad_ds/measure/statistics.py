"""Means over tokens of what was measured per utterance, with their standard errors over utterances."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

QUANTITIES = ("misalignment", "misalignment_wrong_speech", "misalignment_silence", "forgetting", "distillation",
              "nll_hearing", "nll_reading", "overconfidence_hearing", "overconfidence_reading")  # fmt: skip
"""What is measured of an utterance, summed over its text targets (divergences.py). A measurement names them in what it
is made from: one without the last of them is made anew."""

Columns = dict[str, np.ndarray]
"""A number per utterance, by name."""


def ratio(sums: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Mean per token of per-utterance sums [n], and its standard error over utterances (delta method of a ratio).

    Without tokens there is no mean, and one utterance alone has no standard error: NaN.
    """
    n, whole = len(sums), float(counts.sum())
    if not whole > 0:
        return {"mean": float("nan"), "se": float("nan")}
    mean = float(sums.sum() / whole)
    if n < 2:
        return {"mean": mean, "se": float("nan")}
    spread = np.sqrt(((sums - mean * counts) ** 2).sum() / (n - 1) / n) / counts.mean()
    return {"mean": mean, "se": float(spread)}


def columns(rows: Iterable[dict[str, Any]], names: Iterable[str]) -> Columns:
    """[n] float64 of each name, over the rows in their order; NaN where a row has none."""
    names = list(names)
    table = np.array([[float("nan") if (value := row.get(name)) is None else value for name in names]
                      for row in rows], dtype=float).reshape(-1, len(names))  # fmt: skip
    return dict(zip(names, table.T, strict=True))


def summary(table: Columns) -> dict[str, Any]:
    """Every quantity per text target with its standard error; the paired differences that tell whether speech is used;
    M over the targets behind speech only (before the first speech span M is zero by definition).

    ``table``: ``tokens``, ``heard`` (targets with speech before them) and QUANTITIES, per utterance.
    """
    tokens, heard = table["tokens"], table["heard"]
    result: dict[str, Any] = {
        "items": len(tokens),
        "tokens": int(tokens.sum()),
        "tokens_after_speech": int(heard.sum()),
    }
    result |= {name: ratio(table[name], tokens) for name in QUANTITIES}
    result["misalignment_after_speech"] = ratio(table["misalignment"], heard)
    for control in ("wrong_speech", "silence"):
        gain = table[f"misalignment_{control}"] - table["misalignment"]
        result[f"speech_gain_over_{control.removesuffix('_speech')}"] = ratio(gain, tokens)
    return result


def grouped(table: Columns, groups: list[str]) -> dict[str, Columns]:
    """The rows of each group, by its name; whole numbers in their order, then the other names in theirs."""
    names = sorted(set(groups), key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name))
    belongs = np.array(groups)
    return {name: {key: values[belongs == name] for key, values in table.items()} for name in names}
