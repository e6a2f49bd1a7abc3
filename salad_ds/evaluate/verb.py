"""``salad-ds evaluate``: the benchmarks of a recipe, then open-ended generation."""

from __future__ import annotations

from salad_ds.config import Recipe
from salad_ds.evaluate.echo import echo
from salad_ds.evaluate.run import evaluate_checkpoint


def evaluate(recipe: Recipe, checkpoint: str) -> None:
    """``evaluate.tasks``, and ``evaluate.echo`` utterances, of one checkpoint. Raises RecipeError where the recipe asks
    for neither."""
    if recipe.evaluate.tasks or not recipe.evaluate.echo:
        evaluate_checkpoint(recipe, checkpoint)
    if recipe.evaluate.echo:
        echo(recipe, checkpoint)
