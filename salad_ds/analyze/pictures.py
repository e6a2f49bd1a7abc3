"""The figures of the analyses, each drawn once for the page (SVG in the page's colours) and once as a PNG file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from salad_ds.analyze.findings import BOTH, Found, Related, accuracy_of, error_of, value_of
from salad_ds.analyze.regress import regress
from salad_ds.analyze.runs import Checkpoint
from salad_ds.errors import DataError
from salad_ds.files import atomic_path
from salad_ds.measure.pictures import ROLES, STYLE, WIDE, svg

LIGHT = {"ink": "#1c2326", "muted": "#586469", "rule": "#e2ddd2", "blue": "#2560a8", "orange": "#b94e12",
         "green": "#1b7a52", "grey": "#727b80", "paper": "#fbfaf6"}  # fmt: skip
"""What the roles are on a light page (measure/page.css)."""
LOOKS = (("blue", "o", "-"), ("orange", "s", "--"), ("green", "D", "-."), ("ink", "v", ":"), ("grey", "^", "-"))
"""Colour, marker, line; a sixth series begins again with the next line."""
MOST = 10
"""Laws of one figure."""
NAMED = 6
"""Points up to which their names stand beside them; of more it is their numbers in the table."""

Draw = Callable[[Figure, bool, dict[str, str]], None]
"""(figure, narrow, colours by role)."""


def pictured(draw: Draw, sizes: tuple[float, float], label: str, name: str, png: Path) -> str:
    """Write the PNG, and return the SVGs (heights in inches: wide, narrow) for the page."""
    by_role = {value: LIGHT[role] for role, value in ROLES.items()}
    style = {key: by_role.get(value, value) if isinstance(value, str) else value for key, value in STYLE.items()}
    with matplotlib.rc_context({**style, "figure.facecolor": LIGHT["paper"]}):
        figure = Figure(figsize=(WIDE, sizes[0]), dpi=180, layout="constrained")
        draw(figure, False, LIGHT)
        with atomic_path(png) as part, open(part, "wb") as file:
            FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return svg(lambda figure, narrow: draw(figure, narrow, ROLES), sizes, label, name)


def look(number: int) -> tuple[str, str, str]:
    color, marker, _ = LOOKS[number % len(LOOKS)]
    return color, marker, LOOKS[(number + number // len(LOOKS)) % len(LOOKS)][2]


def laws(found: Sequence[Found], png: Path) -> str:
    """M against data on logarithmic axes: points with their standard errors, fitted curves with 95 % bands. What has no
    law is drawn with its points alone."""
    shown = [one for one in found if len(one.data)][:MOST]

    def draw(figure: Figure, narrow: bool, colours: dict[str, str]) -> None:
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        for number, one in enumerate(shown):
            color, marker, line = look(number)
            errors = np.where(np.isfinite(one.errors), one.errors, 0.0)
            below = np.minimum(errors, 0.95 * one.m)  # a bar to zero has no place on a logarithmic axis
            axes.errorbar(one.data, one.m, yerr=[below, errors], color=colours[color], marker=marker, markersize=5.5,
                          linestyle="none", markeredgecolor=colours["paper"], markeredgewidth=0.7, elinewidth=1.2,
                          capsize=2.5, alpha=1.0 if one.law else 0.55)  # fmt: skip
            if one.law is not None:
                grid = np.geomspace(one.data.min(), one.data.max(), 80)
                axes.fill_between(grid, *one.law.band(grid), color=colours[color], alpha=0.16, linewidth=0)
                axes.plot(grid, one.law.at(grid), color=colours[color], linestyle=line)
            label = one.label if one.law is not None else f"{one.label} (no law)"
            axes.plot([], [], color=colours[color], marker=marker, linestyle=line if one.law else "none", label=label)
        axes.set_xlabel("text targets trained on")
        axes.set_ylabel("M, nats per text token")
        plain_ticks(axes.yaxis)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncol=1 if narrow else 2)

    fitted = sum(one.law is not None for one in shown)
    label = (f"Misalignment against the text targets trained on, {len(shown)} series, {fitted} with a fitted law and "
             "its 95 % band. The numbers stand in the table below.")
    rows = -(-len(shown) // 2)
    return pictured(draw, (3.6 + 0.2 * rows, 3.4 + 0.2 * len(shown)), label, "laws", png)


def plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic M axis as decimals, whatever part of a decade it spans."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low > 20 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    if high / low < 3:
        axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.axes.tick_params(which="minor", length=0)


def accuracies(related: Sequence[Related], numbers: dict[int, int], png: Path, name: str) -> str:
    """Spoken and written accuracy against log M and against F, a point per run with its number, and the line of one
    predictor. ``related``: of one task; ``numbers``: of checkpoints (by id()) in the table of runs."""
    kinds = {kind: next(one for one in related if one.accuracy == kind) for kind in ("speech", "text")}
    kinds = {kind: one for kind, one in kinds.items() if one.runs}
    titles = {"speech": "Spoken", "text": "Written"}

    def draw(figure: Figure, narrow: bool, colours: dict[str, str]) -> None:
        panels = figure.subplots(len(kinds) * (2 if narrow else 1), 1 if narrow else 2, squeeze=False).ravel()
        places = [(kind, name) for kind in kinds for name in BOTH]
        for axes, (kind, predictor) in zip(panels, places, strict=True):
            scatter(axes, list(kinds[kind].runs), kinds[kind].task, kind, predictor, numbers, colours)
            axes.set_title(f"{titles[kind]} accuracy")
            axes.set_xlabel("M, nats per token" if predictor == "log M" else "F, nats per token")
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))

    some = next(iter(kinds.values()))
    label = (f"{some.task}: accuracy of {len(some.runs)} runs against misalignment (logarithmic) and against "
             "forgetting, with regression lines. The numbers stand in the tables.")
    return pictured(draw, (2.7 * len(kinds), 4.8 * len(kinds)), label, name, png)


def scatter(axes: Axes, runs: list[Checkpoint], task: str, kind: str, predictor: str, numbers: dict[int, int],
            colours: dict[str, str]) -> None:
    """One panel: accuracies ± binomial standard errors over M or F ± theirs."""
    color, marker, _ = LOOKS[0 if kind == "text" else 1]
    y = np.array([accuracy_of(one, task, kind) for one in runs])
    counts = np.array([max(1, one.answers(task).items) for one in runs])  # type: ignore[union-attr]
    values = np.array([value_of(one, predictor) for one in runs])
    x = np.exp(values) if predictor == "log M" else values
    errors = np.array([error_of(one) if predictor == "log M" else one.metric("forgetting_se") for one in runs])
    errors = np.where(np.isfinite(errors), errors, 0.0)
    left = np.minimum(errors, 0.95 * x) if predictor == "log M" else errors
    axes.errorbar(x, y, xerr=[left, errors], yerr=np.sqrt(y * (1 - y) / counts), color=colours[color], marker=marker,
                  markersize=6, markeredgecolor=colours["paper"], markeredgewidth=0.7, linestyle="none",
                  elinewidth=0.9, ecolor=colours["rule"])  # fmt: skip
    if predictor == "log M":
        axes.set_xscale("log")
        if x.max() / x.min() < 30:
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", length=0)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    try:
        intercept, slope = regress(y, {predictor: values}).coefficients
        ends = np.array([values.min(), values.max()])
        axes.plot(np.exp(ends) if predictor == "log M" else ends, intercept + slope * ends,
                  color=colours["ink"], linewidth=1.3, linestyle="--")  # fmt: skip
    except DataError:
        pass  # too few runs for a line: the table says so
    for place, i in enumerate(np.argsort(x, kind="stable")):  # neighbours above and below their points by turns
        name = runs[i].label if len(runs) <= NAMED else str(numbers[id(runs[i])])
        axes.annotate(name, (x[i], y[i]), (5, -12 if place % 2 else 5), textcoords="offset points", fontsize=8,
                      color=colours["muted"])  # fmt: skip
    axes.margins(0.12)
