"""The report's section about multiple choice: the same items in writing and in speech, put to all models.

Every accuracy stands beside its count; one of a run that did not end says of how many items it is.
"""

from __future__ import annotations

from typing import Any

from salad_ds.evaluate.shown import counted
from salad_ds.measure import pictures
from salad_ds.measure.artefacts import Run
from salad_ds.measure.page import NOT_RUN, figure, interval, number, percent, table, text

DOMAINS = 12
"""Domains in the open table; of more, the table is folded."""


def understanding(run: Run) -> str:
    if not run.recipe.evaluate.tasks:
        return f"<p>{NOT_RUN}</p>"
    if not run.evaluate:
        return f"<p>{NOT_RUN}</p>"
    tasks = [task.name for task in run.recipe.evaluate.tasks]
    parts = ["<p>The same multiple-choice items are put in writing and in speech; an option is chosen by its "
             "log-probability per token. The gap is what a model loses by listening; the gap to the base LLM, what it "
             "loses against the text LLM, which reads.</p>",
             figure(pictures.accuracies(run), "The line is the 95 % bootstrap interval over items.")]  # fmt: skip
    if len(tasks) > 1:
        means = {name: run.evaluate[name] for name in run.models if name in run.evaluate}
        parts.append(accuracies("Means over the tasks, 95 % intervals", run, means))
    for task in tasks:
        found = {name: one["tasks"][task] for name, one in run.evaluate.items() if task in one["tasks"]}
        if not found:
            parts.append(f"<h3>{text(task)}</h3><p>{NOT_RUN}</p>")
            continue
        parts += [f"<h3>{text(task)}</h3>", prompt(next(iter(found.values()))),
                  accuracies(f"{task}: accuracy with 95 % intervals", run, found), *left_out(found),
                  domains(run, task, found)]  # fmt: skip
    return "".join(parts)


def accuracies(title: str, run: Run, found: dict[str, dict[str, Any]]) -> str:
    """One row per model of the recipe. The p of a gap is McNemar's."""
    body = []
    for name in run.models:
        one = found.get(name)
        if one is None:
            body.append([text(name), *[NOT_RUN] * 5])
        elif not one["items"]:
            body.append([text(name), *["–"] * 4, count(one)])
        else:
            body.append([text(name), *(accuracy(one, part) for part in ("text", "speech")),
                         *(gap(one, part) for part in ("gap", "base_gap")), count(one)])  # fmt: skip
    head = ["model", "written", "spoken", "gap, points", "gap to the base LLM", "items"]
    return table(title, head, body)


def accuracy(one: dict[str, Any], part: str) -> str:
    if part not in one:
        return "–"
    return (f"{percent(one[part]['accuracy'])} {interval(*one[part]['ci'])}"
            f'<br><span class="se">{one[part]["correct"]:,} of {one["items"]:,}</span>')  # fmt: skip


def gap(one: dict[str, Any], part: str) -> str:
    if part not in one:
        return "–"
    found = one[part]
    return (f"{number(found['mean'] * 100, 1)} {interval(*found['ci'])}"
            f'<br><span class="se">{found["items"]:,} pairs, p = {found["p"]:.2g}</span>')  # fmt: skip


def count(one: dict[str, Any]) -> str:
    of = f" of {len(one['tasks'])} tasks" if len(one.get("tasks", ())) > 1 else ""
    shown = text(counted(one)) + of
    return shown if one["complete"] else f'<span class="none">{shown}</span>'


def prompt(one: dict[str, Any]) -> str:
    """The template as it is, how many worked examples stood before it, whose speech it was."""
    template, shots = one["template"], one["shots"]
    words = text(repr(template["text"])[1:-1])
    origin = f"version {template['version']}, {text(template['source'])}"
    parts = [f"Prompt <code>{text(template['name'])}</code> ({origin}): <code>{words}</code>."]
    if shots["most"] and "mean" in shots:
        parts.append(f"Up to {shots['most']} worked examples, as many as fit {one['context']:,} positions when heard "
                     f"({shots['mean']:.1f} on average, {shots['least']} at least).")  # fmt: skip
    else:
        parts.append("No worked examples.")
    if (spoken := one.get("spoken")) is not None:
        rate = f", character error rate {spoken['cer']:.3f}" if spoken["cer"] is not None else ""
        parts.append(f"Speech: {spoken['kind']}{rate} (<code>{text(spoken['directory'])}</code>).")
    return f"<p>{' '.join(parts)}</p>"


def left_out(found: dict[str, dict[str, Any]]) -> list[str]:
    """Items that could not be asked, by model and reason; how well the cascade heard."""
    notes = []
    for name, one in found.items():
        reasons = [f"{entry['count']:,} because {text(reason)}" for reason, entry in one.get("left_out", {}).items()]
        if reasons:
            notes.append(f"<li>{text(name)}: left out {'; '.join(reasons)}.</li>")
        if one.get("asr", {}).get("clips"):
            asr = one["asr"]
            notes.append(f"<li>{text(name)} hears with {text(asr['model'])}: word error rate {asr['wer']:.3f}, "
                         f"character error rate {asr['cer']:.3f} ({asr['clips']:,} clips).</li>")  # fmt: skip
    return [f'<ul class="plain">{"".join(notes)}</ul>'] if notes else []


def domains(run: Run, task: str, found: dict[str, dict[str, Any]]) -> str:
    """The newest checkpoint by domain, with counts; the smallest domains last."""
    names = [name for name in run.checkpoints if found.get(name, {}).get("domains")]
    if not names:
        return ""
    one = found[names[-1]]
    rows = sorted(one["domains"].items(), key=lambda item: (-item[1]["items"], item[0]))
    body = [[text(name or "–"), accuracy(part, "text"), accuracy(part, "speech"), gap(part, "gap"), str(part["items"])]
            for name, part in rows]  # fmt: skip
    made = table(f"{task}: {names[-1]} by domain", ["domain", "written", "spoken", "gap, points", "items"], body)
    if len(rows) <= DOMAINS:
        return made
    return f"<details><summary>By domain: {len(rows)} of {text(task)}</summary>{made}</details>"
