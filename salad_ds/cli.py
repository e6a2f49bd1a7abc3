"""The command line: ``salad-ds VERB RECIPE [key=value ...]``. The verbs themselves are in salad_ds/verbs/."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn

from salad_ds import __version__
from salad_ds.config import load_recipe
from salad_ds.environment import hush, prepare_environment
from salad_ds.errors import FAULT, SaladError, in_words, keep_traceback
from salad_ds.launched import adopt_rank, exit_code
from salad_ds.verbs import BESIDE, ROAD, VERBS, Verb

HEAD = "Teach a text LLM to hear (SALAD, arXiv 2510.13632). The road, verbs resume:"
FOOT = """Begin: salad-ds run salad_ds/recipes/demo.yaml    VERB --help: options, examples
Every key of a recipe, every option, exit codes: docs/reference.md"""


class Parser(argparse.ArgumentParser):
    """Whose errors are one line and a mend, as all of ours."""

    def error(self, message: str) -> NoReturn:
        """Exit code 2."""
        mend = f"{self.prog} --help lists what there is, with examples"
        if wrong := re.search(r"argument VERB: invalid choice: '(.*?)'", message):
            message = f"there is no verb {wrong[1]!r}"
            near = difflib.get_close_matches(wrong[1], VERBS, n=1)
            mend = f"did you mean {near[0]!r}?" if near else mend
        if wrong := re.search(r"unrecognized arguments: (--[^ =]+)", message):
            near = difflib.get_close_matches(wrong[1], self._option_string_actions, n=1, cutoff=0.7)
            mend = f"did you mean {near[0]}?" if near else mend
        print(f"{self.prog}: {message}\n  mend: {mend}", file=sys.stderr)
        sys.exit(2)


class OneScreen(Parser):
    """``salad-ds --help``: every verb once, and no more lines than a terminal has."""

    verbs: dict[str, Parser]

    def format_help(self) -> str:
        road, beside = ("\n".join(f"  {verb.name:<12}{verb.told}" for verb in verbs) for verbs in (ROAD, BESIDE))
        return f"{HEAD}\n{road}\nBeside it:\n{beside}\n{FOOT}\n"


def parser() -> OneScreen:
    top = OneScreen(prog="salad-ds", usage="salad-ds VERB RECIPE [key=value ...]", add_help=False)
    top.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    top.add_argument("--version", action="version", version=f"salad-ds {__version__}", help=argparse.SUPPRESS)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", prog="salad-ds", parser_class=Parser)
    for verb in VERBS.values():
        own = verbs.add_parser(
            verb.name, help=verb.told, description=f"{verb.name}: {verb.told}", epilog=shown(verb),
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        add_verb(own, verb)
    top.verbs = dict(verbs.choices)
    return top


def add_verb(own: argparse.ArgumentParser, verb: Verb) -> None:
    own.usage = verb.usage or None
    if verb.recipe:
        own.add_argument("recipe", help="a YAML recipe, such as salad_ds/recipes/demo.yaml")
        own.add_argument(
            "overrides", nargs="*", default=[], metavar="key=value",
            help="settings of the recipe, such as stages.stage1.steps=20",
        )  # fmt: skip
        own.add_argument("--dry-run", action="store_true", help="only show the recipe, with where each value is from")
        own.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)  # some launchers pass it
    verb.options(own)
    own.add_argument("--debug", action="store_true", help="show the traceback of an error")


def shown(verb: Verb) -> str:
    lines = [f"  salad-ds {verb.name} {example}".rstrip() for example in verb.examples]
    return "\n".join(["examples:", *lines])


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """As ``parser`` has it, with overrides anywhere: argparse itself takes none behind an option."""
    top = parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what could come next; this call does not return
        from salad_ds.completion import answer

        answer(top)
    chosen, rest = top.parse_known_args(arguments)
    stray = [text for text in rest if text.startswith("-") or not hasattr(chosen, "overrides")]
    if stray:
        own = top.verbs[chosen.verb] if hasattr(chosen, "verb") else top
        own.error(f"unrecognized arguments: {' '.join(stray)}")
    if rest:
        chosen.overrides = [*chosen.overrides, *rest]
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Does what the command line says; returns one of errors.EXIT_CODES."""
    chosen = parse(arguments)
    verb = VERBS[chosen.verb]
    prepare_environment()
    if not chosen.debug:
        hush()
    try:
        adopt_rank()
        if verb.recipe and chosen.dry_run:
            from salad_ds.dry_run import dry_run

            dry_run(chosen, verb.swept)
            return 0
        return verb.run(chosen) or 0
    except SaladError as error:
        if chosen.debug:
            traceback.print_exc()
        complain(chosen.verb, error.what, error.mend)
        return exit_code(error.code)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # whoever presses it again does not want to wait
        print(f"\nsalad-ds {chosen.verb}: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `salad-ds doctor | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has no reader either
        return 141
    except Exception as error:  # a full disk, too little memory; else a defect of ours
        if chosen.debug:
            traceback.print_exc()
        what, mend = in_words(error)
        complain(chosen.verb, what, mend or keep_traceback(error, chosen.verb, workdir_of(chosen)))
        return SaladError.code if mend else FAULT


def workdir_of(chosen: argparse.Namespace) -> Path:
    """Where a cluster's user looks first; nothing is made for it."""
    with contextlib.suppress(Exception):  # the verb has no recipe, or it is the recipe that cannot be read
        return load_recipe(chosen.recipe, chosen.overrides).path(".")
    return Path(tempfile.gettempdir())


def complain(verb: str, what: str, mend: str) -> None:
    """One line, and one line that mends it, to standard error."""
    rank = os.environ.get("RANK", "0")
    where = f"salad-ds {verb}" + (f" (rank {rank})" if rank != "0" else "")
    print(f"{where}: {what}" + (f"\n  mend: {mend}" if mend else ""), file=sys.stderr)
