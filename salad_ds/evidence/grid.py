"""Experiments as grids: a recipe, axes of named overrides, seeds. What a cell is called and what it runs with.

An experiment is a YAML file of ``salad_ds/recipes/evidence``; ``setup.yaml`` there says what all of them share. Cells
of two experiments that come to the same settings are the same run. Pure arithmetic: nothing is run and nothing but YAML
is read.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from salad_ds.config import Recipe, plain
from salad_ds.errors import RecipeError
from salad_ds.files import digest_of

DIRECTORY = Path(__file__).parents[1] / "recipes/evidence"
ORDER = ("search", "alpha", "alpha-between", "active", "targets", "domain", "mix", "spans", "voices")
"""Experiments in the order of the page, in which they are run too; others come behind them by their names."""
STAGES = ("stage1", "stage2")
"""What the stage of a cell is called; and of one that starts from another cell."""
T = TypeVar("T")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


@dataclass
class Spoken:
    """Speech that is made of texts."""

    text: str = MISSING
    """Directory of text shards."""
    settings: list[str] = field(default_factory=list)
    """Overrides of the recipe: with which engine and voices it is spoken, how its frames are kept."""


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
    spoken: dict[str, Spoken] = field(default_factory=dict)
    """Directories of what is synthesised."""
    recorded: list[str] = field(default_factory=list)
    """Directories of recordings among the recipe's corpora, which are aligned."""
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
    first: list[str] = field(default_factory=list)
    """Overrides of a first stage, in whose place cells start: it is run once per seed, without ``overrides`` and
    levels, which then are about the stage behind it. Empty: cells have one stage."""
    against: dict[str, str] = field(default_factory=dict)
    """{axis: level}: of the cell that a cell is held against, utterance by utterance; its other levels and its seed are
    the same."""
    beside_deaf: bool = False
    """Whether its students are trained as the deaf one of ``search`` is, but for what they hear (the same loss, the
    same texts): then the page says how far their M lies below its M."""
    needs: str = ""
    """What this experiment cannot be run without, in words; empty: nothing. It stays 'not run'."""


@dataclass(frozen=True)
class Cell:
    """One line of a table. ``levels``: {axis: level}; ``first``: the cell whose student it starts from."""

    experiment: str
    levels: dict[str, str]
    seed: int
    overrides: tuple[str, ...]
    first: Cell | None = None

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
    if not found.axes and not found.needs:
        raise RecipeError(f"{path} has no axes", "give one, with a level for each kind of run")
    for axis, level in found.against.items():
        if level not in found.axes.get(axis, {}):
            raise RecipeError(f"{path}: against {axis} {level!r}, which is no level", "name one of its axes and levels")
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
        seeds = [f"stages.{STAGES[0]}.seed={seed}", f"model.seed={seed}"]
        first = Cell(name, {"stage": "first"}, seed, (*experiment.first, *seeds)) if experiment.first else None
        for chosen in itertools.product(*(levels.items() for levels in experiment.axes.values())):
            own = [override for _, overrides in chosen for override in overrides]
            levels = dict(zip(experiment.axes, (level for level, _ in chosen), strict=True))
            again = [f"stages.{STAGES[1]}.seed={seed}", f"select.seed={seed}"] if first else []
            overrides = (*experiment.first, *experiment.overrides, *own, *seeds, *again)
            found.append(Cell(name, levels, seed, overrides, first))
    return found


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """``{"data.context": 256, …}``: all that a run depends on, but not what it is called and where it lies."""
    found: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict) and value:
            for key, one in value.items():
                walk(one, f"{name}.{key}" if name else key)
        else:
            found[name] = value

    walk({key: value for key, value in plain(recipe).items() if key not in ("name", "workdir")}, "")
    return found


def run_name(recipe: Recipe, root: Recipe) -> str:
    """Of the directory of a run: a digest of the settings in which it differs from ``root``, so that a key that recipes
    get later does not give all runs other names."""
    common = settings_of(root)
    return digest_of({key: value for key, value in settings_of(recipe).items() if common.get(key) != value})[:12]


def overrides_of(cell: Cell, shared: list[str], place: Path) -> list[str]:
    """Of the command line of the cell's verbs. ``shared``: those of all cells; ``place``: its work directory."""
    return [*shared, *cell.overrides, f"workdir={place}", f"name={cell.experiment}/{cell.name}"]
