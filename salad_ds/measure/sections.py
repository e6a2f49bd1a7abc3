"""The sections of the report, one function each. What a run did not leave is said to be missing."""

from __future__ import annotations

import base64
import math
import os
from typing import Any
from urllib.parse import quote

from salad_ds.audio import decode
from salad_ds.errors import SaladError
from salad_ds.evaluate.shown import counted
from salad_ds.measure import pictures, pictures_speech
from salad_ds.measure.artefacts import Run, StageLog, open_speech
from salad_ds.measure.page import NOT_RUN, figure, interval, mean_se, number, percent, size, table, text, tile
from salad_ds.progress import clock
from salad_ds.text import split_words
from salad_ds.train.tracking import open_command

CLIPS = 3
CLIP_BYTES = 1_000_000
"""Longest clip that goes into the page: with the figures it stays well below 8 MB."""
WEB, TARGET = "P<sub>web</sub>", "P<sub>target</sub>"
FEW = 4
"""Missing pieces that are listed openly; more are folded."""
SHOWN = 8
"""Clusters in the table, with those that are set aside; the page of the selection has all."""


def tiles(run: Run) -> str:
    """Four figures of the newest measured checkpoint."""
    cells = []
    measured = [name for name in run.checkpoints if name in run.measure]
    for key, title in (("misalignment", "Misalignment M, nats per text token"),
                       ("forgetting", "Forgetting F, nats per text token")):
        if not measured:
            cells.append(tile(title, NOT_RUN, ""))
            continue
        name = measured[-1]
        row = run.measure[name][key]
        cells.append(tile(title, mean_se(row), f"{text(name)}, {run.measure[name]['items']} utterances"))
    tested = [name for name in run.checkpoints if name in run.evaluate]
    for part, field, unit, title in (("speech", "accuracy", "%", "Spoken items answered correctly"),
                                     ("gap", "mean", "points", "Gap: written minus spoken")):
        if not tested:
            cells.append(tile(title, NOT_RUN, ""))
            continue
        result = run.evaluate[tested[-1]]
        low, high = result[part]["ci"]
        cells.append(tile(title, f"{number(result[part][field] * 100, 1)} <small>{unit}</small>",
                          f"{text(tested[-1])}, {counted(result)} items, 95 %: {interval(low, high)}"))
    return f'<ul class="tiles">{"".join(cells)}</ul>\n'


def absent(run: Run) -> str:
    """What was not run, and what cannot be used."""
    notes = [f"<li>Not run: {text(told)} (<code>{text(name)}</code>)</li>" for name, told in run.missing]
    notes += [f"<li>{text(problem)}</li>" for problem in run.problems]
    if not notes:
        return ""
    parts = [f"{len(run.missing)} not run"] if run.missing else []
    parts += [f"{len(run.problems)} with a problem"] if run.problems else []
    shown = " open" if len(notes) <= FEW else ""
    title = f"This report is partial: {', '.join(parts)}"
    listed = f"<summary>{title}</summary><ul>{''.join(notes)}</ul>"
    return f'<div class="note" role="note"><details{shown}>{listed}</details></div>\n'


def training(run: Run) -> str:
    if not run.logs:
        return f"<p>{NOT_RUN}</p>"
    body, drawn = [], ""
    for name in run.checkpoints[1:]:
        log = run.logs.get(name)
        if log is None:
            body.append([text(name), *[NOT_RUN] * 6])
            continue
        told = "; ".join([f"{name}, {log.steps:,} of {log.planned:,} steps", *log.skipped])
        drawn += figure(pictures.training(name, log), f"{text(told)}.")
        if log.probes:
            drawn += figure(pictures_speech.probes(name, log.probes), (
                f"{text(name)}: {log.probes[-1]['items']:.0f} utterances of held-out speech, mean ± one standard error "
                "over them."))
        window = log.rows[-max(3, len(log.rows) // 10):]
        seconds = total(log, "seconds")
        waits = [percent(total(log, key) / seconds if seconds > 0 else math.nan)
                 for key in ("data_wait", "teacher_wait")]
        body.append([text(name), f"{log.steps:,} of {log.planned:,}", number(log.rows[0].get("kl", math.nan)),
                     f"{number(mean(window, 'kl'))} <span class=\"se\">(last {len(window)})</span>",
                     f"{total(log, 'targets' if 'targets' in log.rows[0] else 'tokens'):,.0f}",
                     f"{seconds / len(log.rows):.2f}", ", ".join(waits)])
    head = ["stage", "steps", "KL, first step", "KL, last steps", "text tokens learnt from", "s / step",
            "waiting for data, for the teacher"]
    return drawn + table("Training stages", head, body)


def total(log: StageLog, key: str) -> float:
    return sum(row[key] for row in log.rows if math.isfinite(row.get(key, math.nan)))


def mean(rows: list[dict[str, float]], key: str) -> float:
    values = [row[key] for row in rows if math.isfinite(row.get(key, math.nan))]
    return sum(values) / len(values) if values else math.nan


def selection(run: Run) -> str:
    settings = run.recipe.select
    if not settings.text:
        return ""
    if not run.clusters:
        return f"<p>{NOT_RUN}</p>"
    rows = sorted(run.clusters, key=lambda row: (-row["p_target"], -row["p_web"], row["cluster"]))
    aside = sum(bool(row["set_aside"]) for row in rows)
    law = (f"{TARGET} ∝ {WEB} · M<sup>{settings.gamma:g}</sup>" if settings.policy == "active"
           else f"{TARGET} = {WEB} (uniform)")
    words = (f"<p>{sum(row['size'] for row in rows):,} texts were split into {len(rows)} clusters. The misalignment of "
             f"{text(settings.checkpoint)} on each was probed with {sum(row['probes'] for row in rows):,} synthesised "
             f"utterances in all; {sum(row['drawn'] for row in rows):,} texts were then drawn by {law}. "
             f"Clusters set aside: {aside}.</p>")
    body = [[text(row["cluster"]), f"{row['size']:,}", mean_se({"mean": row["m"], "se": row["m_error"]}),
             text(row["probes"]), percent(row["p_web"]), percent(row["p_target"]), f"{row['drawn']:,}",
             number(row["cer"]), telling(row)] for row in rows]
    head = ["cluster", "texts", "M ± se", "probes (n)", WEB, TARGET, "drawn", "CER", "telling words"]
    shown = [cells for n, (row, cells) in enumerate(zip(rows, body, strict=True)) if n < SHOWN or row["set_aside"]]
    tables = table("Clusters, the most drawn first", head, shown, [""] * 8 + ["words"])
    page = run.recipe.path(settings.out) / "selection.html"
    if page.is_file():
        link = quote(os.path.relpath(page, run.recipe.path("report")))
        tables += (f'<p><a href="{text(link)}">The page of the selection</a> has a map of all clusters, M before and '
                   "after Stage II, what was drawn from each, and players.</p>")
    picture = ""
    if any(row["m"] is not None and math.isfinite(row["m"]) for row in rows):
        picture = figure(pictures.clusters(rows), (
            "Each cluster's share of the corpus (dash) and of what is drawn (dot): selection moves the share towards "
            "what the student hears worst."))
    return words + picture + tables + clips(run)


def telling(row: dict[str, Any]) -> str:
    """A cluster's words, and why it was set aside if it was."""
    aside = f' <span class="none">set aside: {text(row["set_aside"])}</span>' if row["set_aside"] else ""
    return text(", ".join(row["words"][:6])) + aside


def clips(run: Run) -> str:
    """Up to three selected texts to listen to, from the clusters drawn most, with the words under their times."""
    shards = open_speech(run.recipe)
    if shards is None:
        return f"<h3>Selected texts, spoken</h3><p>{NOT_RUN}</p>"
    places = {entry.key: place for place, entry in enumerate(shards.entries())}
    by_cluster: dict[Any, str] = {}
    for row in run.selected:
        if row["key"] in places:
            by_cluster.setdefault(row["cluster"], row["key"])
    share = {row["cluster"]: row["p_target"] for row in run.clusters}
    keys = sorted(by_cluster.items(), key=lambda item: -share.get(item[0], 0.0))
    parts: list[str] = []
    for cluster, key in keys:
        if len(parts) == CLIPS:
            break
        try:
            if len(shards.read(places[key]).audio or b"") <= CLIP_BYTES:
                parts.append(clip(len(parts), shards, places[key], cluster))
        except SaladError as error:
            run.problems.append(f"clip {key}: {error.what}")
    return "<h3>Selected texts, spoken</h3>" + ("".join(parts) or f"<p>{NOT_RUN}</p>")


def clip(number_: int, shards: Any, place: int, cluster: Any) -> str:
    sample, times = shards.read(place), shards.words(place)
    wave, rate = decode(sample.audio)
    said = str(sample.meta["text"])
    kind = {"flac": "audio/flac", "wav": "audio/wav", "mp3": "audio/mpeg"}.get(sample.audio_format, "audio/ogg")
    data = base64.b64encode(sample.audio).decode()
    voice = f", voice {text(sample.meta['voice'])}" if sample.meta.get("voice") else ""
    words = [said[first:last] for first, last in split_words(said)]
    drawn = ""
    if times is not None and len(times) == len(words):
        spoken = [(word, time.start, time.end) for word, time in zip(words, times, strict=True)]
        drawn = f"<figure>{pictures.spoken_words(wave, rate, spoken, f'clip-{number_}')}</figure>"
    return (f'<div class="clip"><blockquote>{text(said)}</blockquote><audio controls preload="metadata" '
            f'aria-label="{text(said[:80])}" src="data:{kind};base64,{data}"></audio>{drawn}'
            f'<p class="quiet">Cluster {text(cluster)}{voice}, {len(wave) / rate:.1f} s, {len(words)} words.</p>'
            "</div>\n")


def data(run: Run) -> str:
    body = []
    for corpus in run.corpora:
        reasons = {**corpus.rejected, **corpus.left_out}
        refused = "; ".join(f"{text(reason)} {count:,}" for reason, count in reasons.items())
        length = spoken_length(corpus.seconds) if corpus.kind == "speech" else "–"
        aligned = f"{corpus.aligned:,}" if corpus.aligned is not None else "–"
        body.append([f"<code>{text(corpus.path)}</code>", corpus.kind, f"{corpus.samples:,}", length, aligned,
                     refused or "none"])
    head = ["shards", "kind", "samples", "length", "with word times", "rejected or left out, by reason"]
    parts = f"<p>{NOT_RUN}</p>"
    if body:
        parts = table("Shards below the work directory", head, body, [""] * 5 + ["words"])
    if (teacher := run.teacher) is not None:
        kept = (f"the {teacher['top_k']} likeliest tokens and {teacher['samples']} draws from the tail"
                if teacher["keep"] == "topk" else f"the tokens of at least 1/{teacher['resolution']} and draws")
        parts += (f"<p>Teacher store: {teacher['texts']:,} texts, {teacher['rows']:,} positions with {kept} each, "
                  f"{size(teacher['bytes'])} in {teacher['shards']} files.</p>")
    if run.durations:
        longest = max(row["seconds"] for row in run.durations) or 1.0
        bar = '<span class="bar" style="width:{:.1f}%"></span>'
        rows = [[text(row["stage"]), "done before", ""] if row["skipped"] else
                [text(row["stage"]), clock(row["seconds"]), bar.format(row["seconds"] / longest * 100)]
                for row in run.durations]
        parts += table("How long each stage took", ["stage", "time", ""], rows, ["", "", "bars"])
    return parts


def spoken_length(seconds: float) -> str:
    return f"{seconds / 3600:,.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def limits(run: Run) -> str:
    notes = ["± and intervals cover the draw of utterances or items. They do not cover another seed: every stage was "
             "trained once.",
             "M, F and L<sub>DIST</sub> say how far predictions differ. They do not say whether an answer is right.",
             "The spoken items and the Stage II texts are synthetic speech. Natural speech, noise, accents and other "
             "voices may do worse.",
             "Multiple choice is scored by likelihood. Free generation, tone of voice, speakers and other languages "
             "are not tested.",
             "Steps, data and models far below the paper's say how the method runs, not how well it can do: "
             "compare directions here, levels only at the paper's scale."]
    if run.measure:
        count = min(result["items"] for result in run.measure.values())
        notes.insert(1, f"The divergences rest on {count} utterances, and controls on the same ones.")
    return '<ul class="plain">' + "".join(f"<li>{note}</li>" for note in notes) + "</ul>"


def further(run: Run) -> str:
    recipe = run.recipe
    if not recipe.tracking.enabled:
        tracking = "<p>Tracking was switched off in the recipe (<code>tracking.enabled</code>).</p>"
    elif recipe.tracking.uri and not recipe.tracking.uri.startswith("sqlite:"):
        tracking = f"<p>The runs are at the MLflow server {text(open_command(recipe))}.</p>"
    elif not recipe.tracking.uri and not recipe.path("mlflow.db").is_file():
        tracking = "<p>No stage was tracked: there is no <code>mlflow.db</code>.</p>"
    else:
        tracking = ("<p>Every stage's settings and curves are in MLflow. This opens them at "
                    "<code>http://127.0.0.1:5000</code>:</p>"
                    f'<pre tabindex="0">{text(open_command(recipe))}</pre>')
    models = [name for name in run.checkpoints if recipe.path(name).joinpath("model").is_dir()]
    files = "".join(f"<li>{text(name)}: <code>{text(recipe.path(name).absolute() / 'model')}</code></li>"
                    for name in models)
    if files:
        files = f'<p>Students, as <code>from_pretrained</code> reads them:</p><ul class="plain">{files}</ul>'
    return tracking + files + "<p>The numbers of this page are also in <code>summary.json</code> beside it.</p>"
