"""``salad-ds run``: the whole road of a recipe, station after station; what is done is left alone.

Training starts under the ``deepspeed`` launcher, with as many ranks as the stage asks for; the other stations run in this process.
``run.json`` keeps how long each took.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from salad_ds.config import Recipe
from salad_ds.errors import DataError, SaladError
from salad_ds.files import read_json, write_json
from salad_ds.progress import clock

Station = tuple[str, Callable[[], object]]


def run(recipe: Recipe, recipe_path: str, overrides: list[str]) -> None:
    """Every station that the recipe has settings for, in the order of the road, then the report."""
    journal = Journal(recipe)
    stations = list(road(recipe, recipe_path, overrides))
    began = time.monotonic()
    for number, (name, action) in enumerate(stations, 1):
        print(f"[{number}/{len(stations)}] {name}", file=sys.stderr, flush=True)
        with journal.timed(name):
            action()
        gc.collect()
    from salad_ds.measure.report import report, terminal_summary

    report(recipe)
    print(terminal_summary(recipe))
    print(f"salad-ds run took {clock(time.monotonic() - began)}")


def road(recipe: Recipe, recipe_path: str, overrides: list[str]) -> list[Station]:
    """The stations of this recipe. Heavy imports wait until a station runs."""

    def prepare() -> object:
        from salad_ds.data.prepare import prepare

        return prepare(recipe)

    def synthesize() -> object:
        from salad_ds.synth.synthesize import synthesize

        return synthesize(recipe)

    def align() -> object:
        from salad_ds.align.run import align

        return align(recipe)

    def precompute() -> object:
        from salad_ds.teacher.precompute import precompute

        return print(precompute(recipe))

    def measure(checkpoint: str) -> Callable[[], object]:
        def action() -> object:
            from salad_ds.measure.run import measure_checkpoint

            return measure_checkpoint(recipe, checkpoint)

        return action

    def evaluate(checkpoint: str) -> Callable[[], object]:
        def action() -> object:
            from salad_ds.measure.run import evaluate_checkpoint

            return evaluate_checkpoint(recipe, checkpoint)

        return action

    def select() -> object:
        from salad_ds.select.run import select, synthesize_selected

        select(recipe)
        return synthesize_selected(recipe)

    def train(stage: str) -> Callable[[], object]:
        return lambda: launch_training(recipe, recipe_path, overrides, stage)

    stations: list[Station] = [("prepare", prepare)] if recipe.corpora else []
    if recipe.synthesize.text:
        stations.append(("synthesize", synthesize))
    stations.append(("align", align))

    def examine(checkpoint: str) -> None:
        if recipe.measure.speech:
            stations.append((f"measure {checkpoint}", measure(checkpoint)))
        if recipe.evaluate.items:
            stations.append((f"evaluate {checkpoint}", evaluate(checkpoint)))

    examine("init")
    for name, stage in recipe.stages.items():
        if recipe.select.text and any(source.path.startswith(recipe.select.out + "/") for source in stage.sources):
            stations.append(("select", select))
        if recipe.teacher.mode == "store":
            stations.append((f"precompute {name}", precompute))
        stations.append((f"train {name}", train(name)))
        examine(name)
    return stations


def launch_training(recipe: Recipe, recipe_path: str, overrides: list[str], stage: str) -> None:
    """``deepspeed --num_gpus RANKS --module salad_ds train RECIPE --stage STAGE``; its output passes through.

    Raises SaladError when the job fails; the next call continues from its newest checkpoint.
    """
    launcher = Path(sys.executable).with_name("deepspeed")
    if not launcher.is_file():
        raise SaladError(f"there is no deepspeed launcher beside {sys.executable}", "install the package with its requirements: make setup")
    command = [sys.executable, str(launcher), "--num_gpus", str(recipe.stages[stage].ranks), "--master_port", str(free_port()),
               "--log_level", "warning", "--no_local_rank", "--module", "salad_ds", "train", recipe_path, *overrides, "--stage", stage]
    environment = dict(os.environ, PATH=f"{launcher.parent}{os.pathsep}{os.environ.get('PATH', '')}")
    import torch

    if not torch.cuda.is_available():
        environment["DS_ACCELERATOR"] = "cpu"
    if recipe.threads:
        environment["OMP_NUM_THREADS"] = str(recipe.threads)
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        raise SaladError(f"training of {stage} ended with exit code {done.returncode}", "see its last lines above; the same command goes on from the newest checkpoint")


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Journal:
    """``run.json``: seconds per station. A station that had nothing to do keeps the time it once took."""

    QUICK = 3.0

    def __init__(self, recipe: Recipe) -> None:
        self.path = recipe.path("run.json")
        try:
            self.rows: list[dict[str, object]] = read_json(self.path)["stages"]
        except (DataError, KeyError, TypeError):
            self.rows = []

    def timed(self, name: str) -> _Timer:
        return _Timer(self, name)

    def add(self, name: str, seconds: float) -> None:
        earlier = next((row for row in self.rows if row["stage"] == name), None)
        if earlier is None:
            self.rows.append({"stage": name, "seconds": round(seconds, 2), "skipped": False})
        elif seconds > self.QUICK or not earlier.get("skipped"):
            earlier["seconds"] = round(float(earlier["seconds"]) + seconds, 2)  # type: ignore[arg-type]
        write_json(self.path, {"schema": 1, "stages": self.rows})


class _Timer:
    def __init__(self, journal: Journal, name: str) -> None:
        self.journal, self.name = journal, name

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.journal.add(self.name, time.monotonic() - self.began)
