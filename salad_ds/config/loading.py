"""A recipe's YAML and the overrides of a command line, merged and checked; a misspelt key is told its neighbour."""

from __future__ import annotations

import dataclasses
import difflib
import re
from pathlib import Path
from typing import get_args, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from salad_ds.config.checks import check
from salad_ds.config.recipe import Recipe
from salad_ds.errors import RecipeError


def load_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe and merge dotted overrides (``stages.stage1.steps=100``) into it.

    Raises RecipeError naming the key, and the nearest known one, for a typo; the expected type for a wrong value;
    every missing mandatory key.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(
            f"recipe {path} does not exist", "give the path of a YAML recipe, such as salad_ds/recipes/demo.yaml"
        )
    for text in overrides:
        if "=" not in text:
            raise RecipeError(f"override {text!r} has no '='", "write key.sub=value")
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(Recipe), OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides))
        )
        recipe = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        raise RecipeError(f"{path}: unknown key {error.full_key!r}", suggestion(str(error.full_key))) from None
    except MissingMandatoryValue as error:
        raise RecipeError(f"{path}: {error.full_key!r} has no value", "set it in the recipe") from None
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        named = f"{error.full_key}: " if error.full_key else ""
        raise RecipeError(f"{path}: {named}{reason}", "see the key in docs/reference.md") from None
    except Exception as error:  # YAML's own errors have no common base we want to depend on
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}", "mend the file") from None
    assert isinstance(recipe, Recipe)
    check(recipe, path)
    return recipe


def known_keys(settings: type = Recipe, prefix: str = "") -> list[str]:
    """Every dotted key a recipe may hold (names of stages and list indexes left out)."""
    keys = []
    for name, kind in get_type_hints(settings).items():
        keys.append(prefix + name)
        for inner in (kind, *get_args(kind)):
            if dataclasses.is_dataclass(inner) and isinstance(inner, type):
                keys += known_keys(inner, prefix + name + ".")
    return keys


def suggestion(key: str) -> str:
    bare = re.sub(r"\[\d+\]", "", key)
    bare = re.sub(r"^stages\.\w+\.", "stages.", bare)
    known = known_keys()
    near = difflib.get_close_matches(bare, known, n=1, cutoff=0.5)
    if not near and "." not in bare:  # of an item of a list, omegaconf names the last part alone
        lists = ("corpora.", "stages.sources.", "evaluate.tasks.", "measure.sets.")
        last = [name.rsplit(".", 1)[1] for name in known if name.startswith(lists)]
        near = difflib.get_close_matches(bare, last, n=1, cutoff=0.5)
    stage = re.match(r"stages\.\w+\.", key)
    if near and stage:
        near = [near[0].replace("stages.", stage.group(0), 1)]
    return f"did you mean {near[0]!r}?" if near else "see docs/reference.md for the keys"
