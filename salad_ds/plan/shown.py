"""A plan on one screen."""

from __future__ import annotations

from salad_ds.plan.choose import Choice
from salad_ds.plan.estimate import Plan
from salad_ds.plan.hardware import LINK_SHARE
from salad_ds.plan.limits import limits, size
from salad_ds.plan.rows import TOKENS_PER_WORD, WORDS_PER_SECOND
from salad_ds.plan.shapes import count

BAR = 20
"""Characters of a full bar."""


def screen(plan: Plan, choice: Choice) -> str:
    """The plan under the recipe's own config, and what the others would be."""
    parts = [heading(plan), memory_lines(plan), configs(plan, choice), work_lines(plan), network(plan), storage(plan),
             breaking(plan)]  # fmt: skip
    return "\n\n".join("\n".join(part) for part in parts)


def heading(plan: Plan) -> list[str]:
    asked, stage, context = plan.asked, plan.asked.settings, plan.asked.recipe.data.context
    recipe = asked.recipe
    lines = [
        f"  {recipe.name} {asked.stage} on {plan.machines}",
        f"  {number(plan.shapes.trained)} parameters learn ({recipe.model.llm} {number(count(plan.shapes.body))}, "
        f"adapter {number(count(plan.shapes.adapter))}), {number(plan.shapes.frozen)} of the encoder listen",
        f"  {stage.steps:,} steps of {stage.global_batch} rows of {context:,} positions ({number(plan.positions)}): "
        f"{counted(plan.micro_batch, 'row')} × {counted(plan.machines.ranks, 'GPU')} × "
        f"{counted(plan.passes, 'pass', 'es')}",
    ]
    if not (stage.lr_llm and stage.lr_adapter):
        lines.append("  a learning rate is 0: what that freezes takes less memory and time than planned here")
    if plan.micro_batch != stage.micro_batch:
        lines.append(f"  micro_batch is {plan.micro_batch} here, not the recipe's {stage.micro_batch}: no more of the "
                     "global batch falls to a GPU")  # fmt: skip
    return lines


def memory_lines(plan: Plan) -> list[str]:
    memory, gpu = plan.memory, plan.machines.gpu
    verdict = "fits" if plan.fits else "does NOT fit"
    lines = [f"Memory per GPU under {plan.zero.name}: {size(memory.peak)} of {size(gpu.memory)}, {verdict}"]
    parts = {**memory.standing, **{f"{memory.phase}: {name}": at for name, at in memory.passing[memory.phase].items()}}
    lines += [f"  {name:<38}{size(value):>9}  {bar(value / gpu.memory)}"
              for name, value in parts.items() if value >= 1e6]  # fmt: skip
    others = [f"{name} {size(value)}" for name, value in memory.phases().items() if name != memory.phase]
    half = (len(others) + 1) // 2
    lines += [f"  instead of {memory.phase}: {', '.join(others[:half])},", f"    {', '.join(others[half:])}"]
    lines += [f"  {'of the host: ' + name:<34}{size(value):>9}" for name, value in memory.host.items()]
    return lines


def configs(plan: Plan, choice: Choice) -> list[str]:
    lines = ["Configs of ds_configs/, the cheapest first"]
    for other in choice.plans:
        mark = "→" if choice.best is other else " "
        fit = "fits" if other.fits else "too large"
        there = other.memory.on_host * other.machines.gpus_per_node
        host = f", {size(there)} in each host" if there else ""
        lines.append(f"{mark} {other.zero.name:<22}{size(other.memory.peak):>9}  {fit:<10}"
                     f"{duration(other.speed.step):>8} a step, {size(other.traffic.within)} per GPU{host}")  # fmt: skip
    if choice.best is None:
        lines.append(f"  none fits; {choice.mend} would" if choice.plans else "  none is of this precision")
    return lines


def work_lines(plan: Plan) -> list[str]:
    done, fast, stage = plan.operations, plan.speed, plan.asked.settings
    share = {"student": done.student, "adapter": done.adapter, "encoder": done.encoder, "live teacher": done.teacher}
    told = ", ".join(f"{name} {value / done.total:.0%}" for name, value in share.items() if value / done.total >= 0.005)
    again = 1 + (done.student / 3 if plan.asked.recipe.model.gradient_checkpointing else 0) / done.total
    lines = [
        f"Time at an MFU of {plan.asked.mfu:.0%} (peak {plan.machines.gpu.flops / 1e12:,.0f} TFLOP/s; {told})",
        f"  {fast.positions:>12,.0f} positions/s   {duration(fast.step)} a step   {days(fast.days(stage.steps))} for "
        f"{number(plan.positions * stage.steps)} positions   {gpu_hours(plan):,.0f} GPU hours",
    ]
    if plan.asked.recipe.model.dtype == "float32":
        lines.append(f"  {'':>12} the peak is bfloat16's: with model.dtype=float32 state a tenth of the usual MFU")
    if again > 1:
        lines.append(f"  {'':>12} with what gradient checkpointing computes again the GPUs are busy at "
                     f"{plan.asked.mfu * again:.0%}")  # fmt: skip
    return lines


def gpu_hours(plan: Plan) -> float:
    return plan.speed.days(plan.asked.settings.steps) * 24 * plan.machines.ranks


def network(plan: Plan) -> list[str]:
    moved = plan.traffic
    lines = [f"Network, per step: {duration(moved.seconds)} "
             + ("beside the work" if plan.speed.overlapped else "behind the work")
             + f" ({counted(plan.passes, 'pass', 'es')}; at {LINK_SHARE:.0%} of the links' rates)"]  # fmt: skip
    lines += [f"  {flow.what:<38}{size(flow.volume):>9}  per GPU" for flow in moved.flows]
    lines.append(f"  within a node {size(moved.within)} per GPU at {size(plan.machines.gpu.link)}/s: "
                 f"{duration(moved.seconds_within)}; between nodes "
                 + (f"{size(moved.between)} per node at {size(plan.machines.network)}/s: "
                    f"{duration(moved.seconds_between)}" if plan.machines.nodes > 1 else "nothing"))  # fmt: skip
    return lines


def storage(plan: Plan) -> list[str]:
    kept, read, saved, stage = plan.store, plan.reading, plan.checkpoint, plan.asked.settings
    hours = f"{plan.corpus.hours:,.0f} h" if plan.corpus.hours else "speech of unknown hours"
    lines = [f"Disks ({hours} {'counted' if plan.corpus.counted else 'as published'}; {WORDS_PER_SECOND} words/s, "
             f"{TOKENS_PER_WORD} tokens/word)",
             f"  teacher store    {size(kept.bytes):>9}  {number(kept.tokens)} tokens, precomputed in "
             f"{duration(kept.seconds)} on these GPUs; the speech is met {kept.times_met:.1f} times",
             f"  recordings       {size(read.bytes):>9}/s  {read.recorded:,.0f} s of sound per second, "
             f"{read.cores:,.1f} cores to decode them",
             f"  checkpoint       {size(saved.bytes):>9}  {duration(saved.seconds)} to write and to check, every "
             f"{duration(stage.checkpoint_every * plan.speed.step)}; {size(saved.kept)} at most; the student "
             f"{size(saved.model)}"]  # fmt: skip
    if plan.asked.live and kept.times_met > 1:
        price = plan.operations.teacher / plan.operations.total * plan.speed.compute * stage.steps
        better = "cheaper" if kept.seconds < price else "dearer"
        lines.append(f"  a store is {better} than the live teacher, which takes {duration(price)} of the stage")
    return lines


def breaking(plan: Plan) -> list[str]:
    lines = ["What gives out first"]
    for one in limits(plan)[:4]:
        lines.append(f"  {one.name:<24}{bar(one.share)} {one.share:>5.0%}  {one.used} of {one.there}")
    return lines


def counted(value: int, what: str, plural: str = "s") -> str:
    return f"{value:,} {what}{'' if value == 1 else plural}"


def bar(share: float) -> str:
    filled = min(round(share * BAR), BAR)
    return ("█" * filled + "·" * (BAR - filled)) if share <= 1 else "█" * BAR


def number(value: float) -> str:
    """Three figures: 3.21 B, 122 M."""
    for unit, size_ in ((" B", 1e9), (" M", 1e6), (" k", 1e3)):
        if value >= size_:
            return f"{value / size_:.3g}{unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    if seconds < 0.0995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else days(seconds / 86400)


def days(value: float) -> str:
    return f"{value:.3g} days" if value >= 1 else f"{value * 24:.3g} hours"
