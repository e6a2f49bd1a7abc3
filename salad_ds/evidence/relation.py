"""Over the runs of all experiments: does M tell how well a student hears, and F how well it still reads?

The paper regresses accuracies of benchmarks; here it is the share of the words behind a span that are the student's
likeliest, when it hears the span and when it reads it. Only runs that were measured on the same utterances, cut alike.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from salad_ds.analyze.findings import BOTH, PAPER_LOO, PAPER_PARTIAL, SPECIFICATIONS
from salad_ds.analyze.regress import Regression, regress
from salad_ds.errors import DataError
from salad_ds.evidence.collect import DONE, Row

FORGOT = (1.0, 0.1)
"""F, nats per text token, below which runs are regressed by themselves too: a few that forgot much can make an R²."""
LEFT_OUT = ("setting", "experiment")
"""Keys of runs (``setting``: all but the seed): those alike in one are left out together too, since the other seed
of a setting tells what it came to."""
TOLD = """{} runs, measured on the same utterances (`salad_ds.analyze.regress`). *left out*: R² when each run is
predicted without it, without both seeds of its setting, without its whole experiment.
"""
SHARE = {"speech": "heard", "text": "read"}
"""Accuracy → column of the tables."""


def comparable(rows: list[Row]) -> list[Row]:
    """Those that are done, on the speech and with the number of targets that most runs have; equal ones once, where
    they come first."""
    done = [row for row in rows if row["status"] == DONE and np.isfinite(row["heard"])]
    most = Counter((row["speech"], row["tokens"]) for row in done).most_common(1)
    same = [row for row in done if (row["speech"], row["tokens"]) == most[0][0]] if most else []
    found: dict[tuple[float, ...], Row] = {}
    for row in same:
        found.setdefault(tuple(row[name] for name in ("m", "f", "read", "heard")), row)
    return list(found.values())


def relation(runs: list[Row]) -> list[str]:
    """Lines of the page: a table of regressions beside the paper's figures, or why there is none. ``runs``: those that
    are ``comparable``."""
    lines = ["| words | predictors | R² | a run left out | both seeds | an experiment | the paper's | partial R² | "
             "the paper's |", "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for accuracy, names in SPECIFICATIONS:
        try:
            found = regression(runs, accuracy, names)
        except DataError as error:
            return [f"Not run: {error.what} ({error.mend}).\n"]
        partial = {name: f"{name} {found.partial_r2[name]:.2f}" for name in names} if names == BOTH else {}
        theirs = {name: f"{name} {value:.2f}" for (kind, name), value in PAPER_PARTIAL.items()
                  if kind == accuracy and names == BOTH}  # fmt: skip
        loo = PAPER_LOO.get((accuracy, names))
        lines.append(f"| {SHARE[accuracy]} | {' + '.join(names)} | {found.r2:.2f} | {found.loo_r2:.2f} | "
                     f"{' | '.join(f'{found.left_out[name]:.2f}' for name in LEFT_OUT)} | "
                     f"{'–' if loo is None else f'{loo:.2f}'} | {', '.join(partial.values()) or '–'} | "
                     f"{', '.join(theirs.values()) or '–'} |")  # fmt: skip
    return [TOLD.format(len(runs)), *lines, "",
            "R² of those alone that forgot little:\n", *little_forgotten(runs), ""]  # fmt: skip


def little_forgotten(runs: list[Row]) -> list[str]:
    lines = ["| F below | runs | heard by log M | read by F |", "|---|---|---|---|"]
    for limit in FORGOT:
        own, told = [row for row in runs if row["f"] < limit], []
        for accuracy, name in (("speech", "log M"), ("text", "F")):
            try:
                told.append(f"{regression(own, accuracy, (name,)).r2:.2f}")
            except DataError:
                told.append("–")
        lines.append(f"| {limit:g} | {len(own)} | {' | '.join(told)} |")
    return lines


def regression(runs: list[Row], accuracy: str, names: tuple[str, ...]) -> Regression:
    """Of the share of words by ``names`` of "log M" and "F"; ``runs`` have their ``experiment`` and ``setting``. Raises
    DataError for too few runs."""
    predictors = {"log M": np.log([row["m"] for row in runs]), "F": np.array([row["f"] for row in runs])}
    shares = np.array([row[SHARE[accuracy]] for row in runs])
    alike = {name: [row[name] for row in runs] for name in LEFT_OUT}
    return regress(shares, {name: predictors[name] for name in names}, alike)
