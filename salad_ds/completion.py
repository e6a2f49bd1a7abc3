"""What could come next on a command line, for bash, zsh and fish: verbs, options, keys of a recipe and their values.

argcomplete asks: the shell runs ``salad-ds`` at every Tab, so nothing that takes time is imported here.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import argcomplete
import yaml

from salad_ds.config import CHOICES, Recipe

if TYPE_CHECKING:
    from salad_ds.cli import OneScreen

SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    """What a shell reads at its start to complete ``salad-ds``."""
    return str(argcomplete.shellcode(["salad-ds"], shell=shell))


def answer(top: OneScreen) -> None:
    """Give the shell its answer and end the process."""
    recipes, directories = argcomplete.FilesCompleter(["yaml", "yml"]), argcomplete.DirectoriesCompleter()
    for verb in top.verbs.values():
        for action in verb._actions:
            by_name = {"recipe": recipes, "overrides": overrides, "stage": stages, "out": directories,
                       "runs": directories, "checkpoint": checkpoints}  # fmt: skip
            if action.dest in by_name:
                action.completer = by_name[action.dest]  # type: ignore[attr-defined]
    InAnyOrder()(top, always_complete_options="long", default_completer=argcomplete.FilesCompleter())


class InAnyOrder(argcomplete.CompletionFinder):
    """Takes overrides behind options, as ``cli.parse`` does: options are moved before what is positional."""

    def _get_completions(self, comp_words: list[str], cword_prefix: str, *rest: Any) -> list[str]:
        verbs = getattr(self._parser, "verbs", {})
        if len(comp_words) > 2 and (own := verbs.get(comp_words[1])):
            takes_value = {name for action in own._actions if action.nargs != 0 for name in action.option_strings}
            options, others, words = [], [], iter(comp_words[2:])
            for word in words:
                if word.startswith("-"):
                    options.append(word)
                    if word in takes_value:
                        if (value := next(words, None)) is None:  # it is the value that is asked for
                            return list(super()._get_completions(comp_words, cword_prefix, *rest))
                        options.append(value)
                else:
                    others.append(word)
            comp_words[2:] = [*options, *others]
        return list(super()._get_completions(comp_words, cword_prefix, *rest))


def overrides(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """``key=`` of every key of the recipe, nested stages by the names that this recipe has; behind ``=`` its values."""
    key, equals, _value = prefix.partition("=")
    if equals:
        return [f"{key}={value}" for value in values(key)]
    names = stage_names(getattr(parsed_args, "recipe", None))
    return [f"{name}=" for name in keys(Recipe, names) if name.startswith(prefix)]


def keys(settings: type, stages: list[str], above: str = "") -> list[str]:
    """Every dotted key that can be given a value on a command line."""
    found = []
    for name, kind in get_type_hints(settings).items():
        inner = [one for one in get_args(kind) if isinstance(one, type) and dataclasses.is_dataclass(one)]
        if dataclasses.is_dataclass(kind):
            found += keys(kind, stages, f"{above}{name}.")  # type: ignore[arg-type]
        elif inner and name == "stages":
            found += [key for stage in stages for key in keys(inner[0], stages, f"stages.{stage}.")]
        else:
            found.append(above + name)
    return found


def values(key: str) -> list[str]:
    """What ``key`` may be set to, where that can be listed."""
    choices = {f"{section}.{name}": [str(value) for value in listed] for section, name, listed in CHOICES}
    if key in choices:
        return choices[key]
    parts = key.split(".")
    kind: Any = Recipe
    for part in parts:
        hints = get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        kind = hints.get(part, next((one for one in get_args(kind) if dataclasses.is_dataclass(one)), None))
    return ["true", "false"] if kind is bool else []


def stages(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    return stage_names(getattr(parsed_args, "recipe", None))


def checkpoints(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """``init``, the stages of the recipe, directories."""
    named = ["init", *stage_names(parsed_args.recipe)] if getattr(parsed_args, "recipe", None) else []
    return [*named, *argcomplete.DirectoriesCompleter()(prefix)]


def stage_names(recipe: str | None) -> list[str]:
    """Of a recipe; the usual ones where it cannot be read."""
    try:
        return [str(name) for name in yaml.safe_load(Path(str(recipe)).read_text(encoding="utf-8"))["stages"]]
    except (OSError, UnicodeError, yaml.YAMLError, KeyError, TypeError):
        return ["stage1", "stage2"]
