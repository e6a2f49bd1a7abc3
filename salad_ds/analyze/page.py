"""``index.html`` of the analyses: one self-contained file with the figures, the tables and what they do not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from salad_ds import __version__
from salad_ds.analyze.findings import Found, Related
from salad_ds.analyze.runs import Checkpoint, Unfinished
from salad_ds.analyze.tables import shown_laws, shown_regressions, shown_runs, shown_unfinished
from salad_ds.files import write_text
from salad_ds.measure.page import facts, figure, page, table, text

LAW = ('<p>M(D) = E + B · (D / unit)<sup>−β</sup>: E is what no amount of data of this kind takes away, β how fast the '
       "rest goes; the unit is the geometric mean of the amounts. D counts text targets, those of the stages before "
       "included, without those of discarded steps. Intervals are of 95 %, by bootstrap.</p>")  # fmt: skip
REGRESSIONS = (
    "<p>Least squares of accuracy on the natural logarithm of M and on F. The leave-one-out R² predicts each run from "
    "the others (below 0: worse than their mean); the partial R² of one predictor is the share of what the other "
    "leaves open that it explains. Beside them stands what SALAD (arXiv 2510.13632) found over its own runs, "
    "with other models and benchmarks.</p>"
)
LIMITS = (
    "Checkpoints of one run, and runs from the same recipe, are not independent: intervals and p-values take them as "
    "if they were.",
    "The probes of one training are the same utterances at every step, so their errors move together: a law's level "
    "is less certain than its shape, and the intervals do not separate them.",
    "During training the learning rate changes with the data; the law of a training curve is not that of runs that "
    "each ended with less.",
    "M is compared only where the speech, its number of utterances and the lengths of spans are the same, accuracy "
    "only where the questions are; groups that differ stand apart. The base LLM may differ.",
    "Hours of speech are not counted: a run logs text targets and positions.",
)


@dataclass
class Content:
    """What the page shows. ``pictures``: (SVGs, caption) of the laws and of each task."""

    stores: list[str]
    runs: int
    students: Sequence[Checkpoint]
    laws: Sequence[Found]
    related: Sequence[Related]
    stopped: Sequence[Unfinished]
    law_picture: str = ""
    pictures: list[tuple[str, str]] = field(default_factory=list)


def write_page(content: Content, path: Path) -> None:
    """The same content gives the same bytes."""
    sections = [("laws", "How M falls with data", laws(content)),
                ("accuracy", "What M and F say about accuracy", accuracy(content)),
                ("runs", "Every checkpoint", runs(content)), ("unfinished", "Not finished", unfinished(content)),
                ("limits", "What the numbers do not show", limits())]  # fmt: skip
    foot = f"Written by salad_ds {text(__version__)} from MLflow; the tables lie beside this page as Parquet files."
    write_text(path, page("SALAD: what the runs say together", header(content), sections, foot))


def header(content: Content) -> str:
    fitted = sum(one.law is not None for one in content.laws)
    tasks = list(dict.fromkeys(one.task for one in content.related if one.found is not None))
    said = [f"{fitted} of {len(content.laws)} series of M follow a fitted law" if content.laws else
            "no series of M over data", f"accuracy is regressed for {', '.join(tasks)}" if tasks else
            "no accuracy can be regressed on M and F: too few runs"]  # fmt: skip
    lead = text("; ".join(said) + ".")
    lead = lead[0].upper() + lead[1:]
    rows = [("Runs read", f"{content.runs:,}"), ("Checkpoints", f"{len(content.students):,}"),
            ("Not finished", f"{len(content.stopped):,}"), ("From", text(", ".join(content.stores)))]  # fmt: skip
    return (f'<p class="kicker">SALAD analyses</p><h1>What {content.runs:,} runs say together</h1>'
            f'<p class="lead">{lead}</p>{facts(rows)}')  # fmt: skip


def grid(caption: str, shown: tuple[list[str], list[list[str]]], classes: Sequence[str] = ()) -> str:
    head, rows = shown
    return table(caption, [text(cell) for cell in head], [[text(cell) for cell in row] for row in rows], classes)


def laws(content: Content) -> str:
    if not content.laws:
        return ("<p>No training with probes (<code>stages.*.probe_every</code>) and no two runs that differ only in "
                "the amount of data: nothing to fit.</p>")  # fmt: skip
    caption = ("M after so many text targets, ± one standard error, with fitted laws and their 95 % bands. What has no "
               "curve has no law: the table says why.")  # fmt: skip
    drawn = figure(content.law_picture, caption) if content.law_picture else ""
    return LAW + drawn + grid("Laws, with 95 % intervals", shown_laws(content.laws), ("", "", "words"))


def accuracy(content: Content) -> str:
    if not content.related:
        return "<p>No student has answered a task: nothing to regress.</p>"
    drawn = "".join(figure(picture, text(caption)) for picture, caption in content.pictures)
    return REGRESSIONS + drawn + grid("Regressions", shown_regressions(content.related), ("", "", "words"))


def runs(content: Content) -> str:
    if not content.students:
        return "<p>No student was measured or asked.</p>"
    return grid("Measured checkpoints: M and F in nats per text token, ± one standard error over utterances",
                shown_runs(content.students), ("", "words"))  # fmt: skip


def unfinished(content: Content) -> str:
    if not content.stopped:
        return "<p>Every run ended.</p>"
    return ("<p>These runs did not end (or are still going); nothing of them is in a law or a regression.</p>"
            + grid("Runs that did not end", shown_unfinished(content.stopped), ("", "", "words")))  # fmt: skip


def limits() -> str:
    return '<ul class="plain">' + "".join(f"<li>{text(one)}</li>" for one in LIMITS) + "</ul>"
