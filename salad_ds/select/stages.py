"""Which training stages the selection is for. Light: the road asks it before anything heavy is imported."""

from __future__ import annotations

from salad_ds.config import Recipe


def stages_on_selection(recipe: Recipe) -> list[str]:
    """The stages that train on the speech of the selection, in the recipe's order."""
    own = recipe.path(recipe.select.out) / "speech"
    return [name for name, stage in recipe.stages.items()
            if recipe.select.text and any(source.kind == "speech" and recipe.path(source.path) == own
                                          for source in stage.sources)]


def precedes_selection(recipe: Recipe, checkpoint: str) -> bool:
    """Whether ``checkpoint``, init or a stage, comes before the stages that the selection is for."""
    order, own = ["init", *recipe.stages], stages_on_selection(recipe)
    return bool(own) and checkpoint in order and order.index(checkpoint) < order.index(own[0])
