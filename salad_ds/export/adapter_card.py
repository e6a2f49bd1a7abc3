"""README.md of an adapter that was taken out of its student (``salad-ds export --adapter``)."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from salad_ds import __version__
from salad_ds.config import Recipe
from salad_ds.export.card import PAPER, data, made_of, measures, numbers_of, training
from salad_ds.files import write_text
from salad_ds.measure.artefacts import read_run
from salad_ds.model.salad import SaladConfig


def write_adapter_card(recipe: Recipe, stage: str, step: int | None, directory: Path, config: SaladConfig) -> None:
    """Into ``directory``: what it fits, how to begin with it, what was measured of the student that it was taken out
    of. ``config``: that student's; ``stage``: its stage ("": of none that the recipe knows), at ``step`` (None: its
    end)."""
    run = read_run(recipe)
    whole = recipe.path(stage) / "model"
    ended = stage in recipe.stages and step in (None, recipe.stages[stage].steps)
    measured, _, why = numbers_of(run, stage, whole if ended and whole.is_dir() else directory)
    if measured:
        why = "Measured with the whole student, in the precision in which it was trained."
    card = ModelCardData(tags=["salad", "speech", "salad_ds"], model_name=recipe.name)
    body = [introduction(recipe, stage, step), usage(recipe, config), measures(measured, recipe, why),
            why if measured else "", data(run, stage), training(run, stage), made_of(recipe)]  # fmt: skip
    text = f"---\n{card.to_yaml()}\n---\n\n" + "\n\n".join(part for part in body if part) + "\n"
    ModelCard(text)
    write_text(directory / "README.md", text)


def introduction(recipe: Recipe, stage: str, step: int | None) -> str:
    when = f"{stage or 'its training'}, step {step}" if step is not None else stage or "its training"
    frozen = untouched(recipe, stage)
    llm = "" if frozen is None else ", which was frozen" if frozen else ", which learnt with it and is not in here"
    return (f"# {recipe.name}\n\nThe causal adapter between the frozen speech encoder `{recipe.model.encoder.name}` "
            f"and the LLM `{recipe.model.llm}`{llm}; after {when}. Trained with salad_ds {__version__}, an "
            f"implementation of {PAPER}.")


def untouched(recipe: Recipe, stage: str) -> bool | None:
    """Whether no stage up to this one trained the LLM; None where that is not known."""
    while stage in recipe.stages:
        if recipe.stages[stage].lr_llm:
            return False
        begun = recipe.stages[stage].init_from
        if begun is None:
            return True
        stage = begun
    return None


def usage(recipe: Recipe, config: SaladConfig) -> str:
    assert config.encoder is not None and config.adapter is not None
    sizes = "\n".join(f"    {key}: {value}" for key, value in config.adapter.items() if key != "output_rms")
    encoder = {key: config.encoder.get(key, default) for key, default in
               (("kind", ""), ("name", ""), ("features", "latents"))}  # fmt: skip
    told = ", ".join(f'{key}: "{value}"' for key, value in encoder.items())
    return f"""## Use

A fresh student of an LLM of this width begins with it:

```yaml
model:
  llm: {recipe.model.llm}
  encoder: {{{told}}}
  adapter:
{sizes}
  adapter_weights: PATH_OF_THIS_DIRECTORY
data:
  span_encoding: {recipe.data.span_encoding}
```"""
