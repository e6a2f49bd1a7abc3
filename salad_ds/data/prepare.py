"""``prepare``: write every corpus of a recipe as shards, by the file of data_prep that its ``kind`` names."""

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
from salad_ds.data.preparation import summary
from salad_ds.errors import RecipeError


def prepare(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Prepare the corpora that are not there yet; print what each holds. Returns ``{corpus.out: manifest}``.

    A corpus whose manifest says that it was made from the same source and settings is left as it is. Raises RecipeError
    for an unknown kind or two corpora in one place (before anything is written), DataError for a corpus that fails.
    """
    places: dict[Path, str] = {}
    for corpus in recipe.corpora:
        place = recipe.path(corpus.out)
        if place in places:
            raise RecipeError(f"two corpora have out {corpus.out!r}", "give each a directory of its own")
        places[place] = corpus.out
        settings_of(corpus)
    manifests = {}
    for corpus in recipe.corpora:
        manifests[corpus.out] = prepare_corpus(corpus, recipe.path(corpus.out), recipe.data.max_bad_share)
        print(summary(manifests[corpus.out], corpus.out), flush=True)
    return manifests


def prepare_corpus(corpus: CorpusConfig, directory: Path, max_bad_share: float) -> dict[str, Any]:
    from salad_ds.assets import resolve  # a recipe without packaged assets needs none of what they need

    settings = settings_of(corpus)
    source = str(resolve(corpus.source, f"corpora {corpus.out}"))
    return preparer(corpus.kind)(source, directory, max_bad_share=max_bad_share, **settings)


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

    Raises RecipeError for a setting that this kind does not have, if it is not at its default.
    """
    takes = inspect.signature(preparer(corpus.kind)).parameters
    settings = {}
    for item in dataclasses.fields(corpus):
        value = getattr(corpus, item.name)
        if item.name in ("kind", "source", "out"):
            continue
        if item.name in takes:
            settings[item.name] = value
        elif value != item.default:
            raise RecipeError(f"corpora {corpus.out}: kind {corpus.kind!r} has no {item.name}", f"remove {item.name}")
    return settings
