"""The paper's full run on 8, 64 and 512 GPUs, planned: docs/plan.md.

    python -m salad_ds.plan.page [--write]

Made from the same model as ``salad-ds plan``, from the shipped recipes; a test makes it again and compares.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from salad_ds.config import load_recipe
from salad_ds.environment import hush, prepare_environment
from salad_ds.files import write_text
from salad_ds.plan.choose import Choice, choose
from salad_ds.plan.estimate import Plan, Question
from salad_ds.plan.hardware import LINK_SHARE, cluster, gpus
from salad_ds.plan.limits import Limit, limits, size
from salad_ds.plan.rows import TOKENS_PER_WORD, WORDS_PER_SECOND
from salad_ds.plan.shown import duration, gpu_hours, number

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/plan.md"
RECIPES = ("salad-3b", "salad-7b")
NODES = (1, 8, 64)
GPU, PER_NODE, MFU = "h200", 8, 0.4
SLOW = 100.0
"""Gb/s out of a node: one port of Ethernet, as machines have that were not built for this."""


def asked(name: str, nodes: int, network: float = 0.0) -> Question:
    recipe = load_recipe(ROOT / f"salad_ds/recipes/{name}.yaml")
    # Relative to nothing: what lies in somebody's work directory must not change the page.
    recipe = replace(recipe, workdir="/nonexistent")
    return Question(recipe, "stage1", cluster(nodes, PER_NODE, GPU, network), MFU)


def page() -> str:
    answers = {name: [choose(asked(name, nodes)) for nodes in NODES] for name in RECIPES}
    slow = {name: [choose(asked(name, nodes, SLOW)) for nodes in NODES if nodes > 1] for name in RECIPES}
    parts = [opening(), *(section(name, choices) for name, choices in answers.items()), breaks(answers),
             slow_network(slow), store_or_live(answers), assumptions()]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def opening() -> str:
    return (
        "# The paper's run, planned\n\n"
        "Written by `python -m salad_ds.plan.page --write`, from the recipes and the model behind `salad-ds plan`. "
        f"Stage I, 24 B positions, on {GPU.upper()}s ({PER_NODE} per node, {size(gpus()[GPU].network * PER_NODE)}/s "
        f"between nodes) at an MFU of {MFU:.0%}: a figure that is assumed, not measured. What the model says of memory "
        "and traffic is held against launched training in [bench/memory.md](bench/memory.md) and tests/plan."
    )


def best(choice: Choice) -> Plan:
    return choice.best or choice.plans[0]


def section(name: str, choices: list[Choice]) -> str:
    first = best(choices[0])
    head = (f"## {name}: {number(first.shapes.trained)} parameters learn\n\n"
            "| GPUs | rows × passes | config | memory per GPU | a step | Stage I | positions/s | network per step | "
            "recordings | decoding | checkpoint |\n" + "|---" * 11 + "|\n")  # fmt: skip
    return head + "\n".join(row(best(choice)) for choice in choices)


def row(plan: Plan) -> str:
    far = f", {size(plan.traffic.between)} per node between" if plan.machines.nodes > 1 else ""
    cells = [
        plan.machines.ranks, f"{plan.micro_batch} × {plan.passes}", f"`{plan.zero.name}`",
        f"{size(plan.memory.peak)} ({plan.memory.phase})", duration(plan.speed.step),
        f"{duration(plan.speed.step * plan.asked.settings.steps)} ({gpu_hours(plan):,.0f} GPU hours)",
        f"{plan.speed.positions:,.0f}",
        f"{size(plan.traffic.within)} per GPU{far}: {duration(plan.traffic.seconds)}",
        f"{size(plan.reading.bytes)}/s", f"{plan.reading.cores:,.1f} cores",
        f"{size(plan.checkpoint.bytes)}, {duration(plan.checkpoint.seconds)} every "
        f"{duration(plan.speed.step * plan.asked.settings.checkpoint_every)}",
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def breaks(answers: dict[str, list[Choice]]) -> str:
    lines = ["## What gives out first", "",
             "Each limit as the share of it that is used; at 100 % there is no more. The three tightest:", "",
             "| recipe | GPUs | first | second | third |", "|---|---|---|---|---|"]  # fmt: skip
    for name, choices in answers.items():
        for choice in choices:
            told = [f"{one.name} **{one.share:.0%}** ({one.used} of {one.there})" for one in limits(best(choice))[:3]]
            lines.append(f"| {name} | {best(choice).machines.ranks} | {' | '.join(told)} |")
    return "\n".join([*lines, "", *verdict(answers)])


def verdict(answers: dict[str, list[Choice]]) -> list[str]:
    """What the table says, in words that follow from it."""
    plan = best(answers[RECIPES[0]][-1])
    rows, ranks, steps = plan.asked.settings.global_batch, plan.machines.ranks, plan.asked.settings.checkpoint_every
    told = [f"- **On {ranks} GPUs the global batch is used up.** {rows} rows are {rows / ranks:g} per GPU and one pass "
            "per step: one GPU more would stand idle. A longer batch, or rows divided over GPUs (sequence parallelism, "
            "which this system has not), could use more."]  # fmt: skip
    for name, choices in answers.items():
        last, before = best(choices[-1]), best(choices[-2])
        told.append(f"- **Network**, {name}: at {last.machines.ranks} GPUs a step is one pass, and nothing but that "
                    f"pass hides the network, which works {share_of(last, 'network').share:.0%} of its time; on "
                    f"{before.machines.ranks} GPUs {share_of(before, 'network').share:.0%}.")  # fmt: skip
    told.append(f"- **Checkpoints**: {steps} steps of {RECIPES[0]} are {duration(steps * plan.speed.step)} on {ranks} "
                f"GPUs, of which writing and checking one takes {duration(plan.checkpoint.seconds)} at "
                f"{size(plan.machines.storage)}/s: raise `checkpoint_every` with the number of GPUs.")  # fmt: skip
    reading, decoding = share_of(plan, "reading"), share_of(plan, "decoding")
    told.append(f"- **Audio**: {reading.used} are read then, {reading.share:.0%} of what the file system gives, in "
                f"small pieces; decoding needs {decoding.used} of {decoding.there}.")  # fmt: skip
    return told


def share_of(plan: Plan, beginning: str) -> Limit:
    return next(one for one in limits(plan) if one.name.startswith(beginning))


def slow_network(slow: dict[str, list[Choice]]) -> str:
    lines = [f"## The same with {SLOW:g} Gb/s out of a node", "",
             "| recipe | GPUs | cheapest config | a step (work, network) | Stage I | `zero3.json` | `zeropp.json` |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, choices in slow.items():
        for choice in choices:
            plan = best(choice)
            others = {other.zero.name: duration(other.speed.step) for other in choice.plans}
            lines.append(
                f"| {name} | {plan.machines.ranks} | `{plan.zero.name}` | {duration(plan.speed.step)} "
                f"({duration(plan.speed.compute)}, {duration(plan.traffic.seconds)}) | "
                f"{duration(plan.speed.step * plan.asked.settings.steps)} | {others.get('zero3.json', '')} | "
                f"{others.get('zeropp.json', '')} |")  # fmt: skip
    return "\n".join(lines)


def store_or_live(answers: dict[str, list[Choice]]) -> str:
    lines = ["## A store, or a live teacher", "",
             "| recipe | the speech is met | store | precomputed on 8 GPUs in | a live teacher takes of Stage I |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name, choices in answers.items():
        plan = best(choices[0])
        price = plan.operations.teacher / plan.operations.total * plan.speed.compute * plan.asked.settings.steps
        lines.append(f"| {name} | {plan.store.times_met:.1f} times | {size(plan.store.bytes)} | "
                     f"{duration(plan.store.seconds)} | {duration(price)} |")  # fmt: skip
    return "\n".join(lines)


def assumptions() -> str:
    return (
        "## What is assumed\n\n"
        f"- People speak {WORDS_PER_SECOND} words per second; a word is {TOKENS_PER_WORD} tokens. Everything else "
        "about a row is the recipe's arithmetic.\n"
        f"- Links and networks give {LINK_SHARE:.0%} of their published rate to large collectives; with `overlap_comm` "
        "they work beside the GPUs' arithmetic, and the slower of the two decides.\n"
        "- MFU counts what the model needs: forward and backward of student and adapter, the encoder, a live teacher's "
        "forward; not what gradient checkpointing computes again. Attention is counted over the whole row.\n"
        "- A GPU's memory is the figure on its box in units of 1e9 bytes; the 7 % more that drivers report are left to "
        "CUDA contexts, NCCL and fragmentation.\n"
        "- A core decodes 38,000 positions per second (bench/stream.md); the file system gives all nodes together "
        f"{size(cluster(1, 1, GPU).storage)}/s.\n"
        "- What the store's records take: bench/store.md. Hours and bytes of the corpora are published figures."
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    prepare_environment()
    hush()
    text = page()
    if parser.parse_args().write:
        write_text(PAGE, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
