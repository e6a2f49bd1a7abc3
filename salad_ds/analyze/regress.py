"""What M and F say about accuracy, over runs (SALAD, arXiv 2510.13632: leave-one-out R² 0.75 for M on speech accuracy,
0.74 for F on text accuracy; partial R² 0.56 and 0.32).

Ordinary least squares of accuracy on log M and F. The leave-one-out R² predicts every run from the others, so that it
cannot be bought with parameters; the partial R² of one predictor is the share of what the other leaves open that it
explains.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import t as student_t

from salad_ds.errors import DataError


@dataclass(frozen=True)
class Regression:
    """``coefficients``: intercept first, then the predictors in order; ``errors``: their standard errors; ``p``:
    two-sided, against 0. ``r2``, ``loo_r2`` (1 − PRESS / total; below 0 when the mean predicts better), ``partial_r2``
    of each predictor given the others, ``runs``: how many; ``left_out``: loo_r2 with whole groups left out, for each
    grouping that was given."""

    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    errors: tuple[float, ...]
    p: tuple[float, ...]
    r2: float
    loo_r2: float
    partial_r2: dict[str, float]
    runs: int
    left_out: dict[str, float] = field(default_factory=dict)


def regress(
    y: np.ndarray, predictors: Mapping[str, np.ndarray], groupings: Mapping[str, Sequence[Hashable]] | None = None
) -> Regression:
    """Least squares of ``y`` [n] on an intercept and ``predictors`` [n] each. ``groupings``: {name: a label per run}.
    Raises DataError for too few runs (two more than parameters are needed), constant or proportional predictors, and
    numbers that are not finite."""
    names, y = tuple(predictors), np.asarray(y, float)
    design = np.column_stack([np.ones(len(y)), *(np.asarray(predictors[name], float) for name in names)])
    n, k = design.shape
    if n < k + 2:
        raise DataError(f"{n} runs for {k} parameters", f"give {k + 2} or more")
    if not (np.isfinite(design).all() and np.isfinite(y).all()):
        raise DataError("a run has an M of 0, or a number that is not finite", "leave that run out")
    if np.linalg.matrix_rank(design - [0, *design[:, 1:].mean(0)]) < k or float(np.ptp(y)) == 0:
        raise DataError("the runs do not differ in what is compared", "give runs that differ in M, F and accuracy")
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ y
    residuals = y - design @ beta
    total, left = float(((y - y.mean()) ** 2).sum()), float((residuals**2).sum())
    errors = np.sqrt(np.diag(inverse) * left / (n - k))
    with np.errstate(divide="ignore"):
        p = 2 * student_t.sf(np.abs(beta / errors), n - k)
    hat = design @ inverse @ design.T
    left_out = {name: 1 - press(hat, residuals, labels) / total for name, labels in (groupings or {}).items()}
    partial = {}
    for i, name in enumerate(names, 1):
        without = np.delete(design, i, 1)
        alone = float(((y - without @ np.linalg.lstsq(without, y, rcond=None)[0]) ** 2).sum())
        partial[name] = (alone - left) / alone if alone > 0 else float("nan")
    return Regression(names, tuple(map(float, beta)), tuple(map(float, errors)), tuple(map(float, p)), 1 - left / total,
                      1 - press(hat, residuals, range(n)) / total, partial, n, left_out)


def press(hat: np.ndarray, residuals: np.ndarray, labels: Sequence[Hashable]) -> float:
    """Sum of squared errors when every run is predicted by a fit without the runs of its label: (I − H_gg)⁻¹ e_g for
    each label g. Infinite where the others do not determine the fit."""
    members: dict[Hashable, list[int]] = {}
    for i, label in enumerate(labels):
        members.setdefault(label, []).append(i)
    total = 0.0
    for own in members.values():
        inner = np.eye(len(own)) - hat[np.ix_(own, own)]
        if np.linalg.cond(inner) > 1e10:
            return float("inf")
        total += float((np.linalg.solve(inner, residuals[own]) ** 2).sum())
    return total
