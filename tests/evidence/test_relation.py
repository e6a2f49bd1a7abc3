"""Regressions over runs of different experiments: which take part, and what they find in what is known."""

from __future__ import annotations

import numpy as np

from salad_ds.evidence.relation import comparable, relation


def runs(n=12, **others):
    random = np.random.default_rng(0)
    found = []
    for _ in range(n):
        m, f = random.uniform(0.1, 1.0), random.uniform(0.0, 0.5)
        found.append({"status": "done", "speech": "speech/held", "tokens": 100.0, "m": m, "f": f,
                      "heard": 0.2 - 0.05 * np.log(m), "read": 0.3 - 0.1 * f + random.normal(0, 0.05)} | others)
    return found


def test_only_runs_measured_alike_take_part_and_equal_ones_once():
    own = runs(4)
    others = [*runs(2, tokens=90.0), *runs(3, speech="speech/silent"), *runs(1, heard=float("nan")),
              *runs(2, status="not run")]  # fmt: skip
    assert comparable([*others, *own, *own]) == own


def test_what_is_exactly_so_is_found_and_noise_is_not():
    lines = {tuple(line.split(" | ")[:2]): line.split(" | ") for line in relation(runs()) if line.startswith("| ")}
    assert lines["| heard", "log M"][2:5] == ["1.00", "1.00", "0.75"]
    assert float(lines["| heard", "F"][3]) < 0.2 and float(lines["| read", "F"][3]) < 0.9
    both = lines["| heard", "log M + F"]
    assert both[5].startswith("log M 1.00") and both[6] == "log M 0.56 |"


def test_too_few_runs_are_not_run():
    assert relation(runs(2)) == ["Not run: 2 runs for 2 parameters (give 4 or more).\n"]
