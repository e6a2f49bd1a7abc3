"""What the numbers of a run allow to be said, in words: does the student use speech, what did each stage change.

A difference is called one only beyond two standard errors; an accuracy is called above chance only when its whole
confidence interval is.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from salad_ds.evaluate.shown import counted
from salad_ds.measure.artefacts import Run
from salad_ds.measure.page import digits_for, number
from salad_ds.measure.statistics import ratio

CONTROLS = {"misalignment_wrong_speech": ("speech_gain_over_wrong", "another utterance's speech"),
            "misalignment_silence": ("speech_gain_over_silence", "silence")}
"""Control in a measure file: its difference paired over utterances, and its name in words."""


@dataclass(frozen=True)
class Difference:
    """Control minus right speech, in nats per predicted text token: positive when the right speech helps."""

    control: str
    mean: float
    se: float
    paired: bool
    """Standard error of the utterances' differences; else the larger one of independent means."""

    @property
    def clear(self) -> bool:
        return self.mean > 2 * self.se

    @property
    def reversed(self) -> bool:
        return self.mean < -2 * self.se


@dataclass(frozen=True)
class Verdict:
    uses_speech: bool | None
    """None: not measured."""
    checkpoint: str | None
    headline: str
    sentences: list[str]
    differences: list[Difference]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def differences(measured: dict[str, Any]) -> list[Difference]:
    """Right speech against each control of one measure file, paired over utterances where the file has it so."""
    found = []
    for name, (gain, words) in CONTROLS.items():
        if gain in measured:
            found.append(Difference(words, float(measured[gain]["mean"]), float(measured[gain]["se"]), True))
        elif name in measured:
            mean = measured[name]["mean"] - measured["misalignment"]["mean"]
            se = math.hypot(measured[name]["se"], measured["misalignment"]["se"])
            found.append(Difference(words, mean, se, False))
    return found


def judge(run: Run, on_cpu: bool) -> Verdict:
    """The verdict on the newest measured checkpoint of the run."""
    measured = [name for name in run.checkpoints if name in run.measure]
    if not measured:
        return Verdict(None, None, "Not measured: nothing says yet whether the student uses speech",
                       ["Run `salad-ds measure` and write the report again.", *accuracy_words(run)], [])
    newest = measured[-1]
    found = differences(run.measure[newest])
    steps, count = run.steps_until(newest), run.measure[newest]["items"]
    both = len(found) == len(CONTROLS) and all(item.clear for item in found)
    if newest == "init":
        headline = "Only the untrained student was measured"
    elif both:
        headline = "The student uses speech"
    else:
        place = " on a CPU" if on_cpu else ""
        taught = f"{steps:,} steps{place} have not taught it to use speech" if steps else "it does not use speech"
        headline = f"Not yet: {taught}"
    sentences = [speech_words(found, newest, count), *change_words(run, measured), *accuracy_words(run)]
    return Verdict(both and newest != "init", newest, headline, [text for text in sentences if text], found)


def speech_words(found: list[Difference], checkpoint: str, count: int) -> str:
    if len(found) < len(CONTROLS):
        return f"A control of {checkpoint} was not run, so its use of speech cannot be judged."
    parts = []
    for item in found:
        sign = "lower" if item.mean >= 0 else "higher"
        digits = digits_for(item.se)
        size = (f"{number(abs(item.mean), digits)}\u00a0±\u00a0{number(item.se, digits)} nats {sign} than with "
                f"{item.control}")
        if item.reversed:
            size += " (the wrong way round)"
        elif not item.clear:
            size += " (within two standard errors)"
        parts.append(size)
    how = "" if all(item.paired for item in found) else ", standard errors as for independent means"
    return (f"At {checkpoint} the misalignment with the right speech is {' and '.join(parts)} "
            f"(n\u00a0=\u00a0{count} utterances{how}).")


def change_words(run: Run, measured: list[str]) -> list[str]:
    """First against newest measured checkpoint, for L_DIST and F."""
    if len(measured) < 2:
        return []
    first, last = run.measure[measured[0]], run.measure[measured[-1]]
    sentences = []
    for key, name in (("distillation", "Distillation loss on speech (L_DIST)"),
                      ("forgetting", "Forgetting of text (F)")):
        before, after = first[key], last[key]
        change, se = change_of(first, last, key)
        word = "fell" if change < -2 * se else "rose" if change > 2 * se else "did not move beyond its noise:"
        digits = digits_for(se)
        sign = "+" if change >= 0 else ""
        sentences.append(f"{name} {word} from {number(before['mean'], digits)} to {number(after['mean'], digits)} nats "
                         f"between {measured[0]} and {measured[-1]} "
                         f"(change {sign}{number(change, digits)}\u00a0±\u00a0{number(se, digits)}).")
    return sentences


def change_of(first: dict[str, Any], last: dict[str, Any], key: str) -> tuple[float, float]:
    """(change of the mean, its standard error): paired over utterances where both measured the same ones."""
    pair = [result.get("utterances", []) for result in (first, last)]
    if pair[0] and [row["key"] for row in pair[0]] == [row["key"] for row in pair[1]]:
        counts = np.array([row["tokens"] for row in pair[0]], dtype=float)
        moved = ratio(np.array([b[key] - a[key] for a, b in zip(*pair, strict=True)]), counts)
        return moved["mean"], moved["se"]
    return last[key]["mean"] - first[key]["mean"], math.hypot(first[key]["se"], last[key]["se"])


def accuracy_words(run: Run) -> list[str]:
    tested = [name for name in run.checkpoints if name in run.evaluate]
    if not tested:
        return []
    result = run.evaluate[tested[-1]]
    chance, low = float(result["chance"]), result["speech"]["ci"][0]
    above = "above" if low > chance else "not distinguishable from" if result["speech"]["ci"][1] >= chance else "below"
    words = (f"At {tested[-1]} it answers {result['text']['accuracy']:.1%} of {counted(result)} written and "
             f"{result['speech']['accuracy']:.1%} of the same spoken items; the spoken accuracy is {above} chance "
             f"({chance:.0%}).")
    gap = result["gap"]
    if gap["ci"][0] <= 0 <= gap["ci"][1]:
        words += " The gap between the two cannot be told from zero with so few items."
    return [words]
