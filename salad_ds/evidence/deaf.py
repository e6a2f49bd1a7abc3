"""A student that cannot hear, to hold others against: trained on silence as long as their speech (silent.py).

The wrong-speech control alone does not tell hearing from knowing how long words last: another utterance's words last
otherwise. M below that of the deaf student does, where it was trained as long and by the same loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from salad_ds.evidence.collect import DONE, Row, read_csv

EXPERIMENT, AXIS, LEVEL = "search", "set-up", "deaf"
"""Of that student."""
HEARS = 0.3
"""How far M must lie below both controls, as a share of them, for a student to be said to hear."""


@dataclass(frozen=True)
class Deaf:
    """``rows``: {seed: its line of the table}; ``probes``: {(seed, step): its M within training}."""

    rows: dict[float, Row] = field(default_factory=dict)
    probes: dict[tuple[float, float], float] = field(default_factory=dict)

    def below(self, row: Row) -> float:
        """How far the M of ``row`` lies below, as a share; NaN where it was trained for another time, or measured on
        other targets."""
        own = self.rows.get(row["seed"])
        if own is None or any(own[name] != row[name] for name in ("tokens", "items", "steps")):
            return float("nan")
        return float(1 - row["m"] / own["m"])

    def passed(self, probes: list[Row]) -> float | None:
        """The step of the first probe that hears: below the wrong-speech control and the deaf student at that step."""
        for one in probes:
            deaf = self.probes.get((one["seed"], one["step"]))
            if deaf is not None and one["m"] <= (1 - HEARS) * min(one["wrong"], deaf):
                return float(one["step"])
        return None


def deaf_student(out: Path) -> Deaf:
    """From the tables in ``out``; empty where it was not run."""
    rows = [row for row in read_csv(out / f"{EXPERIMENT}.csv") if row.get(AXIS) == LEVEL and row["status"] == DONE]
    probes = [row for row in read_csv(out / f"{EXPERIMENT}-curves.csv") if row.get(AXIS) == LEVEL]
    return Deaf({row["seed"]: row for row in rows}, {(row["seed"], row["step"]): row["m"] for row in probes})
