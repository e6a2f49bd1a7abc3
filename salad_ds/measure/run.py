"""Which student a measurement is about, and its line in MLflow."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from salad_ds.config import Recipe
from salad_ds.config.measure import MeasureSetConfig
from salad_ds.errors import CheckpointError
from salad_ds.files import digest_of
from salad_ds.measure.bench import Loader
from salad_ds.measure.divergences import weights_identity
from salad_ds.measure.groups import TABLES
from salad_ds.measure.sets import measure
from salad_ds.model.adapter_weights import model_identity
from salad_ds.model.build import build_student
from salad_ds.model.salad import SaladForConditionalGeneration, load_student
from salad_ds.select.stages import precedes_selection
from salad_ds.teacher.forward import default_device
from salad_ds.teacher.identity import teacher_identity
from salad_ds.train.tracking import open_tracker
from salad_ds.train.tracking import rank as tracking_rank


def find_student(recipe: Recipe, checkpoint: str) -> tuple[str, Loader, str]:
    """(name, loader, identity of the weights) of ``init`` (before any training), a stage of the recipe, or a directory.

    Results are kept under the name: a directory that is no stage's is called after itself, its parent and its weights,
    so that two students in directories called ``model`` do not overwrite each other's.
    """
    if checkpoint == "init":

        def fresh() -> tuple[SaladForConditionalGeneration, PreTrainedTokenizerBase]:
            model, tokenizer = build_student(recipe.model)
            return model.eval().to(default_device(local_rank())), tokenizer

        made_from = digest_of({"model": model_identity(recipe.model)})
        return "init", fresh, f"init-{made_from}-{teacher_identity(recipe.model.llm)}"
    directory = recipe.path(checkpoint) / "model" if checkpoint in recipe.stages else Path(checkpoint)
    if not directory.is_dir():
        raise CheckpointError(
            f"there is no student in {directory}",
            f"train it first: salad-ds train RECIPE --stage {checkpoint}"
            if checkpoint in recipe.stages
            else "give init, a stage of the recipe, or a directory",
        )
    identity = weights_identity(directory)
    place = directory.resolve()
    own = (stage for stage in recipe.stages if place == (recipe.path(stage) / "model").resolve())
    name = next(own, "-".join(filter(None, [place.parent.name, place.name, identity[:8]])))

    def saved() -> tuple[SaladForConditionalGeneration, PreTrainedTokenizerBase]:
        model, tokenizer = load_student(str(directory))
        return model.to(default_device(local_rank())), tokenizer

    return name, saved, identity


def local_rank() -> int:
    """Place of this process on its machine, under a launcher."""
    return int(os.environ.get("LOCAL_RANK", 0))


def measure_checkpoint(recipe: Recipe, checkpoint: str) -> dict[str, dict[str, Any]]:
    """M, F, the controls and the calibration of one student, on every corpus that the recipe names, and its prediction
    of words: written to ``measure/<name>.json`` and below ``measure/<name>/``, tracked, and printed. Returned by name.
    """
    name, load, identity = find_student(recipe, checkpoint)
    sets = recipe.measure.sets
    waiting = [one.name for one in sets if precedes_selection(recipe, name) and is_drawn_later(recipe, one)]
    if waiting and tracking_rank() == 0:
        print(f"{name}: {', '.join(waiting)} passed over: nothing is drawn yet")
    sets = [one for one in sets if one.name not in waiting]
    results = measure(replace(recipe, measure=replace(recipe.measure, sets=sets)), name, load, identity)
    if tracking_rank() == 0:
        for one, result in results.items():
            where = name if one == "speech" else f"{name}, {one}"
            print(f"{where}: {words_of(result) if one == 'words' else numbers_of(result.get('overall', result))}")
    return results


def is_drawn_later(recipe: Recipe, one: MeasureSetConfig) -> bool:
    """Whether a set is of what the selection draws, or told apart by it, and nothing is drawn yet."""
    selection = recipe.path(recipe.select.out)
    if one.by == "drawn" and not (selection / "selection" / TABLES["drawn"]).is_file():
        return True
    return recipe.path(one.path).is_relative_to(selection) and not recipe.path(one.path).exists()


def numbers_of(result: dict[str, Any]) -> str:
    """M, F, the controls and the calibration in a line."""
    shown = {"M": "misalignment", "wrong speech": "misalignment_wrong_speech", "silence": "misalignment_silence"}
    shown |= {"F": "forgetting", "L_DIST": "distillation"}
    shown |= {f"overconfidence {how}": f"overconfidence_{how}" for how in ("hearing", "reading")}
    numbers = ", ".join(f"{label} {result[key]['mean']:.4f} ± {result[key]['se']:.4f}" for label, key in shown.items())
    return f"{numbers}  (nats per text token, {result['items']} utterances)"


def words_of(result: dict[str, Any]) -> str:
    """The accuracy of the words behind a span, in a line."""
    shown = {"reading": "reading", "right": "hearing", "wrong": "other speech", "silence": "silence"}
    overall = result["overall"]
    numbers = ", ".join(f"{label} {100 * overall['word'][key]['mean']:.1f} ± {100 * overall['word'][key]['se']:.1f} %"
                        for key, label in shown.items())  # fmt: skip
    return f"{numbers} of {overall['words']} words behind {result['spans']} spans"


def write_report(recipe: Recipe, track: bool = True) -> None:
    """The page, its summary on the terminal, and (``track``) a copy of it in MLflow."""
    from salad_ds.measure.report import report, terminal_summary

    page = report(recipe)
    if track:
        with open_tracker(recipe, "report") as tracker:
            tracker.artifact(page)
            tracker.artifact(page.with_name("summary.json"))
    print(terminal_summary(recipe))
