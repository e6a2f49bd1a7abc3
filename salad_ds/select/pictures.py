"""The charts of the selection's page: M before and after Stage II, and shares before and after the draw, by cluster."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from salad_ds.measure.pictures import ROLES, svg
from salad_ds.select.view import Cluster, View

SHOWN = 32
"""Clusters that a chart has room for."""
ROW, FRAME = 0.27, 1.0
"""Inches per cluster, and of the chart's frame."""


def labels(clusters: list[Cluster], narrow: bool) -> list[str]:
    """Number and a few words."""
    words = [", ".join(cluster.row["words"][:1 if narrow else 3]) for cluster in clusters]
    return [f"{cluster.number}  {told[:14 if narrow else 34]}" for cluster, told in zip(clusters, words, strict=True)]


def rows(axes: Axes, clusters: list[Cluster], narrow: bool) -> None:
    axes.set_yticks(range(len(clusters)), labels(clusters, narrow), parse_math=False)
    axes.set_ylim(len(clusters) - 0.4, -0.6)
    axes.tick_params(axis="y", labelcolor=ROLES["ink"])
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8))


def highest(view: View) -> list[Cluster]:
    """The clusters with an M, the highest first, as many as are shown."""
    measured = [cluster for cluster in view.clusters if math.isfinite(cluster.row["m"])]
    return sorted(measured, key=lambda cluster: -cluster.row["m"])[:SHOWN]


def misalignment(view: View) -> str:
    """M per cluster with 95 % intervals of ± two standard errors, before and (where measured) after Stage II."""
    clusters = highest(view)

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        shift = 0.16 if view.stage else 0.0
        for at, cluster in enumerate(clusters):
            change = cluster.change
            pairs = [(at - shift, cluster.row["m"], cluster.row["m_error"], "orange", "o")]
            if change is not None:
                pairs = [(at - shift, change.before["mean"], change.before["se"], "orange", "o"),
                         (at + shift, change.after["mean"], change.after["se"], "green", "D")]
                axes.plot([pairs[0][1], pairs[1][1]], [at - shift, at + shift], color=ROLES["muted"], linewidth=1.0)
            for y, mean, error, color, marker in pairs:
                half = 2 * error if error is not None and math.isfinite(error) else 0.0
                axes.plot([max(mean - half, 0.0), mean + half], [y, y], color=ROLES[color], linewidth=2.4, alpha=0.38)
                axes.plot([mean], [y], marker=marker, color=ROLES[color], markersize=6.5 if marker == "o" else 5.6,
                          markeredgecolor=ROLES["paper"], markeredgewidth=0.7, linestyle="none", clip_on=False)
        for color, marker, label in (("orange", "o", f"before: {view.recipe.select.checkpoint}"),
                                     ("green", "D", f"after: {view.stage}"))[:2 if view.stage else 1]:
            axes.plot([], [], marker=marker, color=ROLES[color], linestyle="none", label=label.replace("$", ""))
        rows(axes, clusters, narrow)
        axes.set_xlim(left=0)
        axes.set_xlabel("misalignment M, nats per text token, ± 2 se" if narrow else
                        "misalignment M of the probes, nats per text token, ± two standard errors")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncol=2)

    when = f"before and after {view.stage}" if view.stage else "before Stage II"
    label = f"Misalignment of {len(clusters)} clusters {when}. The numbers stand in the table of the clusters."
    return svg(draw, (FRAME + ROW * 1.15 * len(clusters),) * 2, label, "misalignment")


def shares(view: View) -> str:
    """P_web against P_target, one pair of bars per cluster."""
    clusters = sorted(view.clusters, key=lambda cluster: (-cluster.row["p_target"], -cluster.row["p_web"]))[:SHOWN]

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        for at, cluster in enumerate(clusters):
            web, target = cluster.row["p_web"], cluster.row["p_target"]
            axes.barh(at - 0.19, web, 0.3, color=ROLES["grey"], alpha=0.55)
            axes.barh(at + 0.19, target, 0.38, color=ROLES["green"])
            told = "set aside" if cluster.row["set_aside"] else f"{cluster.row['drawn']:,}"
            axes.annotate(told, (max(web, target), at), (6, 0), textcoords="offset points", va="center", fontsize=9,
                          color=ROLES["muted"])
        named = [Patch(color=ROLES["grey"], alpha=0.55, label="share of the corpus"),
                 Patch(color=ROLES["green"], label="share of the draw; texts drawn")]
        rows(axes, clusters, narrow)
        axes.margins(x=0.12)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("share of texts")
        figure.legend(handles=named, loc="outside upper left", ncol=1 if narrow else 2)

    label = (f"Shares of {len(clusters)} clusters in the corpus and in what is drawn. "
             "The numbers stand in the table of the clusters.")
    return svg(draw, (FRAME + ROW * 1.15 * len(clusters), FRAME + 0.2 + ROW * 1.15 * len(clusters)), label, "shares")
