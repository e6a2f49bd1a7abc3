"""Experiments as grids: a recipe, axes of named overrides, seeds. What a cell is called and what it runs with.

An experiment is a YAML file of ``salad_ds/recipes/evidence``; ``setup.yaml`` there says what all of them share. Pure
arithmetic: nothing is run and nothing but YAML is read.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from salad_ds.config import Recipe, load_recipe
from salad_ds.errors import RecipeError

DIRECTORY = Path(__file__).parents[1] / "recipes/evidence"
ORDER = ("search", "alpha", "alpha-between", "active", "targets", "domain", "mix", "spans", "voices")
"""Experiments in the order of the page; ``--experiment all`` runs them in it."""
T = TypeVar("T")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


@dataclass
class Setup:
    """``setup.yaml``."""

    recipe: str = MISSING
    """Of every cell, beside it."""
    llm_texts: str = MISSING
    """Directory of text shards that the small LLM is trained on."""
    llm_held: str = MISSING
    """And of those that tell how well."""
    llm: dict[str, float] = field(default_factory=dict)
    """Settings of the small LLM (llm.Settings) other than its defaults."""
    spoken: dict[str, str] = field(default_factory=dict)
    """{speech: text} directories of what is synthesised."""
    silenced: dict[str, str] = field(default_factory=dict)
    """{out: speech} directories: the same speech without its sound."""
    cells: str = "cells"
    """Directory of the cells, below the recipe's ``workdir``."""


@dataclass
class Experiment:
    """``axes``: {axis: {level: overrides of the recipe}}; a cell takes a level of each, the last axis varies fastest,
    and the seeds vary slowest: half a grid is a grid of fewer seeds."""

    title: str = MISSING
    question: str = MISSING
    axes: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0, 1])
    overrides: list[str] = field(default_factory=list)
    """Of every cell, before those of its levels."""
    needs: str = ""
    """What this experiment cannot be run without, in words; empty: nothing. It stays 'not run'."""


@dataclass(frozen=True)
class Cell:
    """One run. ``levels``: {axis: level}."""

    experiment: str
    levels: dict[str, str]
    seed: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its directory: ``alpha=0,data=quarter,seed=1``."""
        return ",".join([*(f"{axis}={level}" for axis, level in self.levels.items()), f"seed={self.seed}"])


def load_setup(directory: Path = DIRECTORY) -> Setup:
    return read(directory / "setup.yaml", Setup)


def load_experiment(name: str, directory: Path = DIRECTORY) -> Experiment:
    """Raises RecipeError: no such experiment, a key that it has not, a level without a name that a file may have."""
    path = directory / f"{name}.yaml"
    if not path.is_file():
        raise RecipeError(f"there is no experiment {name!r}", f"use one of {', '.join(experiments(directory))}")
    found = read(path, Experiment)
    for text in [*found.axes, *(level for levels in found.axes.values() for level in levels)]:
        if not NAME.fullmatch(text):
            raise RecipeError(f"{path}: {text!r} is no name of an axis or level", "use letters, digits, '.', '+', '-'")
    return found


def read(path: Path, kind: type[T]) -> T:
    try:
        loaded = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.load(path)))
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path}: {str(error).splitlines()[0]}", "see salad_ds/evidence/grid.py") from None
    assert isinstance(loaded, kind)
    return loaded


def experiments(directory: Path = DIRECTORY) -> list[str]:
    """Those that there are, in the order of the page."""
    there = {path.stem for path in directory.glob("*.yaml")} - {"setup", "recipe"}
    return sorted(there, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def cells(name: str, experiment: Experiment) -> list[Cell]:
    """All of them, in the order in which they are run."""
    found = []
    for seed in experiment.seeds:
        for chosen in itertools.product(*(levels.items() for levels in experiment.axes.values())):
            own = [override for _, overrides in chosen for override in overrides]
            found.append(Cell(name, dict(zip(experiment.axes, (level for level, _ in chosen), strict=True)), seed,
                              (*experiment.overrides, *own, f"stages.stage1.seed={seed}", f"model.seed={seed}")))
    return found


def recipe_of(cell: Cell, recipe: Path, shared: list[str], place: Path) -> Recipe:
    """The cell's recipe. ``shared``: overrides of the command line; ``place``: its work directory. Raises
    RecipeError."""
    return load_recipe(recipe, overrides_of(cell, shared, place))


def overrides_of(cell: Cell, shared: list[str], place: Path) -> list[str]:
    return [*shared, *cell.overrides, f"workdir={place}", f"name={cell.experiment}/{cell.name}"]
