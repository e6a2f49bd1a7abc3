"""``docs/evidence.md``: every experiment's question, the command that fills it, what it came to, and what is missing.

Made from the CSV files of ``docs/evidence`` (collect.py) alone. Text that a person adds between the marks ``said`` and
``/said`` of an experiment stays.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from salad_ds.analyze.fit import LEAST, fit
from salad_ds.errors import DataError
from salad_ds.evidence.collect import DONE, NOT_RUN, WORDS, Row, read_csv
from salad_ds.evidence.grid import DIRECTORY, Experiment, experiments, load_experiment
from salad_ds.evidence.pictures import curves_picture
from salad_ds.evidence.relation import relation
from salad_ds.files import write_text

COMMAND = "python -m salad_ds.evidence"
SAID = re.compile(r"<!-- said (\S+) -->\n(.*?)<!-- /said -->", re.DOTALL)
HEARS = 0.3
"""How far M must lie below the wrong-speech control, and below the M of a student without sound, to be in bold."""
DEAF = ("search", "set-up", "deaf")
"""Experiment, axis and level of that student."""


def write_page(out: Path, page: Path, recipes: Path = DIRECTORY) -> None:
    """Write ``page`` and the pictures below ``out`` from the tables there."""
    kept = dict(SAID.findall(page.read_text())) if page.is_file() else {}
    parts = [HEAD.format(command=COMMAND)]
    for number, name in enumerate(experiments(recipes), 1):
        experiment = load_experiment(name, recipes)
        parts += section(number, name, experiment, out, page.parent, kept)
    every = [row for name in experiments(recipes) for row in read_csv(out / f"{name}.csv")]
    parts += ["## M against hearing, F against reading, over all runs\n", ASKED, f"`{COMMAND} page`\n",
              *relation(every), marked("relation", kept)]  # fmt: skip
    write_text(page, "\n".join(parts) + "\n")


HEAD = """# Evidence

Does SALAD do here what the paper says? Small students on CPU cores, each run minutes long, in grids filled in pieces.
Written by `{command} page` from the tables in [`docs/evidence`](evidence): do not edit, but between
the marks.

```bash
make evidence                                      # all that follows, in its order; goes on where it stopped
{command} run alpha --minutes 60   # one experiment, for an hour; stops with checkpoints
{command} list                     # what is done, and what is not
```

**M**: KL from the student reading to the student hearing, nats per text token, on utterances that neither student nor
LLM was trained on; *wrong*, *silence*: the same with another utterance's speech and with none. *below*: how far M lies
below *wrong*, with the standard error of their paired difference over utterances. **F**: KL from the LLM it was,
reading. *words*: of those behind a span, how many are the student's likeliest when it reads the span, hears it, hears
another. *below deaf*: how far M lies below that of the student of the first table that was trained on silence of the
same length: it knows how long words last, and nothing else. In bold: at least 30 % below both. *at*: the step of the
first probe at which M was 30 % below *wrong*. One line per run; ± is one standard error over utterances of that run,
not over runs: compare seeds for that.
"""


ASKED = """Do students that are less misaligned hear more words, and those that forgot more read fewer? The paper finds
it over its runs for the accuracy of spoken and written benchmarks.
"""


def section(number: int, name: str, experiment: Experiment, out: Path, root: Path, kept: dict[str, str]) -> list[str]:
    rows, curves = read_csv(out / f"{name}.csv"), read_csv(out / f"{name}-curves.csv")
    done = [row for row in rows if row["status"] == DONE]
    controls = [row for row in read_csv(out / f"{DEAF[0]}.csv") if row.get(DEAF[1]) == DEAF[2]]
    deaf = next((row for row in controls if row["status"] == DONE), None)
    parts = [f"## {number}. {experiment.title}\n", experiment.question.strip() + "\n",
             f"`{COMMAND} run {name}`" + (f" → [`{name}.csv`](evidence/{name}.csv), [`{name}-curves.csv`]"
                                          f"(evidence/{name}-curves.csv)" if rows else "") + "\n"]  # fmt: skip
    if experiment.needs:
        parts.append(f"Not run: {experiment.needs.strip()}\n")
    parts += [table(experiment, rows, curves, deaf), ""] if rows else [f"{NOT_RUN.capitalize()}: no cell of it yet.\n"]
    if done:
        machines = sorted({row["machine"] for row in done})
        hours = sum(row["seconds"] for row in done) / 3600
        seeds = ", ".join(f"{seed:.0f}" for seed in sorted({row["seed"] for row in done}))
        parts.append(f"{len(done)} of {len(rows)} cells; {hours:.1f} h of training on {'; '.join(machines)} (one core "
                     f"per cell); seeds {seeds}; M on {done[0]['items']:.0f} utterances.\n")  # fmt: skip
    if curves:
        picture = curves_picture(curves, list(experiment.axes), out / f"{name}.png")
        parts.append(f"![{experiment.title}]({picture.relative_to(root)})\n")
        parts += laws(curves, list(experiment.axes))
    return [*parts, marked(name, kept)]


def marked(name: str, kept: dict[str, str]) -> str:
    """What a person wrote about it, between its marks."""
    return f"<!-- said {name} -->\n{kept.get(name, '')}<!-- /said -->\n"


def table(experiment: Experiment, rows: list[Row], curves: list[Row], deaf: Row | None) -> str:
    axes = list(experiment.axes)
    probes = {tuple(own[0][name] for name in [*axes, "seed"]): own for own in grouped(curves, [*axes, "seed"])}
    head = [*axes, "seed", "M", "wrong", "silence", "below", "below deaf", "F", "words: read", "heard", "other", "at",
            "steps", "targets", "min"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        own = [str(row[axis]) for axis in axes] + [f"{row['seed']:.0f}"]
        seen = probes.get(tuple(row[name] for name in [*axes, "seed"]), [])
        own += numbers(row, seen, deaf) if row["status"] == DONE else [NOT_RUN] + ["–"] * 12
        lines.append("| " + " | ".join(own) + " |")
    return "\n".join(lines)


def numbers(row: Row, probes: list[Row], deaf: Row | None) -> list[str]:
    below, error = below_of(row)
    first = next((one["step"] for one in probes if 1 - one["m"] / one["wrong"] >= HEARS), None)
    alike = deaf is not None and deaf["tokens"] == row["tokens"] and deaf["items"] == row["items"]
    over = 1 - row["m"] / deaf["m"] if alike and deaf else float("nan")
    mark = "**" if min(below, over) >= HEARS else ""
    return [f"{row['m']:.3f} ± {row['m_se']:.3f}", f"{row['wrong']:.3f}", f"{row['silence']:.3f}",
            f"{mark}{100 * below:.0f} ± {100 * error:.0f} %{mark}", f"{mark}{100 * over:.0f} %{mark}" if alike else "–",
            f"{row['f']:.3f}",
            *("–" if np.isnan(row[name]) else f"{100 * row[name]:.1f} %" for name in WORDS),
            "–" if first is None else f"{first:.0f}", f"{row['steps']:,.0f}", f"{row['targets']:,.0f}",
            f"{row['seconds'] / 60:.1f}"]  # fmt: skip


def below_of(row: Row) -> tuple[float, float]:
    """How far M lies below the wrong-speech control, as a share of it, and the standard error."""
    return row["gain"] / row["wrong"], row["gain_se"] / row["wrong"]


def laws(curves: list[Row], axes: list[str]) -> list[str]:
    """A law of M over text targets for every curve that is long enough, as a table."""
    lines = []
    for own in grouped(curves, [*axes, "seed"]):
        points = [row for row in own if row["targets"] > 0]
        label = ", ".join(f"{axis} {own[0][axis]}" for axis in axes) + f", seed {own[0]['seed']:.0f}"
        try:
            data, m, errors = (np.array([row[name] for row in points]) for name in ("targets", "m", "m_se"))
            law = fit(data, m, errors)
        except DataError:
            continue
        (e0, b0, beta0), (e1, b1, beta1) = law.low, law.high
        lines.append(f"| {label} | {law.e:.3f} [{e0:.3f}, {e1:.3f}] | {law.b:.3f} [{b0:.3f}, {b1:.3f}] | "
                     f"{law.beta:.2f} [{beta0:.2f}, {beta1:.2f}] | {law.unit:,.0f} | {law.r2:.2f} | {law.points} |")
    if not lines:
        return []
    return [f"`M(D) = E + B · (D / unit)^(−β)` over the probes within training, D in text targets, 95 % intervals "
            f"(`salad_ds.analyze.fit`; {LEAST} points or more):\n", "| run | E | B | β | unit | R² | points |",
            "|---|---|---|---|---|---|---|", *lines, ""]  # fmt: skip


def grouped(rows: list[Row], names: list[str]) -> list[list[Row]]:
    """Rows that agree in ``names``, in the order of their first."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(found.values())
