"""``salad-ds report``: one self-contained page, and the same as JSON, about what a run made and what its numbers say.

Reads only what the run left below its work directory (artefacts.py). A piece that is missing is named, never shown as
a number; every number stands beside its count.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from salad_ds.config import Recipe
from salad_ds.evaluate.shown import counted
from salad_ds.files import read_json, write_json, write_text
from salad_ds.measure import sections, sections_speech, sections_understanding
from salad_ds.measure.artefacts import Run, machine, read_run
from salad_ds.measure.page import facts, page, text
from salad_ds.measure.verdict import Verdict, judge
from salad_ds.progress import clock
from salad_ds.train.tracking import open_command

SCHEMA = 1
PARTS = (("speech", "Does it use speech?", sections_speech.speech),
         ("understanding", "Written and spoken", sections_understanding.understanding),
         ("training", "Training", sections.training), ("selection", "Stage II", sections.selection),
         ("data", "Data", sections.data), ("limits", "What the numbers do not show", sections.limits),
         ("further", "Look further", sections.further))


def report(recipe: Recipe) -> Path:
    """Write ``report/index.html`` and ``report/summary.json`` below the work directory; returns the page's path.

    Never raises for a missing or damaged artefact: it is named in the page.
    """
    run, host = read_run(recipe), machine()
    verdict, made = judge(run, on_cpu=not host["gpu"]), datetime.now(UTC).replace(microsecond=0)
    parts = [(anchor, title, body) for anchor, title, make in PARTS if (body := make(run))]
    foot = (f"Written by salad_ds on {made:%d %B %Y, %H:%M} UTC from {len(run.made_from)} files below "
            f"<code>{text(recipe.path('.').absolute())}</code>.")
    out = recipe.path("report")
    head = header(run, verdict, host, made)
    write_text(out / "index.html", page(f"{recipe.name}: SALAD run report", head, parts, foot))
    write_json(out / "summary.json", summary(run, verdict, host, made))
    return out / "index.html"


def header(run: Run, verdict: Verdict, host: dict[str, Any], made: datetime) -> str:
    recipe = run.recipe
    rows = [("Recipe", text(recipe.name)), ("Date", f"{made:%Y-%m-%d}"), ("LLM", text(recipe.model.llm)),
            ("Encoder", text(recipe.model.encoder.name)),
            ("Written on", text(f"{host['cpu']}, {host['cores']} cores")), ("torch", text(host["torch"]))]
    if run.durations:
        rows.append(("Time of all stages", clock(sum(row["seconds"] for row in run.durations))))
    first, *others = verdict.sentences
    words = f'<p class="lead">{text(first)}</p>' + "".join(f"<p>{text(sentence)}</p>" for sentence in others)
    return (f'<p class="kicker">SALAD run report · {text(recipe.name)}</p><h1>{text(verdict.headline)}</h1>{words}'
            f"{sections.tiles(run)}{sections.absent(run)}{facts(rows)}")


def summary(run: Run, verdict: Verdict, host: dict[str, Any], made: datetime) -> dict[str, Any]:
    """The page's numbers as JSON: nothing that is not on it, null where a value is not a number."""
    drop = ("utterances", "rows", "made_from", "definition")
    kept = {"measure": run.measure, "words": run.words, **{f"set {name}": one for name, one in run.sets.items()},
            "evaluate": run.evaluate}
    results = {part: {name: {key: value for key, value in result.items() if key not in drop}
                      for name, result in found.items()} for part, found in kept.items()}
    training = {name: {"steps": log.steps, "planned": log.planned, "finished": log.finished, "first": log.rows[0],
                       "last": log.rows[-1], "probes": log.probes} for name, log in run.logs.items()}
    body = {"schema": SCHEMA, "recipe": run.recipe.name, "workdir": str(run.recipe.path(".").absolute()),
            "written": made.isoformat(), "machine": host, "verdict": verdict.as_json(), **results, "training": training,
            "selection": [{key: value for key, value in row.items() if key != "nearest"} for row in run.clusters],
            "data": [asdict(corpus) for corpus in run.corpora], "teacher": run.teacher, "durations": run.durations,
            "missing": [{"file": name, "told": told} for name, told in run.missing], "problems": run.problems,
            "made_from": run.made_from}
    return finite(body)


def finite(value: Any) -> Any:
    """``value`` with every NaN and infinity replaced by None: strict JSON has neither."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def terminal_summary(recipe: Recipe) -> str:
    """One screen: what was made, what it says, where it lies, and how to open it.

    Raises DataError when the report has not been written.
    """
    body = read_json(recipe.path("report/summary.json"))
    lines = ["", f"  {recipe.name}: {body['verdict']['headline']}", ""]
    for name in ["init", *recipe.stages]:
        cells = []
        if (measured := body["measure"].get(name)) is not None:
            cells.append(f"M {measured['misalignment']['mean']:.3f}, F {measured['forgetting']['mean']:.3f}, "
                         f"L_DIST {measured['distillation']['mean']:.3f} (n = {measured['items']})")
        if (tested := body["evaluate"].get(name)) is not None:
            cells.append(f"written {tested['text']['accuracy']:.0%}, spoken {tested['speech']['accuracy']:.0%} "
                         f"(n = {counted(tested)})")
        lines.append(f"  {name:<8} {'; '.join(cells) or 'not measured'}")
    length = sections.spoken_length(sum(row["seconds"] for row in body["data"] if row["kind"] == "speech"))
    steps = sum(stage["steps"] for stage in body["training"].values())
    spent = sum(row["seconds"] for row in body["durations"])
    lines += ["", f"  {length} of speech shards, {steps:,} training steps" + (f", {clock(spent)}" if spent else "")]
    models = [name for name in ["init", *recipe.stages] if recipe.path(name).joinpath("model").is_dir()]
    rows = [("report", recipe.path("report/index.html").absolute().as_uri())]
    if models:
        rows.append(("student", str(recipe.path(models[-1]).absolute() / "model")))
    if recipe.tracking.enabled:
        rows.append(("curves", open_command(recipe)))
    lines += [f"  {name:<8} {value}" for name, value in rows]
    if body["missing"] or body["problems"]:
        lines.append(f"  partial  {len(body['missing'])} piece(s) not run, {len(body['problems'])} with a problem: "
                     "see the report")
    return "\n".join([*lines, ""])
