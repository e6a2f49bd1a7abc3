"""The command line: one verb, one function, no logic. ``salad-ds VERB RECIPE [key=value ...]``."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable

from salad_ds import __version__
from salad_ds.config import Recipe, load_recipe
from salad_ds.data.storage import use
from salad_ds.environment import hush, prepare_environment
from salad_ds.errors import SaladError

CheckedVerb = Callable[[Recipe, argparse.Namespace], object]


def prepare(recipe: Recipe, arguments: argparse.Namespace) -> None:
    from salad_ds.data.prepare import prepare

    prepare(recipe, arguments.part)


def synthesize(recipe: Recipe, _: argparse.Namespace) -> None:
    from salad_ds.synth.synthesize import synthesize

    synthesize(recipe)


def align(recipe: Recipe, arguments: argparse.Namespace) -> None:
    from salad_ds.align.run import align

    align(recipe, arguments.part)


def encode(recipe: Recipe, _: argparse.Namespace) -> None:
    from salad_ds.encode import encode

    encode(recipe)


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
    from salad_ds.select.run import select_and_speak

    select_and_speak(recipe)


def report(recipe: Recipe, _: argparse.Namespace) -> None:
    from salad_ds.measure.run import write_report

    write_report(recipe)


def lint(recipe: Recipe, arguments: argparse.Namespace) -> None:
    from salad_ds.lint import lint

    lint(recipe, max_bad_share=arguments.max_bad_share, listing=arguments.list)


def run(recipe: Recipe, arguments: argparse.Namespace) -> None:
    from salad_ds.run import run

    run(recipe, arguments.recipe, arguments.overrides)


VERBS: dict[str, tuple[CheckedVerb, str]] = {
    "run": (run, "all of it, in this order"),
    "prepare": (prepare, "corpora → shards of speech and text"),
    "synthesize": (synthesize, "shards of text → shards of speech with word times"),
    "align": (align, "shards of speech → word times"),
    "encode": (encode, "recordings → frames of the speech encoder, to train without audio"),
    "precompute": (precompute, "what the teacher says about every text → teacher store"),
    "train": (train, "one stage of training (--stage); for several GPUs see launchers/"),
    "measure": (measure, "misalignment M and forgetting F of a student (--checkpoint)"),
    "evaluate": (evaluate, "its accuracy in multiple choice, read and heard (--checkpoint)"),
    "select": (select, "Stage II: clusters, their M, texts drawn from them and spoken"),
    "report": (report, "one page about everything that was measured"),
    "lint": (lint, "check shards, sidecars, teacher store; or any SHARDS"),
}
"""Verbs that take a recipe, in the order of the road; ``lint`` stands beside it."""

BESIDE = {
    "lint": VERBS["lint"][1],
    "generate": "what a student says after hearing a clip",
    "doctor": "what this machine can do, and how to mend what is missing",
}


HEAD = """Teach a text LLM to hear (SALAD, arXiv 2510.13632). Verbs resume. In order:
"""


def listing() -> str:
    """The verbs for ``--help``, each once."""
    road = [f"  {name:<12}{told}" for name, (_, told) in VERBS.items() if name not in BESIDE]
    beside = [f"  {name:<12}{told}" for name, told in BESIDE.items()]
    return "\n".join([*road, "beside it:", *beside])


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="salad-ds",
        usage="salad-ds VERB RECIPE [key=value ...]",
        description=HEAD + listing(),
        epilog="More: salad-ds VERB --help. To begin: salad-ds run salad_ds/recipes/demo.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"salad-ds {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", help=argparse.SUPPRESS, prog="salad-ds")
    for name, (_, told) in VERBS.items():
        example = {"train": " --stage stage1", "measure": " --checkpoint init", "evaluate": " --checkpoint init"}
        verb = verbs.add_parser(
            name,
            description=f"{name}: {told}",
            epilog=f"example: salad-ds {name} salad_ds/recipes/demo.yaml{example.get(name, '')} workdir=runs/mine",
        )
        verb.add_argument("recipe", help="a YAML recipe, such as salad_ds/recipes/demo.yaml")
        verb.add_argument(
            "overrides", nargs="*", metavar="key=value", help="settings of the recipe, such as stages.stage1.steps=20"
        )
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
        verb.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)  # some launchers pass it
        if name in ("prepare", "align"):
            verb.add_argument(
                "--part", default="", help="i/n, or auto: that of this rank or SLURM array task (default: of this rank)"
            )
        if name == "lint":
            verb.usage = "salad-ds lint RECIPE [key=value ...] | SHARDS ..."
            verb.add_argument("--max-bad-share", type=float, help="fail above it (default: data.max_bad_share)")
            verb.add_argument("--list", metavar="FILE", help="write every fault to FILE, as lines of JSON")
        if name == "train":
            verb.add_argument("--stage", default="stage1", help="which of the recipe's stages (default: stage1)")
        if name in ("measure", "evaluate"):
            verb.add_argument(
                "--checkpoint",
                default="stage1",
                help="init (before training), a stage of the recipe, or a student's directory (default: stage1)",
            )
    verb = verbs.add_parser(
        "generate",
        description=f"generate: {BESIDE['generate']}",
        epilog="example: salad-ds generate --checkpoint runs/demo/stage1/model --audio x.wav --text ' The word is'",
    )
    verb.add_argument("--checkpoint", required=True, help="directory of a saved student")
    verb.add_argument("--audio", action="append", default=[], help="an audio file; may be given several times")
    verb.add_argument(
        "--text", default="", help="text around the clips, <|audio|> for each; without a mark the clips come first"
    )
    verb.add_argument("--max-new-tokens", type=int, default=40, help="at most so many tokens (default: 40)")
    verb.add_argument("--temperature", type=float, default=0.0, help="0 (the default) is greedy")
    verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verb = verbs.add_parser("doctor", description=f"doctor: {BESIDE['doctor']}")
    verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return top


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """As ``parser`` has it, with overrides anywhere: argparse itself takes none behind an option."""
    top = parser()
    chosen, rest = top.parse_known_args(arguments)
    stray = [text for text in rest if text.startswith("-") or not hasattr(chosen, "overrides")]
    if stray:
        top.error(f"unrecognized arguments: {' '.join(stray)}")
    if rest:
        chosen.overrides += rest
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 an error that was named, 2 wrong usage, 130 interrupted, 141 nobody reads our output."""
    chosen = parse(arguments)
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
        if chosen.verb == "lint" and not chosen.recipe.endswith((".yaml", ".yml")):
            from salad_ds.lint import lint_shards

            lint_shards([chosen.recipe, *chosen.overrides], chosen.max_bad_share, chosen.list)
            return 0
        recipe = load_recipe(chosen.recipe, chosen.overrides)
        use(recipe.storage)
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
    except BrokenPipeError:  # `salad-ds doctor | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has no reader either
        return 141
