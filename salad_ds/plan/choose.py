"""Which config of ds_configs/ fits, and which of those takes the least time; what would fit where none does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from salad_ds.errors import RecipeError
from salad_ds.plan.estimate import Plan, Question, estimate
from salad_ds.plan.zero import Zero, shipped


@dataclass(frozen=True)
class Choice:
    """``plans``: under every config that the recipe's dtype can take, the fastest first. ``best``: the fastest that
    fits; None where none does, and then ``mend`` says what would."""

    plans: list[Plan]
    best: Plan | None
    mend: str


def candidates(asked: Question) -> list[Zero]:
    """Configs of the recipe's precision: those without 16 bits are for machines without GPUs."""
    wanted = 2 if asked.recipe.model.dtype == "bfloat16" else 4
    return [zero for zero in shipped() if zero.bytes == wanted and takes(zero, asked)]


def takes(zero: Zero, asked: Question) -> bool:
    """hpZ's copies must divide the ranks of a node, or they would lie across the network that they avoid."""
    return zero.hpz == 1 or (asked.machines.nodes > 1 and asked.machines.gpus_per_node % zero.hpz == 0)


def choose(asked: Question) -> Choice:
    """Every config that applies, and the cheapest that fits: fewest seconds per step on the same GPUs."""
    plans = sorted((estimate(asked, zero) for zero in candidates(asked)), key=cost)
    best = next((plan for plan in plans if plan.fits), None)
    return Choice(plans, best, "" if best or not plans else mend(asked, plans))


def cost(plan: Plan) -> tuple[float, bool, float]:
    """Seconds of a step, to three figures; then whether it rounds what it sends; then what it sends."""
    settings = plan.zero.zero
    rounds = bool(settings.zero_quantized_weights or settings.zero_quantized_gradients)
    return float(f"{plan.speed.step:.3g}"), rounds, plan.traffic.seconds


def mend(asked: Question, plans: list[Plan]) -> str:
    """The smallest change of the recipe, or of the machines, with which a shipped config fits."""
    for change, changed in changes(asked, plans[0].micro_batch):
        for plan in plans:
            try:
                found = estimate(changed, plan.zero)
            except RecipeError:
                continue
            if found.fits:
                return f"{change} with {plan.zero.name}"
    return "more GPUs, or GPUs with more memory"


def changes(asked: Question, micro_batch: int) -> Iterator[tuple[str, Question]]:
    """From the least to the most: what it says, and the question with it."""
    recipe, name = asked.recipe, asked.stage
    told: list[str] = []
    if not recipe.model.gradient_checkpointing:
        recipe = replace(recipe, model=replace(recipe.model, gradient_checkpointing=True))
        told.append("model.gradient_checkpointing=true")
        yield " ".join(told), replace(asked, recipe=recipe)
    if asked.live and recipe.teacher.placement == "device":
        recipe = replace(recipe, teacher=replace(recipe.teacher, placement="sharded"))
        told.append("teacher.placement=sharded")
        yield " ".join(told), replace(asked, recipe=recipe)
    rows = micro_batch
    while rows > 1:
        rows //= 2
        stage = replace(recipe.stages[name], micro_batch=rows)
        yield (" ".join([*told, f"stages.{name}.micro_batch={rows}"]),
               replace(asked, recipe=replace(recipe, stages={**recipe.stages, name: stage})))  # fmt: skip
    stage = replace(recipe.stages[name], micro_batch=1)
    recipe = replace(recipe, stages={**recipe.stages, name: stage})
    machines = asked.machines
    for _ in range(6):
        machines = replace(machines, nodes=machines.nodes * 2)
        yield (" ".join([*told, f"stages.{name}.micro_batch=1 on --nodes {machines.nodes}"]),
               replace(asked, recipe=recipe, machines=machines))  # fmt: skip
