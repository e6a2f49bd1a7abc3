"""Pictures of an experiment: M against data seen, with its control, of every run; what each run's M is above that of
the run which it is held against. And of all experiments: words heard against M, words read against F."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from salad_ds.evidence.collect import CHANGE, SET, Row, grouped, with_ending
from salad_ds.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIKE = ("-", "--", ":", "-.")


def curves_picture(rows: list[Row], axes: list[str], against: dict[str, str], path: Path) -> Path:
    """M (and in grey the wrong-speech control), and F, over the text targets seen. Colour: the first axis' level, thick
    and black where it is the one of ``against`` (see Experiment); line: the second's; seeds share both."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    from salad_ds.analyze.pictures import plain_ticks

    runs = [((own := [f"{axis} {points[0][axis]}" for axis in axes])[0], ", ".join(own[1:]), points)
            for points in grouped(rows, [*axes, "seed"])]
    firsts, others = (list(dict.fromkeys(names)) for names in list(zip(*runs, strict=True))[:2])
    reference = f"{axes[0]} {against[axes[0]]}" if axes[0] in against else ""
    palette = colormaps["tab10" if len(firsts) <= 10 else "tab20"]
    plain = [name for name in firsts if name != reference]
    colours = {name: palette(i % palette.N) for i, name in enumerate(plain)} | {reference: "black"}
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    told = set()
    for first, rest, points in runs:
        like = LIKE[others.index(rest) % len(LIKE)]
        thick = first == reference
        style = {"color": colours[first], "linewidth": 2.2 if thick else 1.3, "zorder": 3 if thick else 2}
        label = ", ".join(filter(None, [first, rest]))
        seen = [point["targets"] / 1000 for point in points]
        left.plot(seen, [point["wrong"] for point in points], like, color="0.75", linewidth=0.8)
        left.plot(seen, [point["m"] for point in points], like, **style, label=None if label in told else label)
        right.plot(seen, [point["f"] for point in points], like, **style)
        told.add(label)
    left.set(xlabel="thousand text targets seen", ylabel="nats per text token", title="M (grey: wrong speech)")
    right.set(xlabel="thousand text targets seen", title="F")
    left.set_yscale("log")  # runs differ by shares of M
    plain_ticks(left.yaxis)
    right.set_ylim(bottom=0)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    return saved(figure, path)


def changes_picture(rows: list[Row], axes: list[str], against: str, path: Path) -> Path | None:
    """Points with bars of one standard error, a panel for each set that both runs were measured on, a line for each
    cell, a colour for each seed; ``against``: what 0 is called. None where nothing is held against anything."""
    from matplotlib.figure import Figure

    columns = [name for name in rows[0] if name.split(SET)[0] == CHANGE] if rows else []
    columns = [name for name in columns if any(np.isfinite(row[name]) for row in rows)]
    if not columns:
        return None
    rows = [row for row in rows if any(np.isfinite(row[name]) for name in columns)]
    labels = [", ".join(f"{axis} {row[axis]}" if len(axes) > 1 else row[axis] for axis in axes) for row in rows]
    lines = list(dict.fromkeys(labels))
    seeds = sorted({row["seed"] for row in rows})
    figure = Figure(figsize=(10 if len(columns) > 1 else 6.5, 1.3 + 0.3 * len(lines)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharex=True, sharey=True, squeeze=False)[0]
    for column, axis in zip(columns, panels, strict=True):
        for i, seed in enumerate(seeds):
            own = [(lines.index(label), row) for label, row in zip(labels, rows, strict=True)
                   if row["seed"] == seed and np.isfinite(row[column])]
            axis.errorbar([row[column] for _, row in own], [at + 0.2 * (i - (len(seeds) - 1) / 2) for at, _ in own],
                          xerr=[row[with_ending(column, "_se")] for _, row in own], fmt="o", markersize=4,
                          color=f"C{i}", label=f"seed {seed:.0f}")  # fmt: skip
        axis.axvline(0, color="0.5", linewidth=0.8)
        axis.set(title=column.partition(SET)[2] or "held-out", yticks=range(len(lines)), yticklabels=lines)
        axis.grid(alpha=0.3, axis="x")
        axis.tick_params(labelsize="small")
    panels[-1].set_ylim(len(lines) - 0.5, -0.5)  # of all of them: the first line on top
    figure.supxlabel(f"M less that of {against}, nats per text token", fontsize="medium")
    handles, told = panels[-1].get_legend_handles_labels()
    figure.legend(handles, told, loc="outside upper right", ncols=len(seeds), fontsize="small", frameon=False)
    return saved(figure, path)


def relation_picture(rows: list[Row], path: Path) -> Path:
    """``rows``: of runs measured alike, each with the ``experiment`` that it is from, which gives its colour; hollow
    where next-token loss alone trained it (level 0 of an axis alpha). The line: words heard by log M."""
    from matplotlib.figure import Figure

    from salad_ds.analyze.pictures import plain_ticks

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for i, name in enumerate(dict.fromkeys(row["experiment"] for row in rows)):
        for hollow in (False, True):
            own = [row for row in rows if row["experiment"] == name and (row.get("alpha") == "0") == hollow]
            for axis, x, y in ((left, "m", "heard"), (right, "f", "read")) if own else ():
                axis.errorbar([row[x] for row in own], [100 * row[y] for row in own],
                              [100 * row[f"{y}_se"] for row in own], fmt="o", markersize=4, elinewidth=0.6,
                              color=f"C{i}", markerfacecolor="white" if hollow else f"C{i}",
                              label=f"{name}, α = 0" if hollow else name)  # fmt: skip
    if len({row["m"] for row in rows}) > 1:
        logs, heard = np.log([row["m"] for row in rows]), [100 * row["heard"] for row in rows]
        ends = np.array([logs.min(), logs.max()])
        left.plot(np.exp(ends), np.polyval(np.polyfit(logs, heard, 1), ends), color="0.6", zorder=1)
    left.set(xlabel="M, nats per text token", ylabel="% of the words behind a span", title="heard", xscale="log")
    plain_ticks(left.xaxis)
    right.set(xlabel="F, nats per text token", title="read")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    handles, told = left.get_legend_handles_labels()
    figure.legend(handles, told, loc="outside lower center", ncols=6, fontsize="small", frameon=False)
    return saved(figure, path)


def saved(figure: Figure, path: Path) -> Path:
    with atomic_path(path) as part:
        figure.savefig(part, dpi=110, format="png", metadata={"Software": None})
    return path
