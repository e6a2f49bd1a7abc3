"""Warm-up, stable, decay: the paper's learning-rate schedule as a factor of the base rate."""

from __future__ import annotations


def wsd_factor(step: int, steps: int, warmup: int, decay_share: float) -> float:
    """Factor for the ``step``-th update (from 0): linear from 1/warmup to 1, then 1, then linear to 0 over the last
    share.

    Decay runs over ``round(decay_share · steps)`` updates; the first update after the last would have factor 0. A
    warm-up longer than what the decay leaves is cut short.
    """
    decay = round(decay_share * steps)
    warmup = min(warmup, steps - decay)
    if step < warmup:
        return (step + 1) / warmup
    if decay and step >= steps - decay:
        return max(steps - step, 0) / (decay + 1)
    return 1.0
