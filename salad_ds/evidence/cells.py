"""Running a grid: each cell is ``precompute``, ``train`` and ``measure`` in a work directory of its own.

What cells share lies in the recipe's work directory and is linked into each: texts, speech with its cached frames, the
teacher's store. A cell that is done has a ``result.json`` of the same recipe and shards and is not run again; one that
was stopped goes on at its newest checkpoint. Cells have one rank, so ``jobs`` of them run side by side: small models
fill no more than a core.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from salad_ds.config import Recipe, load_recipe, plain
from salad_ds.data.shards import ShardSet
from salad_ds.errors import RecipeError, SaladError, Stopped
from salad_ds.evidence.grid import Cell, overrides_of, recipe_of
from salad_ds.files import digest_of, read_json, write_json
from salad_ds.progress import clock
from salad_ds.train.stop import StopRequests

STAGE = "stage1"
SHARED = ("text", "speech", "teachers")
"""Directories of the shared work directory that every cell sees as its own."""
RESULT = "result.json"


@dataclass(frozen=True)
class Grid:
    """``recipe``: the file that all cells start from; ``shared``: overrides for all of them."""

    recipe: Path
    shared: list[str]
    cells: list[Cell]
    directory: str = "cells"

    def place(self, cell: Cell) -> Path:
        """The cell's work directory."""
        return self.root.path(self.directory) / cell.experiment / cell.name

    @property
    def root(self) -> Recipe:
        return load_recipe(self.recipe, self.shared)

    def recipe_of(self, cell: Cell) -> Recipe:
        return recipe_of(cell, self.recipe, self.shared, self.place(cell))

    def digest(self, cell: Cell) -> str:
        """Of all that its result depends on. Raises DataError where shared data are missing."""
        from salad_ds.train.loop import stage_digest

        self.link(cell)
        recipe = self.recipe_of(cell)
        measured = ShardSet.open(recipe.path(recipe.measure.speech)).identity()
        return digest_of([stage_digest(recipe, STAGE), plain(recipe.measure), measured])

    def link(self, cell: Cell) -> None:
        """Make the cell's directory, with links to what is shared."""
        place = self.place(cell)
        place.mkdir(parents=True, exist_ok=True)
        for name in SHARED:
            shared = self.root.path(name).absolute()
            shared.mkdir(parents=True, exist_ok=True)
            if not (place / name).is_symlink():
                (place / name).symlink_to(shared, target_is_directory=True)

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """What the cell came to; None if it is not done, or was done with other settings or data."""
        path = self.place(cell) / RESULT
        if not path.is_file():
            return None
        found = read_json(path)
        return found if found["digest"] == self.digest(cell) else None

    def commands(self, cell: Cell) -> Iterator[list[str]]:
        own = [str(self.recipe), *overrides_of(cell, self.shared, self.place(cell))]
        stage = self.recipe_of(cell).stages[STAGE]
        if stage.ranks != 1:
            raise RecipeError(f"stages.{STAGE}.ranks is {stage.ranks}: a cell has one rank", "run more cells: --jobs")
        if stage.alpha and self.recipe_of(cell).teacher.mode == "store":
            yield ["precompute", *own]
        yield ["train", *own, "--stage", STAGE]
        yield ["measure", *own, "--checkpoint", STAGE]


class Running:
    """A cell under way: its verbs, one process after another, with their output in ``log.txt``."""

    def __init__(self, grid: Grid, cell: Cell) -> None:
        self.cell, self.place, self.began = cell, grid.place(cell), time.monotonic()
        self.digest, self.commands = grid.digest(cell), deque(grid.commands(cell))
        self.log: IO[str] = open(self.place / "log.txt", "a", encoding="utf-8")
        self.threads = grid.recipe_of(cell).threads or 1
        self.job = self.start()

    def start(self) -> subprocess.Popen[str]:
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.threads))
        if not os.path.exists("/dev/nvidia0"):
            environment["DS_ACCELERATOR"] = "cpu"
        self.verb = self.commands[0][0]
        job = subprocess.Popen([sys.executable, "-m", "salad_ds", *self.commands.popleft()], text=True,
                               stdout=self.log, stderr=self.log, env=environment)  # fmt: skip
        if self.verb == "precompute":
            job.wait()  # cells share a store, which has one writer
        return job

    def ended(self) -> bool:
        """Whether the cell is done; starts its next verb where one has ended. Raises SaladError where one failed."""
        code = self.job.poll()
        if code is None:
            return False
        if code:
            self.log.close()
            kind = Stopped if code in (Stopped.code, -signal.SIGTERM) else SaladError
            raise kind(f"{self.cell.experiment} {self.cell.name}: {self.verb} ended with exit code {code}",
                       f"see {self.place / 'log.txt'}; the same command goes on where it stopped")  # fmt: skip
        if self.commands:
            self.job = self.start()
            return False
        self.log.close()
        told = read_json(self.place / f"measure/{STAGE}.json")
        words = self.place / f"measure/{STAGE}/words.json"
        path = self.place / RESULT
        write_json(path, {"schema": 1, "digest": self.digest, "experiment": self.cell.experiment,
                          "cell": self.cell.name, "levels": self.cell.levels, "seed": self.cell.seed,
                          "machine": machine(), "measured": {k: v for k, v in told.items() if k != "utterances"},
                          "words": read_json(words)["overall"]["word"] if words.is_file() else None})
        return True


def machine() -> dict[str, Any]:
    import torch

    return {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
            "torch": torch.__version__, "python": platform.python_version()}  # fmt: skip


def run(grid: Grid, jobs: int, minutes: float) -> int:
    """Run the cells that are not done, ``jobs`` at a time; returns how many were run to their end.

    After ``minutes`` (0: no limit), or when told to stop, the running ones are told to write a checkpoint, and Stopped
    is raised. Raises SaladError when a cell fails, once the others beside it have ended.
    """
    todo = deque(cell for cell in grid.cells if grid.result(cell) is None)
    total, began, running, failed = len(todo), time.monotonic(), list[Running](), list[SaladError]()
    done, end = 0, time.monotonic() + minutes * 60 if minutes else float("inf")
    print(f"{len(grid.cells) - total} of {len(grid.cells)} cells are done, {total} to run", flush=True)
    with StopRequests(signal.SIGINT, says="stopping; running cells write a checkpoint") as stop:
        while running or (todo and not failed):
            while todo and not failed and len(running) < jobs and not stop.asked:
                cell = todo.popleft()
                print(f"[{total - len(todo)}/{total}] {cell.experiment} {cell.name}", flush=True)
                running.append(Running(grid, cell))
            time.sleep(0.5)
            if stop.asked or time.monotonic() > end:
                stop_all(running)
                raise Stopped(f"stopped with {done} of {total} cells run", "the same command goes on where it stopped")
            for one in list(running):
                try:
                    if not one.ended():
                        continue
                    done += 1
                    spent, left = time.monotonic() - one.began, (time.monotonic() - began) / done * (total - done)
                    print(f"    {one.cell.experiment} {one.cell.name}: {told(grid, one.cell)}, {clock(spent)}; "
                          f"{clock(left)} left", flush=True)
                except SaladError as error:
                    failed.append(error)
                running.remove(one)
    if failed:
        raise failed[0]
    return done


def stop_all(running: list[Running]) -> None:
    for one in running:
        one.job.terminate()
    for one in running:
        one.job.wait()
        one.log.close()


def told(grid: Grid, cell: Cell) -> str:
    """The result in a line."""
    measured = read_json(grid.place(cell) / RESULT)["measured"]
    m, wrong = measured["misalignment"]["mean"], measured["misalignment_wrong_speech"]["mean"]
    below, f = 100 * (1 - m / wrong), measured["forgetting"]["mean"]
    return f"M {m:.3f}, wrong speech {wrong:.3f} ({below:.0f} % below), F {f:.3f}"
