"""Which student a measurement is about, and its line in MLflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from salad_ds.config import Recipe
from salad_ds.errors import CheckpointError
from salad_ds.measure.benchmarks import evaluate
from salad_ds.measure.divergences import measure, weights_identity
from salad_ds.model.build import build_student
from salad_ds.model.salad import SaladForConditionalGeneration, load_student
from salad_ds.train.tracking import open_tracker

Loader = Callable[[], tuple[SaladForConditionalGeneration, PreTrainedTokenizerBase]]


def find_student(recipe: Recipe, checkpoint: str) -> tuple[str, Loader, str]:
    """(name, loader, identity of the weights) of ``init`` (before any training), a stage of the recipe, or a
    directory."""
    if checkpoint == "init":

        def fresh() -> tuple[SaladForConditionalGeneration, PreTrainedTokenizerBase]:
            model, tokenizer = build_student(recipe.model)
            return model.eval(), tokenizer

        return "init", fresh, f"init-{recipe.digest('model')}"
    directory = recipe.path(checkpoint) / "model" if checkpoint in recipe.stages else Path(checkpoint)
    if not directory.is_dir():
        raise CheckpointError(
            f"there is no student in {directory}",
            f"train it first: salad-ds train RECIPE --stage {checkpoint}"
            if checkpoint in recipe.stages
            else "give init, a stage of the recipe, or a directory",
        )
    name = checkpoint if checkpoint in recipe.stages else directory.name
    return name, lambda: load_student(str(directory)), weights_identity(directory)


def measure_checkpoint(recipe: Recipe, checkpoint: str) -> dict[str, Any]:
    """M, F and the controls of one student, printed, written to ``measure/<name>.json`` and tracked."""
    name, load, identity = find_student(recipe, checkpoint)
    with open_tracker(recipe, f"measure-{name}") as tracker:
        result = measure(recipe, name, load, identity)
        numbers = {
            key: result[key]["mean"]
            for key in (
                "misalignment",
                "misalignment_wrong_speech",
                "misalignment_silence",
                "forgetting",
                "distillation",
            )
        }
        tracker.metrics(numbers)
        tracker.artifact(recipe.path(f"measure/{name}.json"))
    print(
        f"{name}: "
        + ", ".join(f"{key} {value:.4f} ± {result[key]['se']:.4f}" for key, value in numbers.items())
        + f"  (nats per token, {result['items']} utterances)"
    )
    return result


def evaluate_checkpoint(recipe: Recipe, checkpoint: str) -> dict[str, Any]:
    """Accuracy of one student in text and speech, printed, written to ``evaluate/<name>.json`` and tracked."""
    name, load, identity = find_student(recipe, checkpoint)
    with open_tracker(recipe, f"evaluate-{name}") as tracker:
        result = evaluate(recipe, name, load, identity)
        tracker.metrics(
            {
                "text_accuracy": result["text"]["accuracy"],
                "speech_accuracy": result["speech"]["accuracy"],
                "gap": result["gap"]["mean"],
            }
        )
        tracker.artifact(recipe.path(f"evaluate/{name}.json"))
    print(
        f"{name}: text {result['text']['correct']}/{result['items']}, "
        f"speech {result['speech']['correct']}/{result['items']}, "
        f"gap {100 * result['gap']['mean']:.1f} points (chance {100 * result['chance']:.0f} %)"
    )
    return result


def write_report(recipe: Recipe, track: bool = True) -> None:
    """The page, its summary on the terminal, and (``track``) a copy of it in MLflow."""
    from salad_ds.measure.report import report, terminal_summary

    page = report(recipe)
    if track:
        with open_tracker(recipe, "report") as tracker:
            tracker.artifact(page)
            tracker.artifact(page.with_name("summary.json"))
    print(terminal_summary(recipe))
