"""Where each value of a recipe comes from: its default, a line of the recipe's file, or the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from salad_ds.config.recipe import Recipe, plain

DEFAULT, COMMAND_LINE = "default", "command line"
Keys = tuple[str | int, ...]
"""The way to a value: ``("stages", "stage1", "sources", 0, "kind")``."""


@dataclass(frozen=True)
class Value:
    """One leaf of a resolved recipe."""

    keys: Keys
    value: Any
    origin: str
    """DEFAULT, ``FILE:LINE`` or COMMAND_LINE."""


def values_of(recipe: Recipe, path: str | Path, overrides: Sequence[str] = ()) -> list[Value]:
    """Every leaf of ``recipe``, which was read from ``path`` with ``overrides``, in the order of the settings."""
    lines = {keys: f"{path}:{line}" for keys, line in lines_of(path).items()}
    told = {keys for keys, _ in leaves(OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides))))}
    items = [(keys, next((depth for depth, key in enumerate(keys) if isinstance(key, int)), 0)) for keys in told]
    lists = {keys[:depth] for keys, depth in items if depth}

    def origin(keys: Keys) -> str:
        if keys in told:
            return COMMAND_LINE
        if any(keys[: len(one)] == one for one in lists):  # a list is replaced whole, with defaults
            return DEFAULT
        return lines.get(keys, DEFAULT)

    return [Value(keys, value, origin(keys)) for keys, value in leaves(plain(recipe))]


def leaves(settings: Any, above: Keys = ()) -> list[tuple[Keys, Any]]:
    """The values below ``settings`` that have none below them; an empty section is one itself, and so is a list of
    plain values."""
    plain_list = isinstance(settings, list) and not any(isinstance(item, (dict, list)) for item in settings)
    if isinstance(settings, (dict, list)) and settings and not plain_list:
        inner = settings.items() if isinstance(settings, dict) else enumerate(settings)
        return [leaf for key, value in inner for leaf in leaves(value, (*above, key))]
    return [(above, settings)]


def lines_of(path: str | Path) -> dict[Keys, int]:
    """The line, from 1, on which the file sets each of its leaves."""
    root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    found: dict[Keys, int] = {}

    def walk(node: yaml.Node, above: Keys) -> None:
        if isinstance(node, yaml.MappingNode) and node.value:
            for key, value in node.value:
                walk(value, above if key.tag == "tag:yaml.org,2002:merge" else (*above, key.value))
        elif isinstance(node, yaml.SequenceNode) and any(not isinstance(one, yaml.ScalarNode) for one in node.value):
            for number, value in enumerate(node.value):
                walk(value, (*above, number))
        else:
            found[above] = node.start_mark.line + 1

    if root is not None:
        walk(root, ())
    return found
