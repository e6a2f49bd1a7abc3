"""Running a grid: each run is ``precompute``, ``train`` and ``measure`` in a work directory of its own, with ``select``
before them where it trains on what Stage II selects.

What runs share lies in the recipe's work directory and is linked into each: texts, speech with its cached frames, the
teacher's store. A run that is done has a ``result.json`` of the same recipe and shards and is not run again; one that
was stopped goes on at its newest checkpoint. A run has one rank, so ``jobs`` of them run side by side: small models
fill no more than a core.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Any

from salad_ds.config import Recipe, load_recipe, plain
from salad_ds.data.shards import ShardSet
from salad_ds.errors import RecipeError, SaladError, Stopped
from salad_ds.evidence.grid import STAGES, Cell, overrides_of, run_name
from salad_ds.files import digest_of, read_json, write_json
from salad_ds.measure.artefacts import machine
from salad_ds.measure.statistics import QUANTITIES
from salad_ds.progress import clock
from salad_ds.select.stages import stages_on_selection
from salad_ds.train.stop import StopRequests

SHARED = ("text", "speech", "teachers")
"""Directories of the shared work directory that every run sees as its own."""
RESULT = "result.json"


@dataclass(frozen=True)
class Grid:
    """``recipe``: the file that all cells start from; ``shared``: overrides for all of them."""

    recipe: Path
    shared: list[str]
    cells: list[Cell]
    directory: str = "cells"

    def place(self, cell: Cell) -> Path:
        """The work directory of the cell's run. Cells of the same settings have the same one."""
        return self.root.path(self.directory) / self.loaded(cell.overrides)[0]

    @cached_property
    def loaded(self) -> Callable[[tuple[str, ...]], tuple[str, Recipe]]:
        """Overrides of a cell → (name of its run, its recipe but for name and workdir). Recipes take long to load."""
        plainly = load_recipe(self.recipe)

        def load(own: tuple[str, ...]) -> tuple[str, Recipe]:
            recipe = load_recipe(self.recipe, [*self.shared, *own])
            return run_name(recipe, plainly), recipe

        return cache(load)

    def label(self, cell: Cell) -> Path:
        """A link to it that tells people what it is."""
        return self.root.path(self.directory) / cell.experiment / cell.name

    @cached_property
    def root(self) -> Recipe:
        """The recipe of what cells share."""
        return load_recipe(self.recipe, self.shared)

    @property
    def speech(self) -> set[str]:
        """The directories of speech that the cells are trained and measured on."""
        found = set[str]()
        for cell in self.cells:
            recipe = self.loaded(cell.overrides)[1]
            found |= {source.path for stage in recipe.stages.values() for source in stage.sources}
            found |= {recipe.measure.speech, *(one.path for one in recipe.measure.sets)}
        return found

    def recipe_of(self, cell: Cell) -> Recipe:
        return replace(self.loaded(cell.overrides)[1], workdir=str(self.place(cell)))

    def stage(self, cell: Cell) -> str:
        """What the run's own stage is called."""
        return STAGES[cell.first is not None]

    def digest(self, cell: Cell) -> str:
        """Of all that its result depends on. Raises DataError where shards are missing."""
        from salad_ds.train.loop import stage_digest

        self.link(cell)
        recipe = self.recipe_of(cell)
        measured = [ShardSet.open(recipe.path(one)).identity()
                    for one in (recipe.measure.speech, *(one.path for one in recipe.measure.sets))]
        return digest_of([stage_digest(recipe, self.stage(cell)), plain(recipe.measure), measured, list(QUANTITIES)])

    def link(self, cell: Cell) -> None:
        """Make the run's directory, with links to what is shared and to the student that it starts from."""
        place = self.place(cell)
        place.mkdir(parents=True, exist_ok=True)
        for name in SHARED:
            self.root.path(name).mkdir(parents=True, exist_ok=True)
            point(place / name, self.root.path(name))
        if cell.first:
            point(place / STAGES[0], self.place(cell.first) / STAGES[0])
        self.label(cell).parent.mkdir(parents=True, exist_ok=True)
        point(self.label(cell), place)

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """What the run came to; None if it is not done, or was done with other settings or data."""
        path = self.place(cell) / RESULT
        if not path.is_file():
            return None
        found = read_json(path)
        return found if found["digest"] == self.digest(cell) else None

    def commands(self, cell: Cell) -> Iterator[list[str]]:
        """The run's verbs."""
        recipe, name = self.recipe_of(cell), self.stage(cell)
        own, stage = [str(self.recipe), *overrides_of(cell, self.shared, self.place(cell))], recipe.stages[name]
        if stage.ranks != 1:
            raise RecipeError(f"stages.{name}.ranks is {stage.ranks}: a run has one rank", "run more of them: --jobs")
        if name in stages_on_selection(recipe):
            yield ["select", *own]
            if recipe.data.features == "cache":
                yield ["encode", *own]
        if stage.alpha and recipe.teacher.mode == "store":
            yield ["precompute", *own]
        yield ["train", *own, "--stage", name]
        yield ["measure", *own, "--checkpoint", name]


def point(link: Path, target: Path) -> None:
    """Let ``link`` lead to ``target``, also where the work directory was moved since it did."""
    if link.is_symlink() and link.readlink() != target.absolute():
        link.unlink()
    if not link.is_symlink():
        link.symlink_to(target.absolute(), target_is_directory=True)


class Running:
    """A run under way: its verbs, one process after another, with their output in ``log.txt``."""

    def __init__(self, grid: Grid, cell: Cell) -> None:
        self.grid, self.cell, self.place, self.began = grid, cell, grid.place(cell), time.monotonic()
        grid.link(cell)
        self.commands = deque(grid.commands(cell))
        self.threads = grid.recipe_of(cell).threads or 1
        self.verb = ""
        self.job: subprocess.Popen[str] | None = None
        self.log: IO[str] = open(self.place / "log.txt", "a", encoding="utf-8")

    def start(self) -> None:
        """The next verb."""
        command = self.commands.popleft()
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.threads))
        self.verb = command[0]
        self.job = subprocess.Popen([sys.executable, "-m", "salad_ds", *command], text=True, stdout=self.log,
                                    stderr=self.log, env=environment)  # fmt: skip

    @property
    def fills_store(self) -> bool:
        return self.verb == "precompute" and self.job is not None and self.job.poll() is None

    def ended(self, filled: bool) -> bool:
        """Whether the run is done; starts its next verb where one has ended. ``filled``: whether another run is filling
        the teacher's store, which they share and which has one writer. Raises SaladError where a verb failed."""
        code = 0 if self.job is None else self.job.poll()
        if code is None:
            return False
        if code:
            self.log.close()
            kind = Stopped if code in (Stopped.code, -signal.SIGTERM) else SaladError
            raise kind(f"{self.cell.experiment} {self.cell.name}: {self.verb} ended with exit code {code}",
                       f"see {self.place / 'log.txt'}; the same command goes on where it stopped")  # fmt: skip
        if self.commands:
            if not (filled and self.commands[0][0] == "precompute"):
                self.start()
            return False
        self.log.close()
        write_json(self.place / RESULT, self.result())
        return True

    def stop(self) -> None:
        """Tell it to write a checkpoint and end."""
        if self.job is not None:
            self.job.terminate()

    def wait(self) -> None:
        if self.job is not None:
            self.job.wait()
        self.log.close()

    def result(self) -> dict[str, Any]:
        stage, cell = self.grid.stage(self.cell), self.cell
        about = self.place / f"measure/{stage}"
        sets = {one.name: read_json(about / f"{one.name}.json") for one in self.grid.recipe_of(cell).measure.sets}
        main = read_json(self.place / f"measure/{stage}.json")
        words = about / "words.json"
        return {"schema": 1, "digest": self.grid.digest(cell), "experiment": cell.experiment, "cell": cell.name,
                "levels": cell.levels, "seed": cell.seed, "machine": machine(),
                "measured": {key: value for key, value in main.items() if key != "utterances"},
                "sets": {name: {"overall": one["overall"], "groups": one["groups"]} for name, one in sets.items()},
                "words": read_json(words)["overall"]["word"] if words.is_file() else None}  # fmt: skip


def run(grid: Grid, jobs: int, minutes: float) -> int:
    """Run the cells that are not done, and before them those that they start from, ``jobs`` at a time; returns how many
    were run to their end.

    After ``minutes`` (0: no limit), or when told to stop, the running ones are told to write a checkpoint, and Stopped
    is raised. Raises SaladError when a run fails, once the others beside it have ended.
    """
    todo = missing(grid)
    total, began, running, failed = len(todo), time.monotonic(), list[Running](), list[SaladError]()
    done, end = 0, time.monotonic() + minutes * 60 if minutes else float("inf")
    print(f"{sum(grid.result(cell) is not None for cell in grid.cells)} of {len(grid.cells)} cells are done, "
          f"{total} runs to do", flush=True)
    with StopRequests(signal.SIGINT, says="stopping; running cells write a checkpoint") as stop:
        try:
            while running or (todo and not failed):
                while len(running) < jobs and not (stop.asked or failed):
                    cell = startable(grid, todo, running)
                    if cell is None:
                        break
                    todo.remove(cell)
                    print(f"[{total - len(todo)}/{total}] {cell.experiment} {cell.name}", flush=True)
                    running.append(Running(grid, cell))
                time.sleep(0.5)
                if stop.asked or time.monotonic() > end:
                    raise Stopped(f"stopped with {done} of {total} runs done",
                                  "the same command goes on where it stopped")
                for one in list(running):
                    try:
                        if not one.ended(any(other.fills_store for other in running if other is not one)):
                            continue
                        done, now = done + 1, time.monotonic()
                        left = (now - began) / done * (total - done)
                        print(f"    {one.cell.experiment} {one.cell.name}: {in_a_line(grid, one.cell)}, "
                              f"{clock(now - one.began)}; {clock(left)} left", flush=True)
                    except SaladError as error:
                        failed.append(error)
                    running.remove(one)
        finally:  # nothing runs on unseen, whatever ended this
            stop_all(running)
    if failed:
        raise failed[0]
    return done


def missing(grid: Grid) -> list[Cell]:
    """The cells that are not done, in their order; each has what it starts from before it."""
    wanted = {grid.place(cell): cell for own in grid.cells for cell in (own.first, own) if cell}
    return [cell for cell in wanted.values() if grid.result(cell) is None]


def startable(grid: Grid, todo: list[Cell], running: list[Running]) -> Cell | None:
    """The next cell whose first stage is done."""
    awaited = {grid.place(cell) for cell in (*todo, *(one.cell for one in running))}
    return next((cell for cell in todo if cell.first is None or grid.place(cell.first) not in awaited), None)


def stop_all(running: list[Running]) -> None:
    for one in running:
        one.stop()
    for one in running:
        one.wait()


def in_a_line(grid: Grid, cell: Cell) -> str:
    """The result in a line."""
    measured = read_json(grid.place(cell) / RESULT)["measured"]
    m, wrong = measured["misalignment"]["mean"], measured["misalignment_wrong_speech"]["mean"]
    below, f = 100 * (1 - m / wrong), measured["forgetting"]["mean"]
    return f"M {m:.3f}, wrong speech {wrong:.3f} ({below:.0f} % below), F {f:.3f}"
