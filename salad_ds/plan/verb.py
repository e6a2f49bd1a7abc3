"""``salad-ds plan``: what a stage will take, on which machines, before anything is spent. Nothing is written
but what ``--out`` names."""

from __future__ import annotations

import argparse

from salad_ds.config import Recipe
from salad_ds.errors import RecipeError
from salad_ds.files import write_text
from salad_ds.plan.choose import choose
from salad_ds.plan.estimate import Question, estimate
from salad_ds.plan.hardware import cluster
from salad_ds.plan.shown import screen
from salad_ds.plan.zero import read_zero


def plan(recipe: Recipe, arguments: argparse.Namespace) -> None:
    """Print the plan, and write it to ``--out`` where that is given. ``arguments``: verbs/beside.py's."""
    told = planned(recipe, arguments)
    print(told)
    if arguments.out:
        write_text(arguments.out, told + "\n")


def planned(recipe: Recipe, arguments: argparse.Namespace) -> str:
    """What ``salad-ds plan`` prints. Raises RecipeError for a GPU without figures, an MFU outside (0, 1], a stage that
    is not there, a global batch that the GPUs cannot share, and models whose configuration is not at hand."""
    if not 0 < arguments.mfu <= 1:
        raise RecipeError(f"--mfu is {arguments.mfu}, not above 0 and at most 1", "0.3 to 0.5 is what large runs reach")
    for name in ("network", "storage", "hours"):
        value = getattr(arguments, name)
        if value < 0 or (name == "storage" and not value):
            raise RecipeError(f"--{name} is {value}", f"give --{name} a positive number")
    machines = cluster(arguments.nodes, arguments.gpus_per_node, arguments.gpu, arguments.network, arguments.storage)
    asked = Question(recipe, arguments.stage, machines, arguments.mfu, arguments.hours)
    config = recipe.stages[asked.stage].deepspeed if asked.stage in recipe.stages else "ds_configs/zero3.json"
    own = estimate(asked, read_zero(config))
    return screen(own, choose(asked))
