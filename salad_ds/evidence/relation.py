"""Over the runs of all experiments: does M tell how well a student hears, and F how well it still reads?

The paper regresses accuracies of benchmarks; here it is the share of the words behind a span that are the student's
likeliest, when it hears the span and when it reads it. Only runs that were measured on the same utterances, cut alike.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from salad_ds.analyze.findings import BOTH, PAPER_LOO, PAPER_PARTIAL, SPECIFICATIONS
from salad_ds.analyze.regress import regress
from salad_ds.errors import DataError
from salad_ds.evidence.collect import DONE, Row

SHARE = {"speech": "heard", "text": "read"}
"""Accuracy → column of the tables."""


def comparable(rows: list[Row]) -> list[Row]:
    """Those that are done, on the speech and with the number of targets that most runs have; equal ones once."""
    done = [row for row in rows if row["status"] == DONE and np.isfinite(row["heard"])]
    most = Counter((row["speech"], row["tokens"]) for row in done).most_common(1)
    same = [row for row in done if (row["speech"], row["tokens"]) == most[0][0]] if most else []
    return list({tuple(row[name] for name in ("m", "f", "read", "heard")): row for row in same}.values())


def relation(rows: list[Row]) -> list[str]:
    """Lines of the page: a table of regressions beside the paper's figures, or why there is none."""
    runs = comparable(rows)
    predictors = {"log M": np.log([row["m"] for row in runs]), "F": np.array([row["f"] for row in runs])}
    lines = ["| words | predictors | R² | leave-one-out R² | the paper's | partial R² | the paper's |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for accuracy, names in SPECIFICATIONS:
        try:
            shares = np.array([row[SHARE[accuracy]] for row in runs])
            found = regress(shares, {name: predictors[name] for name in names})
        except DataError as error:
            return [f"Not run: {error.what} ({error.mend}).\n"]
        partial = {name: f"{name} {found.partial_r2[name]:.2f}" for name in names} if names == BOTH else {}
        theirs = {name: f"{name} {value:.2f}" for (kind, name), value in PAPER_PARTIAL.items()
                  if kind == accuracy and names == BOTH}  # fmt: skip
        loo = PAPER_LOO.get((accuracy, names))
        lines.append(f"| {SHARE[accuracy]} | {' + '.join(names)} | {found.r2:.2f} | {found.loo_r2:.2f} | "
                     f"{'–' if loo is None else f'{loo:.2f}'} | {', '.join(partial.values()) or '–'} | "
                     f"{', '.join(theirs.values()) or '–'} |")  # fmt: skip
    return [f"{len(runs)} runs, measured on the same utterances (`salad_ds.analyze.regress`).\n", *lines, ""]
