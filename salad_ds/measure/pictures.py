"""The figures of the report: matplotlib drawings as inline SVG that take their colours and font from the page.

Every colour of a drawing is a role (ink, rule, text, speech, …) that becomes a CSS variable, so one SVG serves light
and dark pages. Each figure is drawn twice, wide and narrow; the page shows the one that fits. Series differ by marker
and line as well as by colour.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from salad_ds.measure.artefacts import Run, StageLog

ROLES = {"ink": "#010101", "muted": "#020202", "rule": "#030303", "blue": "#040404", "orange": "#050505",
         "green": "#060606", "grey": "#070707", "paper": "#080808"}
"""Stand-in colours: each becomes ``var(--<role>)`` in the page."""
WIDE, NARROW = 7.4, 3.7
"""Widths in inches; one inch is 96 CSS pixels."""
STYLE = {
    "svg.fonttype": "none", "font.size": 9.5, "axes.edgecolor": ROLES["rule"], "axes.labelcolor": ROLES["muted"],
    "text.color": ROLES["ink"], "xtick.color": ROLES["muted"], "ytick.color": ROLES["muted"], "axes.titlesize": 10,
    "axes.titlelocation": "left", "axes.titlecolor": ROLES["ink"], "axes.titleweight": "bold", "axes.titlepad": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.grid": True,
    "axes.grid.axis": "y", "grid.color": ROLES["rule"], "grid.linewidth": 0.8, "xtick.major.size": 0,
    "ytick.major.size": 0, "axes.axisbelow": True, "legend.frameon": False, "lines.linewidth": 1.8,
    "figure.facecolor": "none", "axes.facecolor": "none", "legend.fontsize": 9, "legend.handletextpad": 0.5,
}
CONDITIONS = {"misalignment": ("blue", "o", "-", "right speech"),
              "misalignment_wrong_speech": ("orange", "s", "--", "another utterance's"),
              "misalignment_silence": ("grey", "^", ":", "silence")}


def svg(draw: Callable[[Figure, bool], None], sizes: tuple[float, float], label: str, name: str) -> str:
    """``draw(figure, narrow)`` as two SVGs of the given heights (inches; wide, narrow), described by ``label``."""
    parts = []
    for kind, width, height in (("wide", WIDE, sizes[0]), ("narrow", NARROW, sizes[1])):
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"{name}-{kind}"}):
            figure = Figure(figsize=(width, height), dpi=96, layout="constrained")
            draw(figure, kind == "narrow")
            buffer = io.StringIO()
            FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
        parts.append(dress(buffer.getvalue(), kind, f"{name}-{kind}", label))
    return "".join(parts)


def dress(text: str, kind: str, prefix: str, label: str) -> str:
    """An SVG file as an element of the page: own ids, the page's colours and font, an accessible name."""
    text = text[text.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    for role, stand_in in ROLES.items():
        text = text.replace(stand_in, f"var(--{role})")
    text = re.sub(r"(font: (?:\w+ )*[\d.]+px) [^;\"]+", r"\1 var(--sans)", text)
    text = re.sub(r"font-family: [^;\"]+", "font-family: var(--sans)", text)
    text = re.sub(r"\n\s*", "\n", text)
    view = re.search(r'viewBox="([^"]+)"', text)
    assert view is not None
    head = f'<svg class="plot {kind}" viewBox="{view.group(1)}" role="img" aria-label="{escape(label)}">'
    return head + text[text.index(">") + 1:].strip() + "\n"


def error_bars(axes: Axes, rows: Sequence[dict[str, float] | None], shift: float, color: str, marker: str, line: str,
               label: str, errors_shown: float = 1.0) -> None:
    """Means ± ``errors_shown`` standard errors over the checkpoints, joined; what was not measured is left out."""
    points = [(place + shift, row["mean"], errors_shown * row["se"])
              for place, row in enumerate(rows) if row is not None]
    if not points:
        return
    at, means, errors = (list(values) for values in zip(*points, strict=True))
    errors = [0.0 if math.isnan(error) else error for error in errors]
    look: dict[str, Any] = {"color": ROLES[color], "marker": marker, "markersize": 6.5, "linestyle": line,
                            "linewidth": 1.4, "markeredgecolor": ROLES["paper"], "markeredgewidth": 0.8}
    axes.errorbar(at, means, yerr=errors, elinewidth=1.6, capsize=3.5, **look)
    axes.plot([], [], label=label, **look)  # the legend shows the series without its bars


def divergences(run: Run) -> str:
    """M by what is heard; what the right speech adds over each control; F and L_DIST: before and after each stage."""
    names = run.checkpoints

    def values(key: str) -> list[dict[str, float] | None]:
        return [run.measure.get(name, {}).get(key) for name in names]

    def draw(figure: Figure, narrow: bool) -> None:
        panels = figure.subplots(3, 1) if narrow else figure.subplots(1, 3)
        for shift, (key, look) in zip((-0.12, 0.0, 0.12), CONDITIONS.items(), strict=True):
            error_bars(panels[0], values(key), shift, *look)
        for shift, key, look in ((-0.07, "speech_gain_over_wrong", ("orange", "s", "--", "over another utterance's")),
                                 (0.07, "speech_gain_over_silence", ("grey", "^", ":", "over silence"))):
            error_bars(panels[1], values(key), shift, *look, errors_shown=2.0)
        for shift, key, look in ((-0.07, "distillation", ("green", "D", "-", "distillation loss L_DIST")),
                                 (0.07, "forgetting", ("ink", "v", "-", "forgetting F"))):
            error_bars(panels[2], values(key), shift, *look)
        panels[1].axhline(0, color=ROLES["muted"], linewidth=1.2)
        titles = ("M, by what is heard", "What the right speech adds", "Against the teacher")
        for axes, title in zip(panels, titles, strict=True):
            axes.set_title(title)
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.45, len(names) - 0.55)
            axes.margins(y=0.14)
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.legend(loc="upper left", bbox_to_anchor=(-0.04, -0.14))
        panels[2].set_ylim(bottom=0)
        for axes in panels if narrow else panels[:1]:
            axes.set_ylabel("nats per text token")

    label = ("Misalignment with right speech, another utterance's speech and silence; the difference that the right "
             "speech makes; distillation loss and forgetting; per checkpoint. The numbers stand in the table below.")
    return svg(draw, (3.4, 9.4), label, "divergences")


def accuracies(run: Run) -> str:
    """Accuracy on the same items written and spoken, with 95 % intervals, and chance."""
    names = [name for name in run.models if name in run.evaluate]
    chance = float(run.evaluate[names[-1]]["chance"])

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        height, told = len(names), set[str]()
        for row, name in enumerate(names):
            y = height - 1 - row
            result = run.evaluate[name]
            for offset, part, color, marker in ((0.14, "text", "blue", "o"), (-0.14, "speech", "orange", "s")):
                if part not in result:  # the base LLM does not hear
                    continue
                value, (low, high) = result[part]["accuracy"], result[part]["ci"]
                axes.plot([low, high], [y + offset] * 2, color=ROLES[color], linewidth=2.6, alpha=0.45)
                axes.plot([value], [y + offset], color=ROLES[color], marker=marker, markersize=8, linestyle="none",
                          markeredgecolor=ROLES["paper"], markeredgewidth=0.8,
                          label=None if part in told else {"text": "written", "speech": "spoken"}[part])
                told.add(part)
                axes.annotate(f"{value:.0%}", (high, y + offset), (6, 0), textcoords="offset points", va="center",
                              color=ROLES["muted"], fontsize=9)
        axes.axvline(chance, color=ROLES["muted"], linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate(f"chance {chance:.0%}", (chance, height - 0.48), (5, 0), textcoords="offset points",
                      color=ROLES["muted"], fontsize=9, va="top")
        axes.set_yticks(range(height), names[::-1])
        axes.set_ylim(-0.5, height - 0.45)
        axes.set_xlim(0, 1.08)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        axes.set_xlabel("items answered correctly, with 95 % interval")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncol=2)

    label = ("Accuracy on the same items written and spoken, per model, against chance. "
             "The numbers stand in the table below.")
    return svg(draw, (0.95 + 0.62 * len(names),) * 2, label, "accuracies")


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Running mean over the last ``window`` values (fewer at the start)."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - window)
    return (sums[ends] - sums[begins]) / (ends - begins)


def training(name: str, log: StageLog) -> str:
    """Loss and learning rates of one stage, step by step."""
    steps = np.array([row["step"] for row in log.rows])
    window = max(2, len(steps) // 20)

    def column(key: str) -> np.ndarray | None:
        values = np.array([row.get(key, math.nan) for row in log.rows])
        return values if np.isfinite(values).any() else None

    def draw(figure: Figure, narrow: bool) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [2.4, 1]})
        few = len(steps) < 12
        for key, label, color in (("kl", "KL to the teacher", "green"), ("nll", "next-token loss", "grey")):
            values = column(key)
            if values is None:
                continue
            if few:
                top.plot(steps, values, color=ROLES[color], marker="o", markersize=4, label=label)
            else:
                top.plot(steps, values, color=ROLES[color], linewidth=0.8, alpha=0.35)
                top.plot(steps, smooth(np.nan_to_num(values), window), color=ROLES[color],
                         linestyle="-" if key == "kl" else "--", label=f"{label}, mean of {window} steps")
        top.set_title(f"{name}: loss")
        top.set_ylabel("nats / token")
        top.set_ylim(0, top.get_ylim()[1] * 1.3)  # room for the legend
        top.legend(loc="upper right", ncol=1)
        top.yaxis.set_major_locator(MaxNLocator(5))
        for key, label, color, line in (("lr_adapter", "adapter", "blue", "-"), ("lr_llm", "LLM", "orange", "--")):
            rates = column(key)
            if rates is not None and np.nanmax(rates) > 0:
                peak = float(np.nanmax(rates))
                bottom.plot(steps, rates / peak, color=ROLES[color], linestyle=line, label=f"{label}, peak {peak:.2g}")
        bottom.set_title("Learning rate")
        bottom.set_xlabel("optimizer step")
        bottom.set_ylabel("of peak")
        bottom.set_ylim(0, 1.08)
        bottom.set_yticks([0, 0.5, 1])
        bottom.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        figure.legend(*bottom.get_legend_handles_labels(), loc="outside lower left", ncol=1 if narrow else 2)
        bottom.xaxis.set_major_locator(MaxNLocator(5 if narrow else 9, integer=True))

    last = log.rows[-1]
    label = (f"Training of {name}: loss per step, {last.get('kl', math.nan):.3f} nats KL at step {log.steps}, "
             "and the learning rates.")
    return svg(draw, (4.4, 4.4), label, f"training-{name}")


def clusters(rows: list[dict[str, Any]]) -> str:
    """What selection does: share of each cluster before and after, against its misalignment."""
    probed = [row for row in rows if row["m"] is not None and math.isfinite(row["m"])]

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        for row in probed:
            kept = row["p_target"] > 0
            if kept:
                color = "green" if row["p_target"] > row["p_web"] else "grey"
                axes.plot([row["m"]] * 2, [row["p_web"], row["p_target"]], color=ROLES[color], alpha=0.55)
                axes.plot([row["m"]], [row["p_target"]], marker="o", markersize=7, color=ROLES[color],
                          markeredgecolor=ROLES["paper"], markeredgewidth=0.7, clip_on=False, zorder=3)
            axes.plot([row["m"]], [row["p_web"]], marker="_" if kept else "x", markersize=9 if kept else 6,
                      color=ROLES["muted"], markeredgewidth=1.6)
        axes.plot([], [], marker="_", color=ROLES["muted"], linestyle="none", markersize=9, markeredgewidth=1.6,
                  label="share of the corpus")
        axes.plot([], [], marker="o", color=ROLES["green"], linestyle="none", label="share drawn: more")
        axes.plot([], [], marker="o", color=ROLES["grey"], linestyle="none", label="share drawn: less")
        if any(row["p_target"] == 0 for row in probed):
            axes.plot([], [], marker="x", color=ROLES["muted"], linestyle="none", label="set aside")
        top = sorted(probed, key=lambda row: -row["p_target"])[:2 if narrow else 4]
        middle = (min(row["m"] for row in probed) + max(row["m"] for row in probed)) / 2
        for row in top:
            words = ", ".join(row["words"][:2 if narrow else 3])
            right = row["m"] < middle
            axes.annotate(words, (row["m"], row["p_target"]), (9 if right else -9, 0), textcoords="offset points",
                          ha="left" if right else "right", va="center", fontsize=9, color=ROLES["ink"])
        axes.set_xlabel("misalignment M of the probes, nats per token")
        axes.set_ylabel("share of texts")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.margins(0.08)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 7))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left" if narrow else "outside upper left",
                      ncol=2 if narrow else 4, columnspacing=1.2)

    label = (f"Share of {len(probed)} probed clusters in the corpus and in what is drawn, against their misalignment. "
             "The numbers stand in the table below.")
    return svg(draw, (3.8, 4.0), label, "clusters")


def spoken_words(wave: np.ndarray, rate: int, words: Sequence[tuple[str, float, float]], name: str) -> str:
    """A clip's envelope, cut into lines of a few seconds, with each word under its time (word, start, end)."""
    duration = len(wave) / rate

    def draw(figure: Figure, narrow: bool) -> None:
        per_line = 2.4 if narrow else 5.0
        lines = max(1, math.ceil(duration / per_line - 0.15))
        per_line = max(duration / lines, 1.5)
        figure.set_layout_engine("none")
        peak = float(np.abs(wave).max()) or 1.0
        room = {"left": 0.004, "right": 0.95 if narrow else 0.97, "top": 1.0, "bottom": 0.0, "hspace": 0.06}
        for number, axes in enumerate(figure.subplots(lines, 1, squeeze=False, gridspec_kw=room)[:, 0]):
            start = number * per_line
            piece = wave[int(start * rate):int((start + per_line) * rate)]
            bins = np.array_split(np.abs(piece), max(1, min(len(piece), 110 if narrow else 240)))
            heights = np.array([float(part.max()) if len(part) else 0.0 for part in bins]) / peak
            times = start + (np.arange(len(bins)) + 0.5) * len(piece) / rate / len(bins)
            axes.vlines(times, -heights, heights, color=ROLES["blue"], linewidth=1.5, alpha=0.75)
            inside = [word for word in words if start <= word[1] < start + per_line]
            for _, begin, _ in inside:
                axes.axvline(begin, 0.04, 0.96, color=ROLES["rule"], linewidth=1.0, zorder=0)
            free = [-math.inf, -math.inf]
            for text, begin, _ in inside:  # two levels, so that neighbours do not overlap
                level = 0 if free[0] <= begin else 1
                end = begin + (len(text) + 1.2) * per_line / (50 if narrow else 104)
                free[level] = end
                edge = start + per_line / room["right"]
                x, side = (begin, "left") if end <= edge else (edge, "right")
                axes.text(x, -1.2 - 0.62 * level, text, fontsize=9, va="top", ha=side, color=ROLES["ink"])
            axes.set_xlim(start, start + per_line)
            axes.set_ylim(-2.5, 1.05)
            axes.axis("off")

    def lines(width: float) -> int:
        return max(1, math.ceil(duration / width - 0.15))

    label = f"Waveform of the clip ({duration:.1f} s) with {len(words)} words under the times at which they are spoken."
    return svg(draw, (0.95 * lines(5.0), 0.95 * lines(2.4)), label, name)
