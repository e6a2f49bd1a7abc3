"""``--dry-run``: the recipe as a verb would see it, each value with where it comes from. Nothing is touched.

What is printed is itself a recipe: ``salad-ds train RECIPE key=value --dry-run > resolved.yaml``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TextIO

import yaml

from salad_ds.config import Recipe, load_recipe
from salad_ds.config.origin import Keys, Value, values_of
from salad_ds.environment import cores
from salad_ds.errors import RecipeError
from salad_ds.verbs.verb import single_valued

COLUMN = 52
"""Where the origins stand, unless a value is longer."""


def dry_run(chosen: argparse.Namespace, swept: bool = False, stream: TextIO | None = None) -> None:
    """Print the resolved recipe of a command. Raises RecipeError as the verb itself would."""
    out = stream or sys.stdout
    if not chosen.recipe.endswith((".yaml", ".yml")):  # lint SHARDS
        shards = " ".join([chosen.recipe, *chosen.overrides])
        print(f"# salad-ds {chosen.verb}, dry run: there is no recipe; would read {shards}", file=out)
        return
    overrides = single_valued(chosen.overrides) if swept else chosen.overrides
    recipe = load_recipe(chosen.recipe, overrides)
    if getattr(chosen, "stage", None) and chosen.stage not in recipe.stages:
        raise RecipeError(f"{chosen.recipe} has no stage {chosen.stage!r}", f"its stages: {', '.join(recipe.stages)}")
    print(f"# salad-ds {chosen.verb}, dry run: nothing was read but the recipe, nothing was written.", file=out)
    for text in chosen.overrides:
        if text not in overrides:
            print(f"# swept on the command line: {text}", file=out)
    for line in told(values_of(recipe, chosen.recipe, overrides), computed(recipe)):
        print(line, file=out)
    if chosen.verb == "run":
        from salad_ds.run import road

        print("# stations: " + ", ".join(name for name, _ in road(recipe, chosen.recipe, overrides)), file=out)


def told(values: list[Value], made: dict[Keys, str]) -> Iterator[str]:
    """The lines of a YAML file, a comment behind each value."""
    above: Keys = ()
    for one in values:
        for depth, key in enumerate(one.keys):
            if one.keys[: depth + 1] == above[: depth + 1]:
                continue
            above = one.keys[: depth + 1]  # a new section: what stood below the old one is no longer open
            dash = isinstance(key, int)
            indent = "  " * depth
            if depth + 1 < len(one.keys):
                if not dash:
                    yield f"{indent}{scalar(key)}:"
                elif isinstance(one.keys[depth + 1], int):
                    yield f"{indent}-"
                continue
            first = depth > 0 and isinstance(one.keys[depth - 1], int) and is_first(values, one)
            lead = indent[:-2] + "- " if first else indent
            text = f"{lead}- {scalar(one.value)}" if dash else f"{lead}{scalar(key)}: {scalar(one.value)}"
            note = one.origin + (f"; computed: {made[one.keys]}" if one.keys in made else "")
            yield f"{text:<{COLUMN}}  # {note}"
        above = one.keys


def is_first(values: list[Value], one: Value) -> bool:
    """Whether ``one`` is the first value of its item of a list."""
    return next(value for value in values if value.keys[: len(one.keys) - 1] == one.keys[:-1]) is one


def scalar(value: object) -> str:
    """As YAML has it, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def computed(recipe: Recipe) -> dict[Keys, str]:
    """What the verbs make of a value that does not say it itself."""
    cores_here = f"{cores()}, one per core"
    made: dict[Keys, str] = {}
    if recipe.model.tokenizer is None:
        made["model", "tokenizer"] = f"{recipe.model.llm}, from model.llm"
    if recipe.teacher.llm is None:
        made["teacher", "llm"] = f"{recipe.model.llm}, from model.llm"
    if not recipe.tracking.uri:
        made["tracking", "uri"] = f"sqlite:///{recipe.path('mlflow.db').absolute()}"
    if not recipe.tracking.experiment:
        made["tracking", "experiment"] = recipe.name
    if recipe.synth.workers == 0:
        made["synth", "workers"] = f"at most {cores_here}"
    if recipe.align.workers == 0:
        made["align", "workers"] = cores_here if recipe.align.engine != "ctc" else "one per GPU, else one per core"
    for number, corpus in enumerate(recipe.corpora):
        if corpus.workers == 0:
            made["corpora", number, "workers"] = cores_here
    for name, stage in recipe.stages.items():
        times = stage.global_batch // (stage.micro_batch * stage.ranks)
        made["stages", name, "global_batch"] = f"{stage.micro_batch} rows × {stage.ranks} ranks × {times} times"
        positions = stage.steps * stage.global_batch * recipe.data.context
        made["stages", name, "steps"] = f"{positions:,} positions"
        made["stages", name, "decay_share"] = f"the last {round(stage.steps * stage.decay_share)} steps"
    return made
