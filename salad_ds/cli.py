"""The command line: one verb, one function, no logic. ``salad-ds VERB RECIPE [key=value ...]``."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable

from salad_ds import __version__
from salad_ds.config import Recipe, load_recipe
from salad_ds.environment import hush, prepare_environment
from salad_ds.errors import SaladError

ROAD = """the road, in order (each verb resumes, and leaves alone what is done):
  prepare      corpora → speech and text shards
  synthesize   text shards → speech shards with word times
  align        speech shards → word times
  precompute   the teacher reads every text once → teacher store
  train        --stage stage1: a student under DeepSpeed; start it with `deepspeed --module salad_ds train ...`
  measure      --checkpoint init|stage1|...: misalignment M, forgetting F and their controls
  evaluate     --checkpoint init|stage1|...: multiple choice, in text and in speech
  select       clusters, their M, and the texts that Stage II synthesises
  report       one page about everything that was measured
  run          all of it
beside it:
  generate     what a student says after hearing a clip
  lint         check shards, word times and teacher store of a recipe
  doctor       what this machine can do, and how to mend what is missing
"""

CheckedVerb = Callable[[Recipe, argparse.Namespace], object]


def prepare(recipe: Recipe, _: argparse.Namespace) -> None:
    from salad_ds.data.prepare import prepare

    prepare(recipe)


def synthesize(recipe: Recipe, _: argparse.Namespace) -> None:
    from salad_ds.synth.synthesize import synthesize

    synthesize(recipe)


def align(recipe: Recipe, _: argparse.Namespace) -> None:
    from salad_ds.align.run import align

    align(recipe)


def precompute(recipe: Recipe, _: argparse.Namespace) -> None:
    from salad_ds.teacher.precompute import precompute

    precompute(recipe)


def train(recipe: Recipe, arguments: argparse.Namespace) -> None:
    from salad_ds.train.loop import train

    train(recipe, arguments.stage)


def measure(recipe: Recipe, arguments: argparse.Namespace) -> None:
    from salad_ds.measure.run import measure_checkpoint

    measure_checkpoint(recipe, arguments.checkpoint)


def evaluate(recipe: Recipe, arguments: argparse.Namespace) -> None:
    from salad_ds.measure.run import evaluate_checkpoint

    evaluate_checkpoint(recipe, arguments.checkpoint)


def select(recipe: Recipe, _: argparse.Namespace) -> None:
    from salad_ds.select.run import select, synthesize_selected

    select(recipe)
    synthesize_selected(recipe)


def report(recipe: Recipe, _: argparse.Namespace) -> None:
    from salad_ds.measure.run import write_report

    write_report(recipe)


def lint(recipe: Recipe, _: argparse.Namespace) -> None:
    from salad_ds.lint import lint

    lint(recipe)


def run(recipe: Recipe, arguments: argparse.Namespace) -> None:
    from salad_ds.run import run

    run(recipe, arguments.recipe, arguments.overrides)


VERBS: dict[str, tuple[CheckedVerb, str]] = {
    "prepare": (prepare, "corpora → shards"),
    "synthesize": (synthesize, "text shards → speech shards"),
    "align": (align, "word times"),
    "precompute": (precompute, "teacher store"),
    "train": (train, "one training stage"),
    "measure": (measure, "M, F and controls"),
    "evaluate": (evaluate, "text against speech"),
    "select": (select, "Stage II: clusters, probes, selected speech"),
    "report": (report, "the page"),
    "lint": (lint, "check what was made"),
    "run": (run, "the whole road"),
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="salad-ds",
        description="Teach a text LLM to hear (SALAD, arXiv 2510.13632).",
        epilog=ROAD,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"salad-ds {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    for name, (_, told) in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=told,
            description=told,
            epilog=f"example: salad-ds {name} salad_ds/recipes/demo.yaml workdir=runs/mine",
        )
        verb.add_argument("recipe", help="a YAML recipe, such as salad_ds/recipes/demo.yaml")
        verb.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides of the recipe")
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
        verb.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)  # some launchers pass it
        if name == "train":
            verb.add_argument("--stage", default="stage1", help="which of the recipe's stages (default: stage1)")
        if name in ("measure", "evaluate"):
            verb.add_argument("--checkpoint", default="stage1", help="init, a stage of the recipe, or a directory")
    verb = verbs.add_parser(
        "generate",
        help="hear a clip, answer in text",
        epilog="example: salad-ds generate --checkpoint runs/demo/stage1/model --audio x.wav --text ' The word is'",
    )
    verb.add_argument("--checkpoint", required=True, help="directory of a saved student")
    verb.add_argument("--audio", action="append", default=[], help="an audio file; may be given several times")
    verb.add_argument(
        "--text", default="", help="text around the clips, <|audio|> for each; without a mark the clips come first"
    )
    verb.add_argument("--max-new-tokens", type=int, default=40)
    verb.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verb = verbs.add_parser("doctor", help="what this machine can do")
    verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 an error that was named, 2 wrong usage, 130 interrupted."""
    chosen = parser().parse_args(arguments)
    prepare_environment()
    if not chosen.debug:
        hush()
    try:
        if chosen.verb == "doctor":
            from salad_ds.doctor import run as examine

            return 0 if examine(sys.stdout) else 1
        if chosen.verb == "generate":
            from salad_ds.generate import generate

            print(generate(chosen.checkpoint, chosen.audio, chosen.text, chosen.max_new_tokens, chosen.temperature))
            return 0
        recipe = load_recipe(chosen.recipe, chosen.overrides)
        VERBS[chosen.verb][0](recipe, chosen)
        return 0
    except SaladError as error:
        if chosen.debug:
            traceback.print_exc()
        rank = os.environ.get("RANK", "0")
        where = f"salad-ds {chosen.verb}" + (f" (rank {rank})" if rank != "0" else "")
        print(f"{where}: {error.what}" + (f"\n  mend: {error.mend}" if error.mend else ""), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nsalad-ds {chosen.verb}: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
