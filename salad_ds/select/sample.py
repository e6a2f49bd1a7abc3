"""What the probe says about each cluster, and the draw: P_target(c) ∝ P_web(c) · M(c)^γ.

Clusters are drawn with replacement by P_target, texts uniformly inside them without replacement. A cluster that has run
out leaves the draw, and the same law over the remaining clusters decides what follows. All of it is a pure function of
the tables and the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from salad_ds.errors import DataError

DRAWS = 4096


@dataclass(frozen=True)
class Gap:
    """A cluster's probe.

    ``m``: mean KL in nats per text token over all its probe tokens (NaN without probes); ``error``: its standard error
    (ratio estimator over utterances; NaN for fewer than two); ``low``, ``high``: 95 % interval; ``cer``: mean character
    error rate of its probes, each counted as 1 at most; ``probes``: utterances measured; ``set_aside``: why the cluster
    is not drawn from, else empty.
    """

    m: float
    error: float
    low: float
    high: float
    cer: float
    probes: int
    set_aside: str


def gap_of(m: Sequence[float], tokens: Sequence[int], cer: Sequence[float], max_cer: float) -> Gap:
    """The Gap of one cluster from its utterances (``m`` and ``tokens`` of those measured, ``cer`` of those spoken)."""
    heard = float(np.mean(np.minimum(cer, 1.0))) if len(cer) else float("nan")
    values, weights = np.asarray(m, float), np.asarray(tokens, float)
    n = len(values)
    mean = float((values * weights).sum() / weights.sum()) if n and weights.sum() > 0 else float("nan")
    error = half = float("nan")
    if n > 1 and np.isfinite(mean):
        spread = (weights ** 2 * (values - mean) ** 2).sum() / weights.sum() ** 2
        error = float(np.sqrt(n / (n - 1) * spread))
        half = float(student_t.ppf(0.975, n - 1) * error)
    reason = ("cannot be spoken" if not len(cer) else "character error rate" if heard > max_cer else
              "cannot be measured" if not np.isfinite(mean) else "")
    return Gap(mean, error, mean - half, mean + half, heard, n, reason)


def target(p_web: np.ndarray, m: np.ndarray, set_aside: np.ndarray, gamma: float, policy: str) -> np.ndarray:
    """P_target, float64 [k], summing to 1. ``policy`` ``uniform`` draws by P_web alone, as γ = 0 does.

    Estimates of a KL may fall below 0: those count as 0. Raises DataError when nothing is left to draw from.
    """
    allowed = ~np.asarray(set_aside, bool) & (p_web > 0)
    gamma = 0.0 if policy == "uniform" else gamma
    with np.errstate(divide="ignore"):
        logs = np.log(np.where(allowed, p_web, 1.0))
        if gamma:
            logs = logs + gamma * np.log(np.maximum(np.where(allowed, m, 1.0), 0.0))
    logs = np.where(allowed, logs, -np.inf)
    if not np.isfinite(logs).any():
        raise DataError("every cluster is set aside or has no misalignment", "look at clusters.parquet; raise "
                        "select.max_cer or probe another checkpoint")
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def draw(labels: np.ndarray, p_target: np.ndarray, seed: int, items: int | None = None,
         seconds: float | None = None, lengths: np.ndarray | None = None) -> np.ndarray:
    """Rows in the order in which they are drawn, int64 [drawn].

    ``items``: how many; or ``seconds``: until the drawn ``lengths`` (s per row) reach it. Fewer where the clusters of
    positive probability run out.
    """
    random = np.random.default_rng([seed, 2])
    k = len(p_target)
    waiting = [random.permutation(np.flatnonzero(labels == cluster)) if p_target[cluster] > 0 else
               np.empty(0, np.int64) for cluster in range(k)]
    left = np.array([len(rows) for rows in waiting])
    drawn: list[int] = []
    spoken = 0.0
    while left.any():
        weights = np.where(left > 0, p_target, 0.0)
        if weights.sum() <= 0:
            break
        for cluster in random.choice(k, DRAWS, p=weights / weights.sum()):
            if items is not None and len(drawn) >= items or seconds is not None and spoken >= seconds:
                return np.array(drawn, np.int64)
            left[cluster] -= 1
            row = int(waiting[cluster][left[cluster]])
            drawn.append(row)
            spoken += float(lengths[row]) if lengths is not None else 0.0
            if not left[cluster]:
                break  # the law over the remaining clusters decides what follows
    return np.array(drawn, np.int64)


def expected_seconds(characters: np.ndarray, probe_characters: np.ndarray, probe_seconds: np.ndarray) -> np.ndarray:
    """Seconds of speech of texts of so many characters, by the pace of the probes. DataError without probes."""
    if not len(probe_characters) or probe_characters.sum() <= 0:
        raise DataError("no probe was spoken, so the pace of the speech is unknown", "give select.budget_items")
    return characters * float(probe_seconds.sum() / probe_characters.sum())
