"""Figures about hearing: words behind a span, and M and F over the steps of a stage."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from salad_ds.measure.pictures import ROLES, svg

CONDITIONS = {"reading": ("green", "D", "-", "reading the span"), "right": ("blue", "o", "-", "hearing it"),
              "wrong": ("orange", "s", "--", "hearing another utterance"),
              "silence": ("grey", "^", ":", "hearing silence")}
"""Colour, marker, line and name."""


def drawn(axes: Any, at: list[float], rows: list[dict[str, float]], look: tuple[str, str, str, str]) -> None:
    """Means ± one standard error over ``at``."""
    color, marker, line, label = look
    errors = [0.0 if math.isnan(row["se"]) else row["se"] for row in rows]
    axes.errorbar(at, [row["mean"] for row in rows], yerr=errors, color=ROLES[color], marker=marker, linestyle=line,
                  markersize=5.5, markeredgecolor=ROLES["paper"], markeredgewidth=0.7, linewidth=1.4, elinewidth=1.2,
                  capsize=2.5)
    axes.plot([], [], color=ROLES[color], marker=marker, linestyle=line, label=label)


def words(result: dict[str, Any], checkpoint: str) -> str:
    """Share of right words, and KL of reading against hearing, by distance from the span."""
    parts = result["by_distance"]
    places = [float(distance) for distance in range(1, len(parts) + 1)]

    def draw(figure: Figure, narrow: bool) -> None:
        left, right = figure.subplots(2, 1) if narrow else figure.subplots(1, 2)
        for number, (name, look) in enumerate(CONDITIONS.items()):
            here = [place + 0.06 * (number - 1.5) for place in places]
            drawn(left, here, [part["word"][name] for part in parts], look)
            if name != "reading":
                drawn(right, here, [part["kl"][name] for part in parts], look)
        left.set_title("Words predicted rightly")
        left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        right.set_title("KL reading ‖ hearing, nats per token")
        for axes in (left, right):
            axes.set_ylim(bottom=0)
            axes.set_xticks(places)
            axes.set_xlabel("words behind the span")
            axes.yaxis.set_major_locator(MaxNLocator(5))
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncol=1 if narrow else 4)

    label = (f"{checkpoint}: accuracy of the first {len(parts)} words behind a spoken span, and the divergence of "
             "reading and hearing there, under four conditions. The numbers stand in the table below.")
    return svg(draw, (3.3, 6.4), label, "words")


def probes(name: str, rows: list[dict[str, float]]) -> str:
    """M with both kinds of speech, F and L of a stage's probes, step by step."""
    steps = [row["step"] for row in rows]
    quantities = {"misalignment": ("blue", "o", "-", "M, right speech"),
                  "misalignment_wrong_speech": ("orange", "s", "--", "M, another utterance's"),
                  "distillation": ("green", "D", "-", "L_DIST"), "forgetting": ("ink", "v", ":", "F")}

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        for key, look in quantities.items():
            drawn(axes, steps, [{"mean": row[key], "se": row.get(f"{key}_se", math.nan)} for row in rows], look)
        axes.set_title(f"{name}: held-out speech during training")
        axes.set_ylabel("nats / token")
        axes.set_xlabel("optimizer step")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 9, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncol=2 if narrow else 4)

    label = (f"Misalignment, distillation loss and forgetting of {name} on {rows[-1].get('items', 0):.0f} held-out "
             f"utterances at {len(rows)} steps: M ends at {rows[-1]['misalignment']:.3f} nats per token.")
    return svg(draw, (3.0, 3.4), label, f"probes-{name}")
