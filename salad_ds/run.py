"""``salad-ds run``: the whole road of a recipe, station after station; what is done is left alone.

Training starts under the ``deepspeed`` launcher, with as many ranks as the stage asks for; the other stations run in
this process. ``run.json`` keeps how long each took.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator

from salad_ds.config import Recipe
from salad_ds.files import read_json, write_json
from salad_ds.launch import launch
from salad_ds.progress import clock
from salad_ds.select.stages import stages_on_selection

IDLE = 5.0
"""Seconds: a station that was done before takes less."""

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
    from salad_ds.export.card import write_cards
    from salad_ds.measure.run import write_report

    write_report(recipe, track=journal.worked)
    write_cards(recipe)
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

    def encode() -> object:
        from salad_ds.encode import encode

        return encode(recipe)

    def precompute(stage: str) -> Callable[[], object]:
        return lambda: run_precompute(recipe, recipe_path, overrides, stage)

    def measure(checkpoint: str) -> Callable[[], object]:
        return lambda: run_measure(recipe, recipe_path, overrides, checkpoint)

    def evaluate(checkpoint: str) -> Callable[[], object]:
        return lambda: run_evaluate(recipe, recipe_path, overrides, checkpoint)

    def select() -> object:
        from salad_ds.select.run import select_and_speak

        select_and_speak(recipe)
        return clusters()

    def clusters() -> object:
        from salad_ds.select.after import finish

        return finish(recipe)

    def train(stage: str) -> Callable[[], object]:
        return lambda: launch_training(recipe, recipe_path, overrides, stage)

    stations: list[Station] = [("prepare", prepare)] if recipe.corpora else []
    if recipe.synthesize.text:
        stations.append(("synthesize", synthesize))
    stations.append(("align", align))
    if recipe.data.features == "cache":
        stations.append(("encode", encode))

    def examine(checkpoint: str) -> None:
        if recipe.measure.speech or recipe.measure.sets:
            stations.append((f"measure {checkpoint}", measure(checkpoint)))
        if recipe.evaluate.tasks or recipe.evaluate.echo:
            stations.append((f"evaluate {checkpoint}", evaluate(checkpoint)))

    examine("init")
    on_selection = stages_on_selection(recipe)
    for number, (name, stage) in enumerate(recipe.stages.items()):
        if name in on_selection:
            stations.append(("select", select))
        if recipe.data.features == "cache" and number:  # what was selected since
            stations.append((f"encode {name}", encode))
        if recipe.teacher.mode == "store" and stage.alpha > 0:
            stations.append((f"precompute {name}", precompute(name)))
        stations.append((f"train {name}", train(name)))
        examine(name)
        if name in on_selection:
            stations.append((f"clusters {name}", clusters))
    return stations


def run_precompute(recipe: Recipe, recipe_path: str, overrides: list[str], stage: str) -> None:
    """Fill the teacher store: on the stage's ranks if they have a GPU each or share a sharded teacher, else in this
    process, which then has all cores."""
    import torch

    ranks = recipe.stages[stage].ranks
    if ranks > 1 and (torch.cuda.is_available() or recipe.teacher.placement.startswith("sharded")):
        launch(recipe, ranks, f"precompute for {stage}", "precompute", recipe_path, *overrides)
        return
    from salad_ds.teacher.precompute import precompute

    precompute(recipe)


def run_measure(recipe: Recipe, recipe_path: str, overrides: list[str], checkpoint: str) -> None:
    """M, F and words of a checkpoint: on the ranks of its stage if they have a GPU each, else in this process."""
    if launch_examination(recipe, recipe_path, overrides, "measure", checkpoint):
        return
    from salad_ds.measure.run import measure_checkpoint

    measure_checkpoint(recipe, checkpoint)


def run_evaluate(recipe: Recipe, recipe_path: str, overrides: list[str], checkpoint: str) -> None:
    """Benchmarks of a checkpoint: on the ranks of its stage if they have a GPU each, else in this process."""
    if launch_examination(recipe, recipe_path, overrides, "evaluate", checkpoint):
        return
    from salad_ds.evaluate.verb import evaluate

    evaluate(recipe, checkpoint)


def launch_examination(recipe: Recipe, recipe_path: str, overrides: list[str], verb: str, checkpoint: str) -> bool:
    """The verb on the ranks of the checkpoint's stage (of the first one for ``init``), if they have a GPU each; False
    where they have not: then this process, which has all cores, is as good."""
    import torch

    stage = recipe.stages.get(checkpoint) or next(iter(recipe.stages.values()), None)
    if stage is None or stage.ranks < 2 or not torch.cuda.is_available():
        return False
    launch(recipe, stage.ranks, f"{verb} {checkpoint}", verb, recipe_path, *overrides, "--checkpoint", checkpoint)
    return True


def launch_training(recipe: Recipe, recipe_path: str, overrides: list[str], stage: str) -> None:
    """``salad-ds train RECIPE --stage STAGE`` on the stage's ranks.

    Raises SaladError when the job fails; the next call continues from its newest checkpoint.
    """
    from salad_ds.train.loop import already_done, stage_digest

    if already_done(recipe.path(stage), stage_digest(recipe, stage)):
        print(f"{stage}: done before, {recipe.path(stage) / 'model'}")
        return
    ranks = recipe.stages[stage].ranks
    launch(recipe, ranks, f"training of {stage}", "train", recipe_path, *overrides, "--stage", stage)


class Journal:
    """``run.json``: seconds per station over all calls. A call that finds its station done adds next to nothing."""

    def __init__(self, recipe: Recipe) -> None:
        self.path = recipe.path("run.json")
        self.seconds: dict[str, float] = {}
        self.worked = False
        """Whether any station of this call had something to do."""
        if self.path.is_file():
            self.seconds = {row["stage"]: row["seconds"] for row in read_json(self.path)["stages"]}

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began, before = time.monotonic(), self.seconds.get(name)
        try:
            yield
        finally:
            spent = time.monotonic() - began
            if before is None or spent > IDLE:
                self.worked = True
                self.seconds[name] = round((before or 0.0) + spent, 2)
            write_json(
                self.path, {"schema": 1, "stages": [{"stage": k, "seconds": v} for k, v in self.seconds.items()]}
            )
