"""How misalignment falls with data: ``M(D) = E + B · D^(−β)`` (SALAD, arXiv 2510.13632, 'Findings').

E is what no amount of data of this kind takes away, β how fast the rest goes. Least squares over (E, log B, β) from
many starting points, with E and β not negative; intervals by a seeded bootstrap, because with the few points that runs
give the parameters are correlated and far from normal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import least_squares

from salad_ds.errors import DataError

LEAST = 4
"""Points: three parameters, and one to tell whether they fit."""
STARTS = ((0.0, 0.2), (0.0, 0.5), (0.0, 1.0), (0.5, 0.3), (0.9, 0.5), (0.9, 1.5))
"""(E as a share of the smallest M, β) from which the search begins."""
STEEPEST = 10.0


@dataclass(frozen=True)
class Law:
    """``e`` (nats per token), ``b``, ``beta``: of ``M(D) = e + b · (D / unit)^(−beta)``, where ``unit`` is the
    geometric mean of the data amounts that were fitted, so that ``b`` has the size of M. ``low``, ``high``: ends of the
    95 % intervals, in that order. ``r2``: share of the variance explained (NaN where M does not vary). ``points``: how
    many were fitted. ``drawn``: (e, b, beta) of every resample."""

    e: float
    b: float
    beta: float
    unit: float
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    r2: float
    points: int
    drawn: tuple[tuple[float, ...], ...] = field(repr=False)

    def at(self, data: np.ndarray) -> np.ndarray:
        return self.e + self.b * (np.asarray(data, float) / self.unit) ** -self.beta

    def band(self, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the 95 % interval of M after each amount, [n] each."""
        e, b, beta = np.array(self.drawn).T[..., None]
        low, high = np.percentile(e + b * (np.asarray(data, float) / self.unit) ** -beta, (2.5, 97.5), axis=0)
        return low, high


def fit(data: np.ndarray, m: np.ndarray, errors: np.ndarray | None = None, resamples: int = 400, seed: int = 0) -> Law:
    """Fit the law to misalignments ``m`` [n] after amounts ``data`` [n] (> 0, any unit); ``errors``: their standard
    errors, which weigh the points and are what the bootstrap redraws; without them it redraws the residuals.

    Raises DataError for fewer than LEAST different amounts, and for numbers that are not finite.
    """
    data, m = np.asarray(data, float), np.asarray(m, float)
    if not (np.isfinite(data).all() and np.isfinite(m).all() and (data > 0).all()):
        raise DataError("an amount of data is not above 0, or an M is not a number", "look at the runs that were given")
    if len(np.unique(data)) < LEAST:
        raise DataError(f"{len(np.unique(data))} different amounts of data: the law has three parameters",
                        f"measure at {LEAST} or more (stages.*.probe_every)")
    unit = float(np.exp(np.log(data).mean()))
    scale = np.ones_like(m) if errors is None else usable(np.asarray(errors, float))
    best = search(data / unit, m, scale, None)
    fitted = curve(best, data / unit)
    random = np.random.default_rng(seed)
    n, k = len(m), 3
    residuals = (m - fitted) * np.sqrt(n / max(n - k, 1))  # least squares leaves them too small
    drawn = np.empty((resamples, 3))
    for i in range(resamples):
        noise = random.choice(residuals, n) if errors is None else random.normal(0.0, scale)
        drawn[i] = search(data / unit, fitted + noise, scale, best)
    values = parameters(drawn)
    low, high = (tuple(float(x) for x in np.percentile(values, q, axis=0)) for q in (2.5, 97.5))
    spread = ((m - m.mean()) ** 2).sum()
    e, b, beta = (float(x) for x in parameters(best[None])[0])
    r2 = float(1 - ((m - fitted) ** 2).sum() / spread) if spread > 0 else float("nan")
    return Law(e, b, beta, unit, low, high, r2, n, tuple(map(tuple, values.tolist())))  # type: ignore[arg-type]


def usable(errors: np.ndarray) -> np.ndarray:
    """Standard errors as weights: one that is missing or zero counts as the median of the others."""
    good = np.isfinite(errors) & (errors > 0)
    return np.where(good, errors, np.median(errors[good]) if good.any() else 1.0)


def parameters(raw: np.ndarray) -> np.ndarray:
    """[n, 3] of (E, B, β) from what is searched over: (E, log B, β)."""
    return np.stack([raw[:, 0], np.exp(raw[:, 1]), raw[:, 2]], 1)


def curve(raw: np.ndarray, data: np.ndarray) -> np.ndarray:
    return raw[0] + np.exp(raw[1] - raw[2] * np.log(data))


def search(data: np.ndarray, m: np.ndarray, scale: np.ndarray, start: np.ndarray | None) -> np.ndarray:
    """The best (E, log B, β) from ``start``, or from all STARTS."""
    floor = max(float(m.min()), 1e-9)
    lower, upper = np.array([0.0, -30.0, 0.0]), np.array([np.inf, 30.0, STEEPEST])
    height = float(np.median(m))
    starts = [start] if start is not None else [
        np.array([share * floor, np.log(max(height - share * floor, 1e-6)), beta]) for share, beta in STARTS]
    logs = np.log(data)

    def residuals(raw: np.ndarray) -> np.ndarray:
        return (raw[0] + np.exp(raw[1] - raw[2] * logs) - m) / scale

    def slopes(raw: np.ndarray) -> np.ndarray:
        falling = np.exp(raw[1] - raw[2] * logs)
        return np.stack([np.ones_like(logs), falling, -logs * falling], 1) / scale[:, None]

    found = [least_squares(residuals, np.clip(at, lower, upper), slopes, bounds=(lower, upper), x_scale="jac",
                           xtol=1e-11, ftol=1e-12, gtol=1e-12) for at in starts]
    return min(found, key=lambda one: one.cost).x
