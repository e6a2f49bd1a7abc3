"""The prompt templates of templates.yaml, checked when they are loaded."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from salad_ds.errors import RecipeError
from salad_ds.evaluate.tasks.items import Template

PACKAGED = Path(__file__).with_name("templates.yaml")
TEXTS = ("before", "after", "between", "description", "source")


@functools.cache
def templates(path: Path = PACKAGED) -> dict[str, Template]:
    """``{name: template}``. Raises RecipeError for a file or a template that is not one."""
    try:
        loaded: Any = OmegaConf.to_container(OmegaConf.load(path))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read ({error.strerror})", "give the file of the templates") from None
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise RecipeError(f"{path} is no YAML ({' '.join(str(error).split())[:120]})", "mend the file") from None
    except Exception as error:  # the parser's own errors have no common base we want to depend on
        raise RecipeError(f"{path} is no YAML ({' '.join(str(error).split())[:120]})", "mend the file") from None
    if not isinstance(loaded, dict) or not loaded:
        raise RecipeError(f"{path} holds no templates", "write NAME: {version, before, after, between, ...}")
    return {str(name): template(str(name), entry, path) for name, entry in loaded.items()}


def template(name: str, entry: Any, path: Path) -> Template:
    """Raises RecipeError for an entry that is no template."""

    def refuse(why: str, mend: str = "mend the file") -> None:
        raise RecipeError(f"{path}: template {name!r} {why}", mend)

    if not isinstance(entry, dict) or set(entry) != {"version", *TEXTS}:
        got = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
        refuse(f"has {got}", f"give it version, {', '.join(TEXTS)}")
    if type(entry["version"]) is not int or entry["version"] < 1:
        refuse(f"has version {entry['version']!r}", "give it a whole number from 1")
    for text in TEXTS:
        if not isinstance(entry[text], str):
            refuse(f"has {text} {entry[text]!r}, which is no text")
    for text in ("before", "after"):
        if entry[text] != entry[text].rstrip(" "):
            refuse(f"has {text} {entry[text]!r}, which ends with a space", "the space belongs to the word that follows")
    if not entry["between"]:
        refuse("has nothing between examples", "separate them, as by two line breaks")
    if not entry["source"]:
        refuse("does not say whose it is", "name its source")
    return Template(name, **entry)


def find(name: str) -> Template:
    return templates()[name]
