"""A panel per cluster: what names it, its figures, what was drawn from it, and its probes, to read and to hear."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Any

from salad_ds.measure.page import facts, number, percent, text
from salad_ds.select.atlas import after_of, colours, finite, interval
from salad_ds.select.players import Players, worth_hearing
from salad_ds.select.steps import SHOWN
from salad_ds.select.view import Cluster, View

TEXTS = 6
"""Drawn texts that a panel shows; probes likewise."""
LONGEST = 400
"""Characters of a text on the page; of a nearest text the table has SHOWN."""


def short(words: str, longest: int = LONGEST) -> str:
    """At most ``longest`` characters, cut between words."""
    return words if len(words) < longest else words[:longest].rsplit(" ", 1)[0] + " …"


def panels(view: View, players: Players) -> str:
    """All panels, the most drawn cluster first."""
    order = sorted(view.clusters, key=lambda cluster: (-cluster.row["drawn"], cluster.number))
    return "".join(panel(cluster, view, players) for cluster in order)


def panel(cluster: Cluster, view: View, players: Players) -> str:
    row, n = cluster.row, cluster.number
    m = number(row["m"]) if finite(row["m"]) else "–"
    m += f" → {number(after_of(cluster))}" if cluster.change else ""
    brief = f"M {m} · {row['drawn']:,} drawn" + (" · set aside" if row["set_aside"] else "")
    return (f'<details class="cluster" id="cluster-{n}" style="{colours(cluster, view)}"><summary>'
            f'<span class="swatch{" aside" if row["set_aside"] else ""}"></span>'
            f'<h3><span class="n">{n}</span> {text(cluster.name)}</h3><span class="brief">{brief}</span></summary>'
            f'<div class="inside" id="cluster-{n}-body">{figures(cluster, view)}{near(cluster)}'
            f"{drawn(cluster, view, players)}{probes(cluster, view, players)}"
            f'<p class="back"><a href="#bubble-{n}">Back to cluster {n} on the map</a></p></div></details>\n')


def figures(cluster: Cluster, view: View) -> str:
    row = cluster.row
    rows = [("Telling words", text(", ".join(row["words"])) or "none"), ("Texts", f"{row['size']:,}"),
            ("Probes measured", f"{row['probes']:,}"), ("M before, 95 % interval", interval(cluster))]
    if cluster.change is not None:
        change = cluster.change
        spread = f" ({number(change.low, 2)} to {number(change.high, 2)})" if finite(change.low) else ""
        rows += [("M after", number(change.after["mean"])),
                 (f"Change over {change.n} pairs", number(change.mean) + spread)]
    elif view.stage:
        rows.append(("M after", "not measured"))
    if view.settings.get("shrink"):
        rows.append(("M in the law", number(row["m_used"])))
    rows += [("Character error rate", percent(row["cer"])), ("P<sub>web</sub>", percent(row["p_web"])),
             ("P<sub>target</sub>", percent(row["p_target"])), ("Drawn", f"{row['drawn']:,}")]
    if row["set_aside"]:
        rows.append(("Set aside", text(row["set_aside"])))
    return facts(rows)


def near(cluster: Cluster) -> str:
    if not cluster.row["nearest"]:
        return ""
    listed = "".join(f"<li>{text(short(one, SHOWN))}</li>" for one in cluster.row["nearest"])
    return f'<h4>Nearest to its centre</h4><ul class="plain texts">{listed}</ul>'


def drawn(cluster: Cluster, view: View, players: Players) -> str:
    rows = cluster.drawn
    if not rows:
        why = f": it is set aside ({text(cluster.row['set_aside'])})" if cluster.row["set_aside"] else ""
        return f"<h4>Drawn</h4><p>Nothing was drawn from this cluster{why}.</p>"
    items = ""
    for row in rows[:TEXTS]:
        meta = spoken_meta(view, row["key"])
        told = [f"voice {text(meta['voice'])}"] if meta.get("voice") else []
        if finite(meta.get("cer")):
            told.append(f"CER {percent(meta['cer'])}")
        if view.speech and row["key"] in view.speech.rejected:
            told = [f"not spoken: {text(view.speech.rejected[row['key']])}"]
        quiet = f'<p class="quiet">{" · ".join(told)}</p>' if told else ""
        items += f'<li><p>{text(short(row["text"]))}</p>{players.player("drawn", row["key"], row["text"])}{quiet}</li>'
    unsaid = "" if view.speech is not None else '<p class="none">Not spoken yet.</p>'
    return (f'<h4>Drawn</h4>{unsaid}<p class="quiet">In the order of the draw{first_of(rows, "selected")}.</p>'
            f'<ul class="items">{items}</ul>')


def first_of(rows: list[Any], table: str) -> str:
    """That not all are on the page, and where all are."""
    if len(rows) <= TEXTS:
        return ""
    return f" (the first {TEXTS} of {len(rows):,}; all are in <code>{table}.parquet</code>)"


def spoken_meta(view: View, key: str) -> dict[str, Any]:
    """What the shards say about a spoken text; nothing where it was not spoken."""
    if view.speech is None or key not in view.speech.places:
        return {}
    return view.speech.shards.read(view.speech.places[key], audio=False).meta


def probes(cluster: Cluster, view: View, players: Players) -> str:
    if not cluster.probes:
        return "<h4>Probes</h4><p>None.</p>"
    rows = {row["key"]: row for row in cluster.probes}
    order = [*worth_hearing(cluster), *(key for key, row in rows.items() if row["seconds"] is None)]
    items = "".join(probe(rows[key], view, players) for key in order[:TEXTS])
    told = (f"The highest M first, then the one heard worst{first_of(order, 'probes')}. Words that the recogniser "
            "heard otherwise are marked.")
    return f'<h4>Probes</h4><p class="quiet">{told}</p><ul class="items">{items}</ul>'


def probe(row: dict[str, Any], view: View, players: Players) -> str:
    if not finite(row["cer"]):
        heard = ""
    elif row["cer"] == 0:
        heard = '<p class="heard">Heard the same.</p>'
    else:
        heard = f'<p class="heard">Heard: {difference(row["text"], row["heard"])}</p>'
    told = [f"CER {percent(row['cer'])}"] if finite(row["cer"]) else []
    if row["m"] is not None:
        after = f" → {number(row['after'])}" if row["after"] is not None else ""
        told.append(f"M {number(row['m'])}{after} over {row['tokens']} tokens")
    told += [f"voice {text(row['voice'])}"] if row["voice"] else []
    told += [text(row["rejected"])] if row["rejected"] else []
    return (f'<li><p>{text(short(row["text"]))}</p>{players.player("probe", row["key"], row["text"])}{heard}'
            f'<p class="quiet">{" · ".join(told)}</p></li>')


def difference(said: str, heard: str) -> str:
    """What was heard, as HTML: words that were not said are marked, words that were not heard are struck out."""
    one, other = said.split(), heard.split()
    left, right = (["".join(filter(str.isalnum, word)).casefold() for word in words] for words in (one, other))
    parts = []
    for kind, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(text(" ".join(other[c:d])))
            continue
        if b > a:
            parts.append(f"<del>{text(' '.join(one[a:b]))}</del>")
        if d > c:
            parts.append(f"<mark>{text(' '.join(other[c:d]))}</mark>")
    return " ".join(parts)
