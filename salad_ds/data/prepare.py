"""``prepare``: write every corpus of a recipe as shards, by the file of data_prep that its ``kind`` names.

Under a launcher each rank prepares its part of every corpus that can be divided.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from salad_ds.config import CorpusConfig, Recipe
from salad_ds.data.parts import Part, part_of, ranks
from salad_ds.data.preparation import summary
from salad_ds.errors import RecipeError


def prepare(recipe: Recipe, part: str = "") -> dict[str, dict[str, Any]]:
    """Prepare the corpora that are not there yet; print what each holds. Returns ``{corpus.out: manifest}``.

    ``part``: ``i/n``; ``auto`` (see parts.launched); by default this rank's, alone everything. A corpus that cannot be
    divided is left to the first. A corpus whose manifest says that it was made from the same source and settings is
    left as it is. Raises RecipeError for an unknown kind or setting or two corpora in one place (before anything is
    written), DataError for a corpus that fails.
    """
    own = part_of(part) if part else ranks()
    places: dict[Path, str] = {}
    for corpus in recipe.corpora:
        place = recipe.path(corpus.out)
        if place in places:
            raise RecipeError(f"two corpora have out {corpus.out!r}", "give each a directory of its own")
        places[place] = corpus.out
        settings_of(corpus)
    manifests = {}
    for corpus in recipe.corpora:
        if own.number and not can_divide(corpus):
            print(f"{corpus.out}: kind {corpus.kind!r} is not divided; part 0 prepares it", flush=True)
            continue
        manifests[corpus.out] = prepare_corpus(corpus, recipe.path(corpus.out), recipe.data.max_bad_share, own)
        print(summary(manifests[corpus.out], corpus.out), flush=True)
    return manifests


def prepare_corpus(corpus: CorpusConfig, directory: Path, max_bad_share: float, own: Part) -> dict[str, Any]:
    from salad_ds.assets import resolve  # a recipe without packaged assets needs none of what they need

    settings = settings_of(corpus)
    if can_divide(corpus):
        settings["part"] = "" if own.whole else str(own)
    source = str(resolve(corpus.source, f"corpora {corpus.out}"))
    return preparer(corpus.kind)(source, directory, max_bad_share=max_bad_share, **settings)


def can_divide(corpus: CorpusConfig) -> bool:
    return "part" in inspect.signature(preparer(corpus.kind)).parameters


def kinds() -> list[str]:
    """The corpora that data_prep knows."""
    import data_prep

    return sorted(module.name for module in pkgutil.iter_modules(data_prep.__path__))


def preparer(kind: str) -> Callable[..., dict[str, Any]]:
    if kind not in kinds():
        near = difflib.get_close_matches(kind, kinds(), n=1)
        raise RecipeError(f"corpora kind {kind!r} is not in data_prep",
                          f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(kinds())}")
    return getattr(importlib.import_module(f"data_prep.{kind}"), f"prepare_{kind}")


def settings_of(corpus: CorpusConfig) -> dict[str, Any]:
    """The corpus's settings as arguments of its prepare function.

    Raises RecipeError for a setting that this kind does not have, if it is not at its default, and for one of the wrong
    type.
    """
    takes = inspect.signature(preparer(corpus.kind), eval_str=True).parameters
    common = {item.name: item.default for item in dataclasses.fields(corpus)}
    settings = {}
    for name, default in common.items():
        value = getattr(corpus, name)
        if name in ("kind", "source", "out", "settings") or value is None:
            continue
        if name in takes:
            settings[name] = value
        elif value != default and name != "workers":  # a kind that needs no processes takes none
            raise RecipeError(f"corpora {corpus.out}: kind {corpus.kind!r} has no {name}", f"remove {name}")
    own = [name for name in list(takes)[2:] if name not in (*common, "part", "max_bad_share")]
    for name, value in corpus.settings.items():
        where = f"corpora {corpus.out}: settings.{name}"
        if name not in own:
            near = difflib.get_close_matches(name, own, n=1)
            mend = f"write it beside kind, not in settings: {name}" if name in common else \
                f"did you mean {near[0]!r}?" if near else f"kind {corpus.kind!r} has {', '.join(own) or 'none'}"
            raise RecipeError(f"{where} is no setting of kind {corpus.kind!r}", mend)
        settings[name] = checked(value, takes[name].annotation, where)
    return settings


def checked(value: Any, wanted: type, where: str) -> Any:
    """``value`` of the type that an argument's annotation names. Raises RecipeError."""
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(wanted, type) and (not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))):
        raise RecipeError(f"{where} is {value!r}, not of type {wanted.__name__}", "mend the recipe or the override")
    return value
