"""The report's section on hearing: M and F with their controls, further corpora by group, words behind a span."""

from __future__ import annotations

import math
from typing import Any

from salad_ds.measure import pictures, pictures_speech
from salad_ds.measure.artefacts import Run
from salad_ds.measure.page import NOT_RUN, figure, mean_se, number, table, text

ROWS = {"misalignment": "M, right speech", "misalignment_wrong_speech": "M, another utterance's speech",
        "misalignment_silence": "M, silence", "speech_gain_over_wrong": "other speech − right speech",
        "speech_gain_over_silence": "silence − right speech", "forgetting": "F, forgetting of text",
        "distillation": "L<sub>DIST</sub>, what training minimises",
        "overconfidence_hearing": "overconfidence, hearing: NLL − entropy",
        "overconfidence_reading": "overconfidence, reading"}
GROUPS = 12
"""Groups of a set in the open table, those with the most utterances."""


def speech(run: Run) -> str:
    words = ("<p>Each held-out utterance is read by the student, and heard with some of its spans spoken. "
             "<em>M</em> is how far the two disagree about the next text token. A student that uses speech has a "
             "clearly lower M with the right speech than with another utterance's, or with silence.</p>")
    if not run.measure:
        return words + f"<p>{NOT_RUN}</p>" + predicted(run) + further_sets(run)
    head = ["nats per text token", *run.checkpoints]
    results = [run.measure.get(name) for name in run.checkpoints]
    body = [[label, *(NOT_RUN if result is None else mean_se(result.get(key)) for result in results)]
            for key, label in ROWS.items() if any(key in result for result in run.measure.values())]
    for key, label in (("items", "utterances (n)"), ("tokens", "text tokens predicted")):
        body.append([label, *(NOT_RUN if result is None else f"{result[key]:,}" for result in results)])
    picture = figure(pictures.divergences(run), (
        "Mean ± one standard error over utterances (the first axis does not start at zero); in the middle, differences "
        "paired over utterances ± two standard errors: bars clear of the zero line mean that the student uses speech."))
    title = "Divergences before and after each stage: mean ± one standard error over utterances"
    return words + picture + table(title, head, body) + predicted(run) + further_sets(run)


def predicted(run: Run) -> str:
    """Which words a student expects behind a span of natural speech."""
    measured = [name for name in run.checkpoints if name in run.words]
    if not measured:
        return ""
    newest = run.words[measured[-1]]
    words = (f"<h3>The words behind a span</h3><p>At the first {newest['distance']} words that follow each spoken span "
             "of a recording: is each token of the word the likeliest one for the student, and how far is what it "
             "expects when it hears the span from what it expects when it reads it?</p>")
    head = ["", *(text(name) for name in measured)]

    def row(label: str, *path: str, share: bool = True) -> list[str]:
        return [label, *(points(at(run.words[name], path)) if share else mean_se(at(run.words[name], path))
                         for name in measured)]

    body = [row(f"words right, {label}, %", "word", key) for key, (_, _, _, label) in
            pictures_speech.CONDITIONS.items()]
    body += [row("hearing − other speech, points", "word_gain", "right_over_wrong"),
             row("hearing − silence, points", "word_gain", "right_over_silence"),
             row("reading − hearing, points", "word_gain", "reading_over_right"),
             row("tokens right, hearing, %", "token", "right"),
             row("KL reading ‖ hearing, nats per token", "kl", "right", share=False),
             row("other speech − hearing, nats", "kl_gain", "right_over_wrong", share=False)]
    for label, value in (("utterances (n)", lambda one: one["items"]), ("spans", lambda one: one["spans"]),
                         ("words", lambda one: one["overall"]["words"])):
        body.append([label, *(f"{value(run.words[name]):,}" for name in measured)])
    picture = figure(pictures_speech.words(newest, measured[-1]), (
        f"{text(measured[-1])}: by the word's distance from the span, mean ± one standard error over "
        f"{newest['items']} utterances."))
    title = "Prediction of the words behind a spoken span: mean ± one standard error over utterances"
    return words + picture + table(title, head, body)


def at(result: dict[str, Any], path: tuple[str, ...]) -> dict[str, float]:
    value: Any = result["overall"]
    for key in path:
        value = value[key]
    return value


def points(row: dict[str, float]) -> str:
    """A share in points: ``41.7 ± 2.1``."""
    return f'{number(100 * row["mean"], 1)} <span class="se">± {number(100 * row["se"], 1)}</span>'


def further_sets(run: Run) -> str:
    """The further corpora, by group, at the newest checkpoint that was measured on each."""
    parts = []
    for name, results in run.sets.items():
        measured = [checkpoint for checkpoint in run.checkpoints if checkpoint in results]
        if measured:
            parts.append(group_table(name, measured[-1], results[measured[-1]]))
    return "<h3>Other corpora</h3>" + "".join(parts) if parts else ""


def group_table(name: str, checkpoint: str, result: dict[str, Any]) -> str:
    reading = result.get("reading")
    groups = sorted(result["groups"].items(), key=lambda pair: -pair[1]["items"])
    head = [result["by"] or "corpus", "utterances (n)", "M ± se", "other speech − right", "F ± se"]
    head += ["F of whole texts", "texts (n)"] if reading else []
    spoken = "cer" in result["overall"]
    head += ["CER"] if spoken else []

    def row(label: str, part: dict[str, Any], read: dict[str, Any] | None) -> list[str]:
        cells = [label, f"{part['items']:,}", *(mean_se(part[key]) for key in (
            "misalignment", "speech_gain_over_wrong", "forgetting"))]
        if reading:
            cells += [mean_se(read["forgetting"]), f"{read['items']:,}"] if read else [NOT_RUN, "0"]
        return cells + ([number(part.get("cer", {}).get("mean", math.nan))] if spoken else [])

    body = [row("all", result["overall"], reading["overall"] if reading else None)]
    if result["by"]:
        body += [row(text(group), part, reading["groups"].get(group) if reading else None) for group, part in groups]
    title = f"{name} at {checkpoint}: mean ± one standard error over utterances"
    shown = table(title, head, body[: GROUPS + 1])
    if body[GROUPS + 1 :]:
        shown += (f"<details><summary>{len(body) - GROUPS - 1} more groups</summary>"
                  + table(f"{name} at {checkpoint}: the other groups", head, body[GROUPS + 1 :]) + "</details>")
    return shown
