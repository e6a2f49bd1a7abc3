"""What all cells share: texts, the small LLM, speech, cached frames. Each is made where it is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from salad_ds.config import Recipe, load_recipe
from salad_ds.data.prepare import prepare as prepare_texts
from salad_ds.encode import encode
from salad_ds.evidence.grid import DIRECTORY, load_setup
from salad_ds.evidence.llm import Settings, train_llm
from salad_ds.evidence.silent import silence
from salad_ds.synth.synthesize import synthesize


def prepare(shared: list[str], recipes: Path = DIRECTORY) -> Recipe:
    """Make it, in the work directory of the set-up's recipe with the overrides ``shared``; returns that recipe."""
    setup = load_setup(recipes)
    recipe = load_recipe(recipes / setup.recipe, shared)
    prepare_texts(recipe)
    own = Settings()
    settings = replace(own, **{name: type(getattr(own, name))(value) for name, value in setup.llm.items()})
    told = train_llm(recipe.path(setup.llm_texts), Path(recipe.model.llm), recipe.path(setup.llm_held), settings)
    print(f"{recipe.model.llm}: {told['parameters']:,} parameters, {told['held_nll']:.3f} nats per held-out token")
    for speech, text in setup.spoken.items():
        synthesize(replace(recipe, synthesize=replace(recipe.synthesize, text=text, out=speech)))
    for out, speech in setup.silenced.items():
        silence(recipe.path(speech), recipe.path(out))
    if recipe.data.features == "cache":
        stage = next(iter(recipe.stages.values()))
        sources = [replace(stage.sources[0], path=path, kind="speech") for path in (*setup.spoken, *setup.silenced)]
        encode(replace(recipe, stages={"all": replace(stage, sources=sources)}))
    return recipe
