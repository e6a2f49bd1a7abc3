"""What a stage does not train (a learning rate of 0) and no checkpoint of it therefore holds: where it comes from, and
that it is still what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from salad_ds.config import Recipe, TrainConfig
from salad_ds.errors import CheckpointError
from salad_ds.files import digest_of
from salad_ds.measure.divergences import weights_identity
from salad_ds.model.adapter_weights import model_identity
from salad_ds.teacher.identity import teacher_identity

KEY = "frozen"
"""Of a checkpoint's mark, where something was frozen."""


def frozen_parts(stage: TrainConfig) -> list[str]:
    """Of "adapter" and "llm"."""
    return [part for part, rate in (("adapter", stage.lr_adapter), ("llm", stage.lr_llm)) if not rate]


def frozen_identity(recipe: Recipe, name: str) -> str:
    """A digest of the weights that stage ``name`` leaves as they are, "" for none: of the student that it starts from,
    or of the recipe's models. Raises CheckpointError where that student is not there."""
    stage = recipe.stages[name]
    parts = frozen_parts(stage)
    if not parts:
        return ""
    if stage.init_from is not None:
        earlier = recipe.path(stage.init_from) / "model" if stage.init_from in recipe.stages else Path(stage.init_from)
        return digest_of([parts, weights_identity(earlier)])
    llm = teacher_identity(recipe.model.llm)
    return digest_of([parts, llm, model_identity(recipe.model) if "adapter" in parts else ""])


def require_unchanged(checkpoint: Path, mark: dict[str, Any], frozen: str) -> None:
    """Raises CheckpointError where what was frozen when ``checkpoint`` was written is not ``frozen``, what it is now:
    the weights that were trained beside the one are of no use with the other."""
    if mark.get(KEY, frozen) != frozen:
        raise CheckpointError(f"{checkpoint} was trained beside frozen weights that are others now",
                              "bring back the student or LLM that the stage started from, or remove its checkpoints")
