"""The map of the clusters as HTML: its texts are dots of an SVG, its clusters links above it that lead to their panels.

Links, so that the map needs no script: Tab walks through the clusters, Enter opens one, and hovering or focusing shows
its card. Places are shares of the picture and sizes follow its width, so that one map serves every screen.
"""

from __future__ import annotations

import math

import numpy as np

from salad_ds.measure.page import number, percent, text
from salad_ds.select.view import Cluster, View

SIDE, TALL = 1000, 640
"""Units in which bubbles are pushed apart: the map's width and height on a wide screen."""
SMALLEST, GROWTH = 22.0, 22.0
"""Radius of a bubble from which nothing was drawn, and what the most drawn has more, in those units, for a dozen
clusters or fewer."""
LETTER, LINE = 7.0, 20.0
"""A letter's width and a line's height, in those units."""
LABELS = 24
"""With more clusters only the most drawn carry their words (where there is room), and none its number."""
STEPS = 300


def size(cluster: Cluster, view: View) -> float:
    """0 to 1: the root of the texts drawn from the cluster, as a share of the most drawn."""
    return math.sqrt(cluster.row["drawn"] / max(max(other.row["drawn"] for other in view.clusters), 1))


def scale(view: View) -> float:
    """What bubbles shrink by where there are many."""
    return min(1.0, math.sqrt(12 / len(view.clusters)))


def apart(places: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """``places`` float64 [k, 2] moved as little as it takes until circles of ``radii`` [k] overlap no more (or nearly:
    STEPS are made), inside the picture."""
    places = places.copy()
    need = radii[:, None] + radii[None, :] + 4
    turn = 2.4 * np.arange(len(places))  # two in the very same place part in a direction of their own
    for _ in range(STEPS):
        between = places[:, None] - places[None, :]
        distance = np.sqrt((between ** 2).sum(-1))
        lack = np.maximum(need - distance, 0)
        np.fill_diagonal(lack, 0)
        if not lack.any():
            break
        away = between / np.maximum(distance, 1e-9)[..., None]
        away[distance < 1e-9] = 0
        step = (away * lack[..., None]).sum(1) * 0.3
        stuck = (lack > 0).any(1) & (np.abs(step).sum(1) < 1e-9)
        step[stuck] = np.stack([np.cos(turn), np.sin(turn)], 1)[stuck]
        places = np.clip(places + step, radii[:, None], np.array([SIDE, TALL]) - radii[:, None])
    return places


def spot(x: float, y: float) -> tuple[float, float]:
    """A place of the map's table, in shares of the picture: a margin is left on every side."""
    return 0.04 + 0.92 * x, 0.05 + 0.9 * (1 - y)


def bubble_places(view: View) -> list[tuple[float, float]]:
    """Percent from the left and from the top of every cluster's bubble, in the order of ``view.clusters``."""
    at = np.array([spot(*cluster.place) for cluster in view.clusters]) * [SIDE, TALL]
    radii = np.array([SMALLEST + GROWTH * size(cluster, view) for cluster in view.clusters]) * scale(view)
    return [(round(100 * x / SIDE, 2), round(100 * y / TALL, 2)) for x, y in apart(at, radii).tolist()]


def label_sides(view: View, places: list[tuple[float, float]]) -> dict[int, str]:
    """cluster → the side of its bubble where its words lie on no other bubble or words; nothing where there is none."""
    boxes = []
    for cluster, (x, y) in zip(view.clusters, places, strict=True):
        radius = (SMALLEST + GROWTH * size(cluster, view)) * scale(view)
        x, y = SIDE * x / 100, TALL * y / 100
        boxes.append((x - radius, y - radius, x + radius, y + radius))
    taken, sides = list(boxes), {}
    order = sorted(range(len(boxes)), key=lambda i: -view.clusters[i].row["drawn"])
    for i in order[:LABELS]:
        left, top, right, bottom = boxes[i]
        middle, level, width = (left + right) / 2, (top + bottom) / 2, LETTER * len(label_of(view.clusters[i]))
        for side, box in (("below", (middle - width / 2, bottom + 2, middle + width / 2, bottom + 2 + LINE)),
                          ("over", (middle - width / 2, top - 2 - LINE, middle + width / 2, top - 2)),
                          ("right", (right + 4, level - LINE / 2, right + 4 + width, level + LINE / 2)),
                          ("left", (left - 4 - width, level - LINE / 2, left - 4, level + LINE / 2))):
            inside = box[0] >= 0 and box[1] >= 0 and box[2] <= SIDE and box[3] <= TALL
            if inside and not any(overlap(box, other) for other in taken):
                taken.append(box)
                sides[view.clusters[i].number] = side
                break
    return sides


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def label_of(cluster: Cluster) -> str:
    return ", ".join(cluster.row["words"][:2])


def extremes(view: View) -> tuple[float, float, float]:
    """(least M, largest M, largest change) of all clusters: the ends of the colours."""
    ms = [value for cluster in view.clusters for value in (cluster.row["m"], after_of(cluster)) if finite(value)]
    changes = [abs(cluster.change.mean) for cluster in view.clusters if cluster.change is not None]
    return (min(ms), max(ms), max(changes, default=0.0)) if ms else (0.0, 0.0, 0.0)


def after_of(cluster: Cluster) -> float:
    return cluster.change.after["mean"] if cluster.change is not None else math.nan


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def colours(cluster: Cluster, view: View) -> str:
    """The cluster's colours as CSS variables: by M before, by M after, by the change. Without a figure: --none."""
    low, high, most = extremes(view)

    def level(value: float | None) -> str:
        if not finite(value):
            return "var(--unknown)"
        share = (value - low) / (high - low) if high > low else 1.0  # type: ignore[operator]
        return f"color-mix(in oklab,var(--hot) {100 * share:.0f}%,var(--cool))"

    change = "var(--unknown)"
    if cluster.change is not None:
        share, turn = abs(cluster.change.mean) / most if most else 0.0, "fell" if cluster.change.mean < 0 else "rose"
        change = f"color-mix(in oklab,var(--{turn}) {100 * share:.0f}%,var(--flat))"
    return f"--before:{level(cluster.row['m'])};--after:{level(after_of(cluster))};--change:{change}"


def dots(view: View) -> str:
    """The texts of the map: one path per cluster, and one for those of them that were drawn."""
    drawn = {row["row"] for cluster in view.clusters for row in cluster.drawn}
    parts = []
    for cluster in view.clusters:
        own = [(row in drawn, spot(x, y)) for row, label, x, y in view.points if label == cluster.number]
        plain, chosen = ("".join(f"M{1000 * x:.0f} {1000 * y:.0f}h0" for taken, (x, y) in own if taken == kind)
                         for kind in (False, True))
        group = "".join(f'<path class="{name}" d="{path}"/>' for name, path in
                        (("text", plain), ("rim", chosen), ("drawn", chosen)) if path)
        parts.append(f'<g data-cluster="{cluster.number}" style="{colours(cluster, view)}">{group}</g>')
    label = (f"Map of {len(view.points):,} of {view.texts:,} texts: each is a dot in the colour of its cluster; "
             f"{sum(row in drawn for row, *_ in view.points):,} of them were drawn. The table below has every number.")
    return ('<svg class="dots" viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" '
            f'aria-label="{text(label)}">{"".join(parts)}</svg>')


def interval(cluster: Cluster) -> str:
    """M before with its 95 % interval."""
    row = cluster.row
    if not finite(row["m"]):
        return "not measured"
    spread = f" ({number(row['m_low'], 2)} to {number(row['m_high'], 2)})" if finite(row["m_low"]) else ""
    return number(row["m"]) + spread


def card(cluster: Cluster, view: View, x: float, y: float) -> str:
    """What hovering and focusing show. It opens towards the middle of the map."""
    row = cluster.row
    rows = [("M before, 95 %", interval(cluster))]
    if view.stage:
        rows += [("M after", number(after_of(cluster)) if cluster.change else "not measured")]
    rows += [("CER", percent(row["cer"])), ("P<sub>web</sub>", percent(row["p_web"])),
             ("P<sub>target</sub>", percent(row["p_target"])), ("drawn", f"{row['drawn']:,} of {row['size']:,}")]
    if row["set_aside"]:
        rows.append(("set aside", text(row["set_aside"])))
    side = "left" if x < 33 else "right" if x > 67 else "middle"
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    return (f'<div class="card {side} {"below" if y < 50 else "above"}" style="--x:{x}%;--y:{y}%" aria-hidden="true">'
            f'<p><b>{cluster.number}</b> {text(", ".join(row["words"][:6]))}</p><dl>{facts}</dl></div>')


def atlas(view: View) -> str:
    """The whole map, with its legend. Clusters come in the order of their M, the highest first."""
    placed = bubble_places(view)
    places = dict(zip([cluster.number for cluster in view.clusters], placed, strict=True))
    sides = label_sides(view, placed)
    items = []
    for cluster in sorted(view.clusters, key=lambda one: -one.row["m"] if finite(one.row["m"]) else math.inf):
        (x, y), n = places[cluster.number], cluster.number
        kind = "bubble aside" if cluster.row["set_aside"] else "bubble"
        words = text(label_of(cluster))
        words = f'<span class="label {sides[n]}" aria-hidden="true">{words}</span>' if n in sides else ""
        after = f", after {number(after_of(cluster))}" if cluster.change else ""
        told = f"Cluster {n}: {cluster.name}. M {interval(cluster)}{after}. {cluster.row['drawn']:,} drawn"
        told += f". Set aside: {cluster.row['set_aside']}" if cluster.row["set_aside"] else ""
        items.append(
            f'<li style="--x:{x}%;--y:{y}%;--size:{size(cluster, view):.3f};{colours(cluster, view)}">'
            f'<a class="{kind}" id="bubble-{n}" data-cluster="{n}" href="#cluster-{n}-body" aria-label="{text(told)}">'
            f'<span class="n" aria-hidden="true">{n}</span></a>{words}{card(cluster, view, x, y)}</li>')
    many = " many" if len(view.clusters) > LABELS else ""
    return (f'{switch(view)}<div class="map{many}" style="--scale:{scale(view):.3f}">{dots(view)}'
            f'<ol class="bubbles">{"".join(items)}</ol></div>{legend(view)}')


def switch(view: View) -> str:
    """Which figure colours the map: needed once there is more than one."""
    if view.stage is None:
        return ""
    kinds = (("before", "M before"), ("after", "M after"), ("change", "change of M"))
    buttons = "".join(f'<label><input type="radio" name="colour" id="by-{kind}"'
                      f'{" checked" if kind == "before" else ""}> {name}</label>' for kind, name in kinds)
    return f'<fieldset class="switch"><legend>Colour of the map</legend>{buttons}</fieldset>'


def legend(view: View) -> str:
    low, high, most = extremes(view)
    key = (f'<span class="key level"><span>{number(low, 2)}</span><i></i><span>{number(high, 2)}</span> '
           "M, nats per text token</span>")
    if view.stage:
        key += (f'<span class="key shift"><span>{number(-most, 2)}</span><i></i><span>+{number(most, 2)}</span> '
                "change of M</span>")
    aside = '<span class="key"><b class="sample aside"></b> set aside</span>' if view.aside else ""
    key += '<span class="key"><b class="sample"></b> a cluster; the larger, the more was drawn</span>'
    return (f'<p class="legend">{key}<span class="key"><b class="sample chosen"></b> a text drawn</span>'
            f'<span class="key"><b class="sample dot"></b> another text</span>{aside}</p>')
