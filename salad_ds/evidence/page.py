"""``docs/evidence.md``: every experiment's question, the command that fills it, what it came to, and what is missing.

Made from the CSV files of ``docs/evidence`` (collect.py) alone. Text that a person adds between the marks ``said`` and
``/said`` of an experiment stays.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np

from salad_ds.analyze.fit import LEAST, Law, fit
from salad_ds.errors import DataError
from salad_ds.evidence.collect import CHANGE, DONE, DRAWN, NOT_RUN, SET, WORDS, Row, grouped, read_csv, with_ending
from salad_ds.evidence.deaf import HEARS, Deaf, deaf_student
from salad_ds.evidence.grid import DIRECTORY, Experiment, experiments, load_experiment
from salad_ds.evidence.pictures import changes_picture, curves_picture, relation_picture
from salad_ds.evidence.relation import comparable, relation
from salad_ds.evidence.texts import ADAPTER, ASKED, head
from salad_ds.files import write_text

COMMAND = "python -m salad_ds.evidence"
SAID = re.compile(r"<!-- said (\S+) -->\n(.*?)<!-- /said -->", re.DOTALL)
SURE = {"sure_hearing": "too sure: hearing", "sure_reading": "reading"}
"""Columns that are shown where they were measured."""


def write_page(out: Path, page: Path, recipes: Path = DIRECTORY) -> None:
    """Write ``page`` and the pictures below ``out`` from the tables there."""
    kept = dict(SAID.findall(page.read_text())) if page.is_file() else {}
    parts = [head(COMMAND, LEAST), marked("limits", kept)]
    deaf = deaf_student(out)
    for number, name in enumerate(experiments(recipes), 1):
        experiment = load_experiment(name, recipes)
        parts += section(number, name, experiment, deaf, out, page.parent, kept)
    every = []
    for name in experiments(recipes):
        axes = load_experiment(name, recipes).axes
        every += [row | {"experiment": name, "setting": (name, *(row[axis] for axis in axes))}
                  for row in read_csv(out / f"{name}.csv")]  # fmt: skip
    alike = comparable(every)
    parts.insert(2, told_of_all(every))
    parts += ["## M against hearing, F against reading, over all runs\n", ASKED, f"`{COMMAND} page`\n",
              *relation(alike)]  # fmt: skip
    if alike:
        picture = relation_picture(alike, out / "relation.png")
        parts.append(shown("Words heard against M, words read against F", picture, page.parent))
    parts.append(marked("relation", kept))
    parts += ["## An adapter to begin with\n", ADAPTER, marked("adapter", kept)]
    write_text(page, "\n".join(parts) + "\n")


def told_of_all(rows: list[Row]) -> str:
    """How many runs there are, and what they took."""
    runs = {row["run"]: row["seconds"] for row in rows if row["status"] == DONE}
    longest = max(runs.values(), default=0.0)
    return (f"{len(runs)} runs, those that experiments share counted once: {sum(runs.values()) / 3600:.1f} h of "
            f"training on one core, the longest {longest / 60:.0f} minutes.\n")


def section(
    number: int, name: str, experiment: Experiment, deaf: Deaf, out: Path, root: Path, kept: dict[str, str]
) -> list[str]:
    rows, curves = read_csv(out / f"{name}.csv"), read_csv(out / f"{name}-curves.csv")
    done = [row for row in rows if row["status"] == DONE]
    parts = [f"## {number}. {experiment.title}\n", experiment.question.strip() + "\n",
             f"`{COMMAND} run {name}`" + (f" → [`{name}.csv`](evidence/{name}.csv), [`{name}-curves.csv`]"
                                          f"(evidence/{name}-curves.csv)" if rows else "") + "\n"]  # fmt: skip
    if experiment.needs:
        parts.append(f"Not run: {experiment.needs.strip()}\n")
    parts += [f"In brackets: less that of {axis} {level}.\n" for axis, level in experiment.against.items() if rows]
    beside = deaf if experiment.beside_deaf else Deaf()
    nothing = f"{NOT_RUN.capitalize()}: no cell of it yet.\n"
    parts += [table(experiment, rows, curves, beside), ""] if rows else [nothing]
    if done:
        machines = sorted({row["machine"] for row in done})
        hours = sum(row["seconds"] for row in done) / 3600
        seeds = ", ".join(f"{seed:.0f}" for seed in sorted({row["seed"] for row in done}))
        parts.append(f"{len(done)} of {len(rows)} cells; {hours:.1f} h of training on {'; '.join(machines)} (one core "
                     f"per cell); seeds {seeds}; M on {done[0]['items']:.0f} utterances.\n")  # fmt: skip
    reference = ", ".join(f"{axis} {level}" for axis, level in experiment.against.items())
    if picture := changes_picture(done, list(experiment.axes), reference, out / f"{name}-changes.png"):
        parts.append(shown(f"What M is above that of {reference}", picture, root))
    if curves:
        drawn, others = told_apart(curves, rows)
        picture = curves_picture(drawn, list(experiment.axes), experiment.against, out / f"{name}.png")
        parts.append(shown(experiment.title, picture, root))
        if others:
            parts.append(f"Not drawn, for it was measured on other targets: {', '.join(others)}.\n")
        parts += laws(curves, list(experiment.axes))
    return [*parts, marked(name, kept)]


def told_apart(curves: list[Row], rows: list[Row]) -> tuple[list[Row], list[str]]:
    """Curves of runs that were measured on as many targets as most, or are under way; what the others are called."""
    done = [row for row in rows if row["status"] == DONE]
    most = Counter(row["tokens"] for row in done).most_common(1)
    if not most:
        return curves, []
    others = {row["run"]: next(iter(row.values())) for row in done if row["tokens"] != most[0][0]}
    return [row for row in curves if row["run"] not in others], list(dict.fromkeys(others.values()))


def shown(title: str, picture: Path, root: Path) -> str:
    """A picture on a page that lies in ``root``."""
    return f"![{title}]({os.path.relpath(picture, root)})\n"


def marked(name: str, kept: dict[str, str]) -> str:
    """What a person wrote about it, between its marks."""
    return f"<!-- said {name} -->\n{kept.get(name, '')}<!-- /said -->\n"


def table(experiment: Experiment, rows: list[Row], curves: list[Row], deaf: Deaf) -> str:
    """``deaf``: the student to hold them against; an empty one: none."""
    axes = list(experiment.axes)
    probes = {tuple(own[0][name] for name in [*axes, "seed"]): own for own in grouped(curves, [*axes, "seed"])}
    sets = [name for name in rows[0] if name.startswith(f"m{SET}")]
    sure = [name for name in SURE if any(np.isfinite(row.get(name, np.nan)) for row in rows)]
    others = [f"M {name.split(SET)[1]} / wrong" for name in sets]
    drawn = ["clusters drawn from", "largest share"] if DRAWN[0] in rows[0] else []
    beside, at = (["below deaf"], ["at"]) if deaf.rows else ([], [])
    head = [*axes, "seed", *drawn, "M", "wrong", "silence", "below", *beside, *others, "F",
            *(SURE[name] for name in sure), "words: read", "heard", "other", *at, "steps", "targets", "min"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        own = [str(row[axis]) for axis in axes] + [f"{row['seed']:.0f}"]
        seen = probes.get(tuple(row[name] for name in [*axes, "seed"]), [])
        if row["status"] == DONE:
            own += drawn_from(row) if drawn else []
            own += numbers(row, seen, deaf, sets, sure)
        else:
            own.append(row["status"])
        own += ["–"] * (len(head) - len(own))
        lines.append("| " + " | ".join(own) + " |")
    return "\n".join(lines)


def numbers(row: Row, probes: list[Row], deaf: Deaf, sets: list[str], sure: list[str]) -> list[str]:
    (below, error), over, first = below_of(row), deaf.below(row), deaf.passed(probes)
    mark = "**" if below >= HEARS and over >= HEARS else ""  # not where over is NaN
    beside = [dash(over, f"{mark}{100 * over:.0f} %{mark}")] if deaf.rows else []
    return [mean_of(row, "m", CHANGE), f"{row['wrong']:.3f}", f"{row['silence']:.3f}",
            f"{mark}{100 * below:.0f} ± {100 * error:.0f} %{mark}", *beside,
            *(mean_of(row, name, name.replace("m", CHANGE, 1), name.replace("m", "wrong", 1)) for name in sets),
            f"{row['f']:.3f}", *(dash(row[name], f"{row[name]:+.3f}") for name in sure),
            *(dash(row[name], f"{100 * row[name]:.1f} %") for name in WORDS),
            *(["–" if first is None else f"{first:.0f}"] if deaf.rows else []),
            f"{row['steps']:,.0f}", f"{row['targets']:,.0f}", f"{row['seconds'] / 60:.1f}"]  # fmt: skip


def dash(value: float, told: str) -> str:
    return "–" if np.isnan(value) else told


def drawn_from(row: Row) -> list[str]:
    """How many equal clusters a draw would be as uncertain with, and the share that one cluster gave."""
    return [f"{row['effective']:.1f} of {row['clusters']:.0f}", f"{100 * row['largest']:.0f} %"]


def mean_of(row: Row, name: str, change: str, control: str = "") -> str:
    """The column ``name``, behind a stroke its ``control``, and in brackets its paired ``change`` if it has one."""

    def both(column: str, sign: str = "") -> str:
        return f"{row[column]:{sign}.3f} ± {row[with_ending(column, '_se')]:.3f}"

    beside = f" / {row[control]:.3f}" if control in row else ""
    return both(name) + beside + (f" ({both(change, '+')})" if np.isfinite(row.get(change, np.nan)) else "")


def below_of(row: Row) -> tuple[float, float]:
    """How far M lies below the wrong-speech control, as a share of it, and the standard error."""
    return row["gain"] / row["wrong"], row["gain_se"] / row["wrong"]


def laws(curves: list[Row], axes: list[str]) -> list[str]:
    """The probes of every run within training: where M was least and how it ended, and a law of M over text targets for
    a curve that is long enough and does not grow again. As a table."""
    lines = []
    for own in grouped(curves, [*axes, "seed"]):
        points = [row for row in own if row["targets"] > 0]
        if not points:
            continue
        label = ", ".join(f"{axis} {own[0][axis]}" for axis in axes) + f", seed {own[0]['seed']:.0f}"
        least, last = min(points, key=lambda row: row["m"]), points[-1]
        seen = [f"{least['m']:.3f}", f"{least['targets']:,.0f}", f"{last['m']:.3f}"]
        if grows(least, last):
            seen[-1] = f"**{seen[-1]}**"
        lines.append("| " + " | ".join([label, *seen, *law_of(points)]) + " |")
    if not lines:
        return []
    return ["The probes within training:\n", "| run | least M | at | last M | E | B | β | unit | R² | points |",
            "|---|---|---|---|---|---|---|---|---|---|", *lines, ""]  # fmt: skip


def grows(least: Row, last: Row) -> bool:
    return last["m"] - least["m"] > 2 * float(np.hypot(last["m_se"], least["m_se"]))


def law_of(points: list[Row]) -> list[str]:
    """Cells of the table."""
    none = ["–"] * 5 + [f"{len(points)}"]
    if grows(min(points, key=lambda row: row["m"]), points[-1]):
        return none
    try:
        law = law_through(*(tuple(row[name] for row in points) for name in ("targets", "m")))
    except DataError:
        return none
    (e0, b0, beta0), (e1, b1, beta1) = law.low, law.high
    return [f"{law.e:.3f} [{e0:.3f}, {e1:.3f}]", f"{law.b:.3f} [{b0:.3f}, {b1:.3f}]",
            f"{law.beta:.2f} [{beta0:.2f}, {beta1:.2f}]", f"{law.unit:,.0f}", f"{law.r2:.2f}", f"{law.points}"]


@cache
def law_through(data: tuple[float, ...], m: tuple[float, ...]) -> Law:
    """Once for a run that several experiments show. Without M's errors: all probes of a run are of the same utterances,
    whose error they share, so that the scatter about the curve is what is left to chance."""
    return fit(np.array(data), np.array(m))
