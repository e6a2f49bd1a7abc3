"""What a verb is, and what several of them share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from salad_ds.config import Recipe, load_recipe

DEMO = "salad_ds/recipes/demo.yaml"


def no_options(_: argparse.ArgumentParser) -> None:
    """A verb without options of its own."""


@dataclass(frozen=True)
class Verb:
    """One verb of the command line."""

    name: str
    told: str
    """Its line in ``salad-ds --help``: at most 64 characters."""
    run: Callable[[argparse.Namespace], int | None]
    """What it does; an exit code, None for 0. It imports what it needs itself."""
    examples: tuple[str, ...]
    """Two or three command lines that work, without ``salad-ds`` and the verb."""
    options: Callable[[argparse.ArgumentParser], None] = no_options
    """Adds its arguments. ``--debug`` is added to every verb; RECIPE, overrides and ``--dry-run`` where ``recipe``."""
    recipe: bool = False
    """Whether it takes ``RECIPE [key=value ...]``, which its function reads with ``recipe_of(arguments)``."""
    usage: str = ""
    """Instead of argparse's."""
    swept: bool = False
    """Whether an override may have several values, ``key=a,b``."""


def recipe_of(arguments: argparse.Namespace, swept: bool = False) -> Recipe:
    """The recipe with its overrides, and its storage in use. What is ``swept`` has several values: those overrides are
    left out."""
    from salad_ds.data.storage import use

    recipe = load_recipe(arguments.recipe, single_valued(arguments.overrides) if swept else arguments.overrides)
    use(recipe.storage)
    return recipe


def single_valued(overrides: list[str]) -> list[str]:
    from salad_ds.select.sweep import values_of

    return [text for text in overrides if len(values_of(text)) == 1]


def part_option(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--part", default="", metavar="i/n",
        help="a share of the work: i/n, or auto: that of this rank or SLURM array task (default: of this rank)",
    )  # fmt: skip


def checkpoint_option(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--checkpoint", default="stage1",
        help="init (before training), a stage of the recipe, or a student's directory (default: stage1)",
    )  # fmt: skip
