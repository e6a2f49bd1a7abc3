"""What all cells share: texts, the small LLM, speech, cached frames. Each is made where it is missing."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from pathlib import Path

from salad_ds.align.run import align_directory
from salad_ds.config import Recipe, load_recipe, plain
from salad_ds.data.prepare import prepare as prepare_texts
from salad_ds.encode import encode
from salad_ds.evidence.grid import DIRECTORY, STAGES, Setup, load_setup
from salad_ds.evidence.llm import Settings, train_llm
from salad_ds.evidence.silent import silence
from salad_ds.files import digest_of
from salad_ds.synth.synthesize import synthesize


def prepare(shared: list[str], recipes: Path = DIRECTORY, speech: Container[str] | None = None) -> Recipe:
    """Make it, in the work directory of the set-up's recipe with the overrides ``shared``; returns that recipe.
    ``speech``: the directories that are wanted (Grid.speech); None: all."""
    setup = load_setup(recipes) if speech is None else only(load_setup(recipes), speech)
    recipe = load_recipe(recipes / setup.recipe, shared)
    prepare_texts(recipe)
    own = Settings()
    settings = replace(own, **{name: type(getattr(own, name))(value) for name, value in setup.llm.items()})
    told = train_llm(recipe.path(setup.llm_texts), Path(recipe.model.llm), recipe.path(setup.llm_held), settings)
    print(f"{recipe.model.llm}: {told['parameters']:,} parameters, {told['held_nll']:.3f} nats per held-out token")
    speak(setup, shared, recipes)
    return recipe


def only(setup: Setup, speech: Container[str]) -> Setup:
    """What is needed for ``speech`` alone: these directories, and those of which silent ones are made."""
    silenced = {out: own for out, own in setup.silenced.items() if out in speech}

    def wanted(one: str) -> bool:
        return one in speech or one in silenced.values()

    return replace(setup, silenced=silenced, recorded=[one for one in setup.recorded if wanted(one)],
                   spoken={out: one for out, one in setup.spoken.items() if wanted(out)})


def speak(setup: Setup, shared: list[str], recipes: Path) -> None:
    """Speech of the texts, recordings aligned, copies without sound; then the frames of each whose settings read them
    from the cache."""
    made = {speech: load_recipe(recipes / setup.recipe, [*shared, *spoken.settings])
            for speech, spoken in setup.spoken.items()}  # fmt: skip
    for speech, recipe in made.items():
        text = setup.spoken[speech].text
        synthesize(replace(recipe, synthesize=replace(recipe.synthesize, text=text, out=speech)))
        align_directory(recipe.path(speech), recipe.align, recipe.data.max_bad_share)
    recipe = load_recipe(recipes / setup.recipe, shared)
    for speech in setup.recorded:
        align_directory(recipe.path(speech), recipe.align, recipe.data.max_bad_share)
    for out, speech in setup.silenced.items():
        silence(recipe.path(speech), recipe.path(out))
        if speech in made:
            made[out] = made[speech]
    cached = {speech: one.data for speech, one in made.items() if one.data.features == "cache"}
    for data in {digest_of(plain(data)): data for data in cached.values()}.values():
        encode_directories(replace(recipe, data=data), [speech for speech, own in cached.items() if own == data])


def encode_directories(recipe: Recipe, directories: list[str]) -> None:
    stage = recipe.stages[STAGES[0]]
    sources = [replace(stage.sources[0], path=path, kind="speech") for path in directories]
    encode(replace(recipe, stages={"all": replace(stage, sources=sources)}, measure=replace(recipe.measure, speech="")))
