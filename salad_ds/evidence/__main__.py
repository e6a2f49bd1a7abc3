"""``python -m salad_ds.evidence``: prepare what the experiments share, fill their grids, write the page."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from salad_ds.errors import SaladError
from salad_ds.evidence.cells import Grid, run
from salad_ds.evidence.collect import collect
from salad_ds.evidence.grid import DIRECTORY, cells, experiments, load_experiment, load_setup
from salad_ds.evidence.page import write_page
from salad_ds.evidence.prepare import prepare

OUT, PAGE = Path("docs/evidence"), Path("docs/evidence.md")


def grid_of(name: str, arguments: argparse.Namespace) -> Grid:
    experiment, setup = load_experiment(name, arguments.recipes), load_setup(arguments.recipes)
    chosen = experiment if arguments.seeds is None else replace(experiment, seeds=arguments.seeds)
    return Grid(arguments.recipes / setup.recipe, arguments.overrides, cells(name, chosen), setup.cells)


def wanted(arguments: argparse.Namespace) -> list[str]:
    """The experiments that were named; all that can be run here where none was."""
    every = experiments(arguments.recipes)
    return [arguments.experiment] if arguments.experiment != "all" else [
        name for name in every if not load_experiment(name, arguments.recipes).needs]


def fill(arguments: argparse.Namespace) -> None:
    """``run``: prepare, then the cells of every experiment that was named; the tables follow each experiment."""
    prepare(arguments.overrides, arguments.recipes)
    for name in wanted(arguments):
        grid = grid_of(name, arguments)
        try:
            run(grid, arguments.jobs, arguments.minutes)
        finally:
            if arguments.seeds is None:  # else lines of other seeds would be lost
                collect(grid, name, arguments.out)
    write_page(arguments.out, arguments.page, arguments.recipes)


def show(arguments: argparse.Namespace) -> None:
    """``list``: each cell, and whether it is done."""
    for name in wanted(arguments):
        grid = grid_of(name, arguments)
        for cell in grid.cells:
            print(f"{'done' if grid.result(cell) else 'not run':8} {name} {cell.name}")


def write(arguments: argparse.Namespace) -> None:
    """``page``: from the tables alone; with ``--collect`` the tables first, from the runs that lie here."""
    for name in wanted(arguments) if arguments.collect else ():
        collect(grid_of(name, arguments), name, arguments.out)
    write_page(arguments.out, arguments.page, arguments.recipes)
    print(arguments.page)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m salad_ds.evidence", description=__doc__)
    verbs = parser.add_subparsers(required=True)
    for name, action, told in (("prepare", lambda a: prepare(a.overrides, a.recipes), "what all experiments share"),
                               ("run", fill, "the cells that are not done"), ("list", show, "which cells are done"),
                               ("page", write, "docs/evidence.md")):  # fmt: skip
        verb = verbs.add_parser(name, help=told, description=action.__doc__)
        verb.set_defaults(action=action)
        if name != "prepare":
            verb.add_argument("experiment", nargs="?", default="all", help="a file of recipes/evidence; default: all")
        verb.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="settings of every cell")
        verb.add_argument("--recipes", type=Path, default=DIRECTORY, help="directory of the experiments")
        verb.add_argument("--out", type=Path, default=OUT, help=f"tables and pictures (default: {OUT})")
        verb.add_argument("--page", type=Path, default=PAGE, help=f"default: {PAGE}")
        verb.add_argument("--seeds", type=int, nargs="+", help="these alone (then no table is written)")
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
