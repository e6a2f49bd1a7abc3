"""docs/reference.md, made from the code: verbs and options from salad_ds/verbs/, exit codes from salad_ds/errors.py,
keys from the fields of salad_ds/config/ and the docstrings under them.

``python -m salad_ds.reference`` prints it, ``--write`` writes it into the repository, and the lines of code that
docs/guides/ link to. A test compares.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from salad_ds.cli import parser
from salad_ds.config import AT_LEAST_ONE, CHOICES, Recipe
from salad_ds.environment import VARIABLES
from salad_ds.errors import EXIT_CODES
from salad_ds.files import write_text
from salad_ds.verbs import VERBS

PAGE = Path(__file__).parents[1] / "docs/reference.md"
GUIDES = PAGE.with_name("guides")
HEAD = """# Reference: verbs, exit codes, environment, keys

Made by `python -m salad_ds.reference --write` from [`salad_ds/verbs`](../salad_ds/verbs),
[`salad_ds/config`](../salad_ds/config) and [`salad_ds/errors.py`](../salad_ds/errors.py): change those, not this page.
"""
COMMON = """Every verb has `--help` and `--debug` (shows the traceback of an error). Those that take a RECIPE take
`key=value` behind it, anywhere on the line, and `--dry-run`, which prints the recipe as the verb would see it, each
value with where it comes from (`default`, `FILE:LINE`, `command line`, `computed`), and touches nothing. Tab completes
verbs, options, keys and values: `eval "$(salad-ds completion bash)"` in `~/.bashrc`; `salad-ds completion --help` for
other shells.
"""
KEYS = """A recipe is a YAML file of these sections; `section.key=value` on the command line overrides it. What is
misspelt is an error that names the nearest key. `stages.NAME` stands for each stage by its name, `corpora[]` for each
item of a list. Numbers must not be negative; *≥ 1* is said where 0 makes no sense.
"""


def page() -> str:
    parts = [HEAD, "## Verbs\n", COMMON, *verbs(), "## Exit codes\n", exit_codes(), "## Environment\n", environment(),
             "## Keys of a recipe\n", KEYS]
    return "\n".join([*parts, *sections(Recipe, "")]).rstrip("\n") + "\n"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = [head, tuple("---" for _ in head), *[tuple(cell.replace("|", "\\|") for cell in row) for row in rows]]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n"


def verbs() -> Iterator[str]:
    """A heading, examples and options per verb."""
    for name, own in parser().verbs.items():
        verb = VERBS[name]
        usage = verb.usage or " ".join([f"salad-ds {name}", *(positional(action) for action in own._actions)])
        yield f"### `{' '.join(usage.split())}`\n"
        yield f"{verb.told[0].upper()}{verb.told[1:]}.\n"
        rows = [(spelt(action), meaning(action)) for action in own._actions if is_own(action)]
        if rows:
            yield table(("option", "meaning"), rows)
        yield "```bash\n" + "\n".join(f"salad-ds {name} {one}".rstrip() for one in verb.examples) + "\n```\n"


def is_own(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and action.dest not in ("help", "debug", "recipe", "overrides", "dry_run")


def positional(action: argparse.Action) -> str:
    if action.option_strings:
        return ""
    many = {"*": "[{} ...]", "+": "{} [...]", "?": "[{}]"}.get(str(action.nargs), "{}")
    return many.format({"recipe": "RECIPE"}.get(action.dest, str(action.metavar or action.dest.upper())))


def spelt(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    if not action.option_strings:
        return f"`{positional(action)}`"
    return ", ".join(f"`{option}{value}`" for option in action.option_strings)


def meaning(action: argparse.Action) -> str:
    choices = f" ({', '.join(f'`{choice}`' for choice in action.choices)})" if action.choices else ""
    return str(action.help) + choices + (" (required)" if action.required and action.option_strings else "")


def exit_codes() -> str:
    return table(("code", "means"), [(str(code), words) for code, words in EXIT_CODES.items()])


def environment() -> str:
    return table(("variable", "meaning"), [(f"`{name}`", text) for name, text in VARIABLES.items()])


def sections(settings: type, above: str) -> Iterator[str]:
    """A heading and a table for ``settings``, then for the sections within it."""
    documented, inner, rows = docstrings(settings), [], []
    choices = {f"{section}.{name}": listed for section, name, listed in CHOICES}
    for item in dataclasses.fields(settings):
        kind, key = get_type_hints(settings)[item.name], above + item.name
        within = section_of(kind)
        if within is not None:
            mark = {list: "[]", dict: ".NAME"}.get(get_origin(kind), "")
            inner.append((within, f"{key}{mark}."))
            if not documented.get(item.name) and not mark:
                continue
        unnamed = [one for one in choices.get(key, ()) if f"`{one}`" not in documented.get(item.name, "")]
        allowed = f" One of {', '.join(f'`{value}`' for value in choices[key])}." if unnamed else ""
        least = " *≥ 1*" if item.name in AT_LEAST_ONE and kind in (int, float, int | None) else ""
        words = documented.get(item.name, "") or (f"See `{inner[-1][1].rstrip('.')}`." if within is not None else "")
        rows.append((f"`{key}`", type_name(kind) + least, default_of(item), (words + allowed).strip()))
    if above:
        yield f"### `{above.rstrip('.')}`\n"
        if said := flat(settings.__doc__) if not (settings.__doc__ or "").startswith(settings.__name__ + "(") else "":
            yield f"{said}\n"
    if rows:
        yield table(("key", "type", "default", "meaning"), rows)
    for within, key in inner:
        yield from sections(within, key)


def section_of(kind: Any) -> type | None:
    """The settings class that ``kind`` is, or holds."""
    candidates = (one for one in (kind, *get_args(kind)) if inspect.isclass(one))
    return next((one for one in candidates if dataclasses.is_dataclass(one)), None)


def docstrings(settings: type) -> dict[str, str]:
    """The docstring under each field."""
    (tree,) = ast.parse(inspect.getsource(settings)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for item, following in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(following, ast.Expr):
            found[item.target.id] = flat(str(ast.literal_eval(following.value)))
    return found


def flat(text: str | None) -> str:
    """A docstring as one line of Markdown."""
    return re.sub(r"``(.+?)``", r"`\1`", " ".join((text or "").split()))


def type_name(kind: Any) -> str:
    names = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}
    if kind in names:
        return names[kind]
    inner = [one for one in get_args(kind) if one is not Any]
    if get_origin(kind) is list:
        return f"list of {'sections' if section_of(kind) else {str: 'texts'}.get(inner[0], type_name(inner[0]) + 's')}"
    if get_origin(kind) is dict:
        return "sections by name" if section_of(kind) else "settings by name"
    return " or ".join(type_name(one) for one in inner) if inner else "section"


def default_of(item: dataclasses.Field[Any]) -> str:
    if item.default is MISSING:
        return "**required**"
    value = item.default_factory() if callable(item.default_factory) else item.default
    if dataclasses.is_dataclass(value):
        return ""
    return f"`{json.dumps(value, ensure_ascii=False)}`" if value != "" else "empty"


def relinked(text: str, at: Path) -> str:
    """``text`` of a page that lies in ``at``, with the line of each definition that it links to: [`name`](file.py) or
    [`Class.method`](file.py#L12) becomes [`name`](file.py#L34). Raises KeyError for a name that the file does not
    define."""

    def link(found: re.Match[str]) -> str:
        name, path = found[1], found[2]
        return f"[`{name}`]({path}#L{definitions(at / path)[name]})"

    return re.sub(r"\[`([A-Za-z_][\w.]*)`\]\(([\w./-]+\.py)(?:#L\d+)?\)", lambda found: found[0]
                  if found[1].endswith(".py") else link(found), text)  # fmt: skip


def definitions(path: Path) -> dict[str, int]:
    """The line of each function, class and method of a file, the latter as ``Class.method``."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node.lineno
        if isinstance(node, ast.ClassDef):
            inner = (one for one in node.body if isinstance(one, ast.FunctionDef))
            found |= {f"{node.name}.{one.name}": one.lineno for one in inner}
    return found


def main(arguments: list[str] | None = None) -> int:
    own = argparse.ArgumentParser(prog="python -m salad_ds.reference", description="docs/reference.md, from the code")
    own.add_argument("--write", action="store_true", help="write it, and the lines that docs/guides/ link to")
    if own.parse_args(arguments).write:
        write_text(PAGE, page())
        for guide in sorted(GUIDES.glob("*.md")):
            write_text(guide, relinked(guide.read_text(encoding="utf-8"), guide.parent))
    else:
        print(page(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
