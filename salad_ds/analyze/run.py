"""``salad-ds analyze RUNS``: laws of M over data and regressions of accuracy on M and F, straight from MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from salad_ds.analyze.findings import Related, laws, regressions
from salad_ds.analyze.page import Content, write_page
from salad_ds.analyze.pictures import accuracies
from salad_ds.analyze.pictures import laws as laws_picture
from salad_ds.analyze.runs import measured_runs, unfinished
from salad_ds.analyze.stores import tracked_runs
from salad_ds.analyze.tables import (
    lines,
    shown_laws,
    shown_regressions,
    shown_runs,
    shown_unfinished,
    write_tables,
)
from salad_ds.files import digest_of


def analyze_command(uris: list[str], out: str | Path = "analysis") -> None:
    """The verb: analyse and say where the page is."""
    print(f"look at it: {analyze(uris, Path(out))['page'].absolute().as_uri()}")


def analyze(uris: list[str], out: Path) -> dict[str, Any]:
    """Analyse the runs in ``uris`` (stores.py: tracking URIs, work directories, experiments) into the directory
    ``out``: ``index.html``, ``runs``, ``laws``, ``points``, ``regressions`` and ``unfinished`` as Parquet, the figures
    as PNG; prints the tables.

    Returns the tables (pyarrow) by name, and the ``page``'s path. Raises DataError where a store cannot be read or
    nothing has been measured; where there is too little for a law or a regression, its row says so.
    """
    runs = tracked_runs(uris)
    students, curves = measured_runs(runs)
    stopped, found, related = unfinished(runs), laws(curves, students), regressions(students)
    read = digest_of([[run.id, run.status, run.metrics, run.tags, run.inputs] for run in runs])
    tables = write_tables(out, students, found, related, stopped, {"runs": read})
    content = Content(sorted({run.store for run in runs}), len(runs), students, found, related, stopped)
    for old in [out / "laws.png", *out.glob("accuracy-*.png")]:
        old.unlink(missing_ok=True)
    if any(len(one.data) for one in found):
        content.law_picture = laws_picture(found, out / "laws.png")
    numbers = {id(one): number for number, one in enumerate(students, 1)}
    for name, caption, own in pictures_of(related):
        content.pictures.append((accuracies(own, numbers, out / f"{name}.png", name), caption))
    write_page(content, out / "index.html")
    for title, (head, rows) in (("checkpoints", shown_runs(students)), ("laws: M(D) = E + B · (D / unit)^(−β)",
                                shown_laws(found)), ("regressions", shown_regressions(related)),
                                ("not finished, in no law and no regression", shown_unfinished(stopped))):  # fmt: skip
        print(lines(title, head, rows) if rows else f"{title}: none", end="\n\n")
    return {**tables, "page": out / "index.html"}


def pictures_of(related: list[Related]) -> list[tuple[str, str, list[Related]]]:
    """(file name, caption, regressions) of every group of runs that can be compared on a task."""
    groups: dict[tuple[str, str, str], list[Related]] = {}
    for one in related:
        groups.setdefault((one.task, one.measured_on, one.questions), []).append(one)
    found, counts = [], dict[str, int]()
    for (task, *_), own in groups.items():
        if not any(one.runs for one in own):
            continue
        counts[task] = counts.get(task, 0) + 1
        name = f"accuracy-{task.replace(' ', '-')}" + (f"-{counts[task]}" if counts[task] > 1 else "")
        most = max(len(one.runs) for one in own)
        caption = (f"{task}: accuracy of {most} checkpoints against M and F, ± one standard error; the numbers are "
                   "those of the table of checkpoints. Dashed: the regression on one predictor.")  # fmt: skip
        found.append((name, caption, own))
    return found
