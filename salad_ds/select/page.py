"""``<select.out>/selection.html``: what Stage II selected, to look at and to listen to, in one file.

The clusters as a map, M before and after, what was drawn from each, and players. It opens from a disk without network,
reads without a script, and is a pure function of the tables and shards that it shows: the same inputs, the same bytes.
"""

from __future__ import annotations

from collections import Counter
from importlib import resources
from pathlib import Path

from salad_ds import __version__
from salad_ds.config import Recipe
from salad_ds.files import write_text
from salad_ds.measure.page import facts, figure, mean_se, number, page, percent, table, text, tile
from salad_ds.select import pictures
from salad_ds.select.atlas import after_of, atlas, finite
from salad_ds.select.clips import SECONDS
from salad_ds.select.panels import panels
from salad_ds.select.players import Players, choose
from salad_ds.select.stages import stages_on_selection
from salad_ds.select.view import Cluster, Speech, View, read_view

WEB, TARGET = "P<sub>web</sub>", "P<sub>target</sub>"
NOT_YET = '<span class="none">not yet</span>'


def selection_page(recipe: Recipe) -> Path:
    """Write the page; returns its path. Raises DataError where the selection itself has not been made.

    What may be missing (the speech of the drawn texts, a measurement after Stage II) is said, never shown as a number.
    """
    view = read_view(recipe)
    players = choose(view)
    sections = [("map", "The map", the_map(view)), ("change", "Before and after Stage II", before_and_after(view)),
                ("draw", "What was drawn", the_draw(view)), ("table", "Every cluster", clusters_table(view)),
                ("clusters", "Cluster by cluster", listen(view, players)), ("aside", "Set aside", set_aside(view)),
                ("limits", "What this does not show", limits(view))]
    files = resources.files("salad_ds.select")
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    path = recipe.path(recipe.select.out) / "selection.html"
    foot = f"Written by salad_ds {text(__version__)} from the tables beside it in <code>selection/</code>."
    write_text(path, page(f"{recipe.name}: what Stage II selected", header(view), sections, foot, style, script))
    return path


def law(view: View) -> str:
    if view.settings["policy"] == "active":
        return f"{TARGET} ∝ {WEB} · M<sup>{view.settings['gamma']:g}</sup>"
    return f"{TARGET} = {WEB} (uniform)"


def budget(view: View) -> str:
    """The budget in words: what it was given as."""
    given = view.settings["budget"]
    if given.get("items"):
        return f"{given['items']:,} texts"
    return f"{hours(float(given['seconds']))} of speech" if given.get("seconds") else text(given)


def hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def engine(speech: Speech | None, view: View) -> str:
    """Engine, version and voices, as the shards have them; before there are any, as the recipe asks."""
    if speech is None:
        return text(view.recipe.synth.engine)
    made = speech.synth
    voices = ", ".join(map(str, made.get("voices", [])))
    return text(f"{made.get('engine', view.recipe.synth.engine)} {made.get('version', '')}".strip()
                + (f", voice {voices}" if voices else ""))


def header(view: View) -> str:
    recipe, settings = view.recipe, view.settings
    spoken = f", {hours(view.speech.shards.seconds)} of speech" if view.speech else ", not spoken yet"
    asr = recipe.synth.asr or "no recogniser"
    sources = sum(cluster.row["drawn"] > 0 for cluster in view.clusters)
    probed = (f"{view.texts:,} texts of {recipe.select.text} were embedded by {recipe.select.embedder} and split into "
              f"{len(view.clusters)} clusters of about one size. {view.probed:,} of them were spoken, heard by {asr} "
              f"and put to {recipe.select.checkpoint}: M says how far the student, hearing a text, is from the "
              "teacher, reading it.")
    lead = (f"Then {view.drawn:,} texts{spoken}, were drawn from {sources} of the clusters by {law(view)}, up to a "
            f"budget of {budget(view)}.")
    if view.speech and view.speech.rejected:
        lead += f" Not spoken: {reasons(view.speech)}."
    rows = [("Corpus", text(recipe.select.text)), ("Texts", f"{view.texts:,}"), ("K", str(len(view.clusters))),
            ("γ", f"{settings['gamma']:g}"), ("Policy", text(settings["policy"])),
            ("M shrunk", "yes" if settings.get("shrink") else "no"), ("Budget", budget(view)),
            ("CER allowed", percent(settings["max_cer"])), ("Seed", text(settings["seed"])),
            ("Student", text(recipe.select.checkpoint)), ("Embedder", text(recipe.select.embedder)),
            ("Engine", engine(view.speech or view.probe_speech, view)), ("ASR", text(asr))]
    return (f'<p class="kicker">Stage II selection · {text(recipe.name)}</p><h1>{headline(view)}</h1>'
            f'<p class="lead">{text(probed)}</p><p>{lead}</p>{tiles(view)}{facts(rows)}')


def headline(view: View) -> str:
    if view.change is None:
        return f"{view.drawn:,} texts drawn where {text(view.recipe.select.checkpoint)} hears worst" \
            if view.settings["policy"] == "active" and view.settings["gamma"] > 0 else f"{view.drawn:,} texts drawn"
    change = view.change
    if not (finite(change.low) and (change.high < 0 or change.low > 0)):
        return "After Stage II the probes' misalignment is what it was, within chance"
    turned = "lowered" if change.mean < 0 else "raised"
    return f"Stage II {turned} the probes' misalignment by {number(abs(change.mean))} nats"


def reasons(speech: Speech) -> str:
    """How many texts were not spoken, by reason."""
    return "; ".join(f"{count:,} ({text(reason)})" for reason, count in Counter(speech.rejected.values()).items())


def tiles(view: View) -> str:
    before = f"{view.probed:,} probes"
    length = hours(view.speech.shards.seconds) if view.speech else "not spoken yet"
    cells = [tile("Texts drawn", f"{view.drawn:,}", length)]
    if view.change is not None:
        change = view.change
        cells.append(tile("M before, nats per text token", mean_se(change.before), f"{change.n:,} probes"))
        cells.append(tile("M after, nats per text token", mean_se(change.after), text(view.stage)))
        cells.append(tile("Change, paired", mean_se({"mean": change.mean, "se": change.error}),
                          f"95 %: {number(change.low, 2)} to {number(change.high, 2)}"))
    else:
        cells.append(tile("M after Stage II", NOT_YET, before))
    cells.append(tile("Clusters set aside", f"{len(view.aside)}", f"of {len(view.clusters)}"))
    return f'<ul class="tiles">{"".join(cells)}</ul>\n'


def the_map(view: View) -> str:
    words = ("<p>What is near on the map is near in meaning; long distances and areas mean nothing. Every circle is a "
             "cluster and leads to its panel below: Tab or the arrow keys walk through them, Enter opens one.</p>"
             '<p class="past"><a href="#change">Go past the map</a></p>')
    return words + f'<div class="wide-figure">{atlas(view)}</div>'


def before_and_after(view: View) -> str:
    stages = stages_on_selection(view.recipe)
    if view.stage is None:
        wait = " and ".join(text(stage) for stage in stages) or "a stage that trains on it"
        told = (f"<p>The probes have not been measured after Stage II yet: {wait} has to be trained on this selection. "
                "Below is M before it.</p>")
    else:
        change = view.change
        told = "<p>None of the probes could be measured both times.</p>" if change is None else (
            f"<p>The same {change.n:,} utterances of all clusters that were not set aside, before and after "
            f"{text(view.stage)}: M went from {mean_se(change.before)} to {mean_se(change.after)} nats per text token. "
            f"The paired change is {mean_se({'mean': change.mean, 'se': change.error})}. It is the work of all that "
            "the stage trained on, the selected speech and the rest.</p>")
    shown = pictures.highest(view)
    if not shown:
        return told + "<p>No cluster has an M.</p>"
    which = f"the {len(shown)} of {len(view.clusters)} clusters" if len(shown) < len(view.clusters) else "clusters"
    return told + figure(pictures.misalignment(view), f"{which.capitalize()}, by M: their probes ± two "
                         "standard errors over utterances. Few probes make wide bars.")


def the_draw(view: View) -> str:
    shrunk = (" M is moved towards the mean of all clusters first, the farther the less its probes tell."
              if view.settings.get("shrink") else "")
    words = (f"<p>{law(view)}, uniform inside a cluster, without replacement. A cluster's share grows with its M; "
             f"one that is set aside has none.{shrunk}</p>")
    some = f" The {pictures.SHOWN} clusters with the largest {TARGET}." if len(view.clusters) > pictures.SHOWN else ""
    told = f"Share of the corpus, {WEB}, and of the draw, {TARGET}, with the number of texts drawn.{some}"
    return words + figure(pictures.shares(view), told)


def value(shown: str, worth: float | None) -> str:
    """A cell that can be sorted by."""
    return f'<data value="{worth if finite(worth) else ""}">{shown}</data>'


def clusters_table(view: View) -> str:
    head = ["cluster", "words", "texts", "M before, 95 %", "probes", "CER", WEB, TARGET, "drawn"]
    classes = ["", "words"] + [""] * 7
    if view.stage:
        head[4:4], classes[4:4] = ["M after", "change"], ["", ""]
    order = sorted(view.clusters, key=lambda cluster: (-cluster.row["p_target"], -cluster.row["p_web"], cluster.number))
    body = [cells(cluster, view) for cluster in order]
    return ('<p>The columns can be sorted. A number leads to the cluster\'s panel.</p><div class="sortable">'
            + table("Clusters, the most drawn first", head, body, classes) + "</div>")


def cells(cluster: Cluster, view: View) -> list[str]:
    row = cluster.row
    aside = f' <span class="none">set aside: {text(row["set_aside"])}</span>' if row["set_aside"] else ""
    spread = f"{number(row['m_low'], 2)} to {number(row['m_high'], 2)}" if finite(row["m_low"]) else "–"
    made = [f'<a href="#cluster-{cluster.number}-body">{value(str(cluster.number), cluster.number)}</a>',
            text(", ".join(row["words"][:6])) + aside, value(f"{row['size']:,}", row["size"]),
            value(f'{number(row["m"])}<br><span class="se">{spread}</span>', row["m"]),
            value(f"{row['probes']:,}", row["probes"]), value(percent(row["cer"]), row["cer"]),
            value(percent(row["p_web"]), row["p_web"]), value(percent(row["p_target"]), row["p_target"]),
            value(f"{row['drawn']:,}", row["drawn"])]
    if view.stage:
        change = cluster.change
        error = {"mean": change.mean, "se": change.error} if change else None
        made[4:4] = [value(number(after_of(cluster)), after_of(cluster)),
                     value(mean_se(error) if error else "–", change.mean if change else None)]
    return made


def listen(view: View, players: Players) -> str:
    if view.speech is None and view.probe_speech is None:
        told = "<p>Nothing has been spoken yet.</p>"
    else:
        less = (f" The page has room for {len(players.clips):,} of {players.wanted:,}; the others are in the shards."
                if len(players.clips) + len(players.faults) < players.wanted else "")
        told = ("<p>Each panel has what names the cluster, its figures, texts drawn from it and its probes, with "
                f"players for a few: {len(players.clips):,} clips of at most {SECONDS:.0f} s at low quality.{less}</p>")
        if view.speech is None:
            told += "<p>The drawn texts have not been spoken yet.</p>"
    if players.faults:
        told += '<ul class="plain">' + "".join(f"<li>{text(fault)}</li>" for fault in players.faults[:10]) + "</ul>"
    return told + panels(view, players)


def set_aside(view: View) -> str:
    if not view.aside:
        return f"<p>No cluster. The highest character error rate allowed is {percent(view.settings['max_cer'])}.</p>"
    why = ("<p>A high M of such a cluster may be the engine's fault, not the student's: nothing is drawn from it. "
           f"Clusters are set aside above a character error rate of {percent(view.settings['max_cer'])}, or when their "
           "probes cannot be spoken or measured.</p>")
    listed = "".join(f'<li><a href="#cluster-{cluster.number}-body">Cluster {cluster.number}</a>: {text(cluster.name)} '
                     f"({text(cluster.row['set_aside'])}; CER {percent(cluster.row['cer'])}, "
                     f"{cluster.row['size']:,} texts)</li>" for cluster in view.aside)
    return f'{why}<ul class="plain">{listed}</ul>'


def limits(view: View) -> str:
    few = view.probed / max(len(view.clusters), 1)
    notes = [f"M rests on about {few:.0f} utterances per cluster: compare intervals, not their order.",
             "The probes are synthetic speech. What the student mishears in natural speech may lie elsewhere.",
             "A cluster's words are those that are commoner in it than elsewhere. They are hints, no definition.",
             "The clips on this page are compressed; training hears the originals in the shards."]
    return '<ul class="plain">' + "".join(f"<li>{note}</li>" for note in notes) + "</ul>"
