"""The table of what was inflicted, on the screen and as a page."""

from __future__ import annotations

import os
import platform

import torch

from tests.faults.fault import Result, short


def verdict(result: Result) -> str:
    """What was lost, in a word or in all of them."""
    if result.skipped:
        return "(not inflicted)"
    if result.broken:
        return f"NOT AS PROMISED: {result.broken}"
    return "nothing" if not result.lost else f"LOST: {'; '.join(result.lost)}"


def line(result: Result) -> str:
    what = result.happened or result.skipped
    return f"{result.fault:<22} {verdict(result):<10} {result.seconds:5.0f} s  {short(what, 110)}"


def summary(results: list[Result]) -> str:
    inflicted = [result for result in results if not result.skipped]
    sound = sum(result.passed for result in inflicted)
    told = f"{len(inflicted)} faults inflicted: nothing was lost in {sound}"
    if sound < len(inflicted):
        told += f"; look at {', '.join(result.fault for result in inflicted if not result.passed)}"
    skipped = [result.fault for result in results if result.skipped]
    return told + (f"; not inflicted here: {', '.join(skipped)}" if skipped else "")


def page(results: list[Result]) -> str:
    """Markdown."""
    rows = "\n".join(f"| `{result.fault}` | {cell(result.what)} | {cell(result.happened or result.skipped)} "
                     f"| {cell(verdict(result))} |" for result in results)
    minutes = sum(result.seconds for result in results) / 60
    return f"""# What was tried, and what was lost

`python -m tests.faults` inflicts every fault below on a real run of the tiny recipe: DeepSpeed with ZeRO-3 on two
ranks, a real speech encoder, real recordings, a random LLM of two layers, MLflow, ten steps. What was hurt goes on with
the same command, and is then compared with a run that was left alone: losses, samples and weights bit for bit (to 1e-5
where another number of ranks or another network has added them up), the place at which the data stream stands, every
line of `log.jsonl`, every record in MLflow, half-written files. "nothing" means that all of it agreed. After a step
that was discarded for its loss, which changes the weights on purpose, the samples of all further steps must agree.

Where the fault concerns the launcher, or `salad-ds run`, the real one starts the ranks; elsewhere they are forked from
a process that has imported torch and DeepSpeed already, which saves half of the time.

    python -m tests.faults                       # all; what is done is not done again
    python -m tests.faults --only nan two-trainers --again
    python -m tests.faults --list

{summary(results)}. {minutes:.0f} minutes in all, on {os.cpu_count()} cores ({platform.machine()}, torch
{torch.__version__}).

| fault | what was done | what happened | what was lost |
|---|---|---|---|
{rows}
"""


def cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
