"""Regressions over runs of different experiments: which take part, and what they find in what is known."""

from __future__ import annotations

import numpy as np

from salad_ds.evidence.relation import comparable, relation


def runs(n=12, **others):
    random = np.random.default_rng(0)
    found = []
    for i in range(n):
        m, f = random.uniform(0.1, 1.0), random.uniform(0.0, 0.5)
        found.append({"status": "done", "speech": "speech/held", "tokens": 100.0, "m": m, "f": f,
                      "heard": 0.2 - 0.05 * np.log(m), "read": 0.3 - 0.1 * f + random.normal(0, 0.05),
                      "setting": i // 2, "experiment": i // 4} | others)  # fmt: skip
    return found


def test_only_runs_measured_alike_take_part_and_equal_ones_once():
    own = runs(4)
    others = [*runs(2, tokens=90.0), *runs(3, speech="speech/silent"), *runs(1, heard=float("nan")),
              *runs(2, status="not run")]  # fmt: skip
    assert comparable([*others, *own, *own]) == own


def test_what_is_exactly_so_is_found_and_noise_is_not():
    lines = {tuple(line.split(" | ")[:2]): line.split(" | ") for line in relation(runs()) if line.startswith("| ")}
    assert lines["| heard", "log M"][2:7] == ["1.00", "1.00", "1.00", "1.00", "0.75"]
    assert float(lines["| heard", "F"][3]) < 0.2 and float(lines["| read", "F"][3]) < 0.9
    both = lines["| heard", "log M + F"]
    assert both[7].startswith("log M 1.00") and both[8] == "log M 0.56 |"


def test_what_only_the_experiment_tells_is_not_foretold_without_it():
    """Reading depends on the experiment alone, which F gives away: another seed of the same experiment tells it."""
    own = [row | {"f": 0.1 * (i // 4) + 1e-3 * i, "read": (0.3, 0.1, 0.2)[i // 4]} for i, row in enumerate(runs())]
    lines = {tuple(line.split(" | ")[:2]): line.split(" | ") for line in relation(own) if line.startswith("| ")}
    alone, setting, experiment = map(float, lines["| read", "F"][3:6])
    assert alone >= setting > experiment and experiment < 0


def test_too_few_runs_are_not_run():
    assert relation(runs(2)) == ["Not run: 2 runs for 2 parameters (give 4 or more).\n"]


def test_runs_that_forgot_little_are_told_by_themselves():
    """Two that forgot much make a line through noise; the table below tells."""
    much = [row | {"f": f, "read": 0.3 - 0.1 * f} for row, f in zip(runs(2, m=0.5), (5.0, 6.0), strict=True)]
    lines = [line.strip("| ").split(" | ") for line in relation([*runs(), *much]) if line.startswith("| ")]
    everything = next(line for line in lines if line[:2] == ["read", "F"])
    begin = lines.index(["F below", "runs", "heard by log M", "read by F"]) + 1
    limits = {line[0]: line[1:] for line in lines[begin:]}
    few = str(sum(row["f"] < 0.1 for row in runs()))
    assert limits["1"][:2] == ["12", "1.00"] and limits["0.1"][0] == few
    assert float(limits["1"][2]) < 0.9 < float(everything[2])
