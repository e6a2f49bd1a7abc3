"""``python -m salad_ds.evidence``: prepare what the experiments share, fill their grids, write the page."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from salad_ds.config import load_recipe
from salad_ds.errors import SaladError
from salad_ds.evidence.cells import Grid, run
from salad_ds.evidence.collect import collect, status_of
from salad_ds.evidence.grid import DIRECTORY, Cell, cells, experiments, load_experiment, load_setup
from salad_ds.evidence.page import write_page
from salad_ds.evidence.prepare import prepare
from salad_ds.files import sole_writer

OUT, PAGE = Path("docs/evidence"), Path("docs/evidence.md")


def grid_of(names: list[str], arguments: argparse.Namespace, seeds: list[int] | None = None) -> Grid:
    """The cells of these experiments, in their order; of ``seeds`` alone, where they are given."""
    setup, found = load_setup(arguments.recipes), list[Cell]()
    for name in names:
        experiment = load_experiment(name, arguments.recipes)
        found += cells(name, experiment if seeds is None else replace(experiment, seeds=seeds))
    return Grid(arguments.recipes / setup.recipe, overrides(arguments), found, setup.cells)


def overrides(arguments: argparse.Namespace) -> list[str]:
    return [word for word in arguments.words if "=" in word]


def wanted(arguments: argparse.Namespace) -> list[str]:
    """The experiments that were named; all that can be run here where none was."""
    named = [word for word in arguments.words if "=" not in word]
    every = experiments(arguments.recipes)
    return named or [name for name in every if not load_experiment(name, arguments.recipes).needs]


def gather(arguments: argparse.Namespace) -> None:
    """The experiments' tables, from the runs that lie here; of all seeds, whichever are run."""
    for name in wanted(arguments):
        collect(grid_of([name], arguments), name, load_experiment(name, arguments.recipes), arguments.out)


def fill(arguments: argparse.Namespace) -> None:
    """``run``: prepare, then the cells of every experiment that was named, and their tables."""
    setup, grid = load_setup(arguments.recipes), grid_of(wanted(arguments), arguments, arguments.seeds)
    workdir = Path(load_recipe(arguments.recipes / setup.recipe, overrides(arguments)).workdir)
    with sole_writer(workdir, name=".running") as alone:
        if not alone:
            raise SaladError(f"experiments are run in {workdir} already", "wait for them, or set another workdir=...")
        prepare(overrides(arguments), arguments.recipes, grid.speech)
        try:
            run(grid, arguments.jobs, arguments.minutes)
        finally:
            gather(arguments)
            write_page(arguments.out, arguments.page, arguments.recipes)


def show(arguments: argparse.Namespace) -> None:
    """``list``: each cell, and whether it is done."""
    grid = grid_of(wanted(arguments), arguments, arguments.seeds)
    for cell in grid.cells:
        print(f"{status_of(grid, cell):18} {cell.experiment} {cell.name}")


def write(arguments: argparse.Namespace) -> None:
    """``page``: from the tables alone; with ``--collect`` the tables first, from the runs that lie here."""
    if arguments.collect:
        gather(arguments)
    write_page(arguments.out, arguments.page, arguments.recipes)
    print(arguments.page)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m salad_ds.evidence", description=__doc__)
    verbs = parser.add_subparsers(required=True)
    for name, action, told in (("prepare", lambda a: prepare(overrides(a), a.recipes), "what all experiments share"),
                               ("run", fill, "the cells that are not done"), ("list", show, "which cells are done"),
                               ("page", write, "docs/evidence.md")):  # fmt: skip
        verb = verbs.add_parser(name, help=told, description=action.__doc__)
        verb.set_defaults(action=action)
        verb.add_argument("words", nargs="*", metavar="EXPERIMENT | key=value",
                          help="files of recipes/evidence (default: all), and settings of every cell")
        verb.add_argument("--recipes", type=Path, default=DIRECTORY, help="directory of the experiments")
        verb.add_argument("--out", type=Path, default=OUT, help=f"tables and pictures (default: {OUT})")
        verb.add_argument("--page", type=Path, default=PAGE, help=f"default: {PAGE}")
        verb.add_argument("--seeds", type=int, nargs="+", help="these alone")
        verb.add_argument("--jobs", type=int, default=2, help="cells side by side, a core each (default: 2)")
        verb.add_argument("--minutes", type=float, default=0, help="stop after so many, with checkpoints (0: do not)")
        verb.add_argument("--collect", action="store_true", help="of page: read the runs first")
    arguments = parser.parse_args()
    try:
        arguments.action(arguments)
    except SaladError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.code)


if __name__ == "__main__":
    main()
