"""Which training stages the selection is for. Alone in its file: the road asks it before anything heavy is imported."""

from __future__ import annotations

from salad_ds.config import Recipe


def stages_on_selection(recipe: Recipe) -> list[str]:
    """The stages that train on the speech of the selection, in the recipe's order."""
    own = recipe.path(recipe.select.out) / "speech"
    return [name for name, stage in recipe.stages.items()
            if recipe.select.text and any(source.kind == "speech" and recipe.path(source.path) == own
                                          for source in stage.sources)]
