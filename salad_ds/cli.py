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
from salad_ds.launched import adopt_rank

CheckedVerb = Callable[[Recipe, argparse.Namespace], object]


def prepare(recipe: Recipe, arguments: argparse.Namespace) -> None:
    from salad_ds.data.prepare import prepare

    prepare(recipe, arguments.part)


def synthesize(recipe: Recipe, arguments: argparse.Namespace) -> None:
    if arguments.selected:
        from salad_ds.select.run import synthesize_selected

        synthesize_selected(recipe, arguments.part)
        return
    from salad_ds.synth.synthesize import synthesize

    synthesize(recipe, arguments.part)


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
    from salad_ds.evaluate.verb import evaluate

    evaluate(recipe, arguments.checkpoint)


def select(recipe: Recipe, arguments: argparse.Namespace) -> None:
    from salad_ds.select.after import finish
    from salad_ds.select.run import select, select_and_speak

    if arguments.step:
        select(recipe, arguments.step)
        return
    select_and_speak(recipe, arguments.part)
    if (page := finish(recipe)) is not None and os.environ.get("RANK", "0") == "0":
        print(f"look at it: {page.absolute().as_uri()}")


def sweep(_: Recipe, arguments: argparse.Namespace) -> None:
    from salad_ds.select.sweep import sweep

    sweep(arguments.recipe, arguments.overrides)


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
    "encode": (encode, "recordings → frames of the encoder, to train without audio"),
    "precompute": (precompute, "what the teacher says about every text → teacher store"),
    "train": (train, "one stage (--stage); for several GPUs see launchers/"),
    "measure": (measure, "misalignment M and forgetting F of a student (--checkpoint)"),
    "evaluate": (evaluate, "accuracy in multiple choice, read and heard (--checkpoint)"),
    "select": (select, "Stage II: clusters, their M, texts drawn and spoken; a page"),
    "sweep": (sweep, "selections side by side: select.gamma=0,1,5 and the like"),
    "report": (report, "one page about everything that was measured"),
    "lint": (lint, "check shards, sidecars, teacher store; or any SHARDS"),
}
"""Verbs that take a recipe, in the order of the road; ``lint`` stands beside it."""

BESIDE = {
    "sweep": VERBS["sweep"][1],
    "lint": VERBS["lint"][1],
    "analyze": "what many runs say: M against data, accuracy against M and F",
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
        add_help=False,
    )
    top.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    top.add_argument("--version", action="version", version=f"salad-ds {__version__}", help=argparse.SUPPRESS)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", help=argparse.SUPPRESS, prog="salad-ds")
    for name, (_, told) in VERBS.items():
        example = {"train": " --stage stage1", "measure": " --checkpoint init", "evaluate": " --checkpoint init",
                   "sweep": " select.gamma=0,1,5 select.clusters=8,16"}  # fmt: skip
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
        if name in ("prepare", "synthesize", "align", "select"):
            verb.add_argument(
                "--part", default="", help="i/n, or auto: that of this rank or SLURM array task (default: of this rank)"
            )
        if name == "synthesize":
            verb.add_argument("--selected", action="store_true", help="speak what `select` has drawn instead")
        if name == "select":
            verb.add_argument("--step", default="", help="one step alone: embed, cluster, probe or sample")
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
    verb = verbs.add_parser(
        "analyze",
        description=f"analyze: {BESIDE['analyze']}",
        epilog="example: salad-ds analyze runs/alpha-0 runs/alpha-1 --out runs/analysis",
    )
    verb.add_argument("runs", nargs="+", help="work directories, or addresses of MLflow stores")
    verb.add_argument("--out", default="runs/analysis", help="directory of the tables, pictures and page")
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
    """Exit codes: 0 done, 1 an error that was named, 2 wrong usage, 85 told to stop and can go on, 130 interrupted, 141
    nobody reads our output."""
    chosen = parse(arguments)
    prepare_environment()
    if not chosen.debug:
        hush()
    try:
        adopt_rank()
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
        if chosen.verb == "analyze":
            from salad_ds.analyze.run import analyze_command

            analyze_command(chosen.runs, chosen.out)
            return 0
        overrides = chosen.overrides
        if chosen.verb == "sweep":  # what is swept has several values: the recipe itself is read without it
            from salad_ds.select.sweep import values_of

            overrides = [text for text in overrides if len(values_of(text)) == 1]
        recipe = load_recipe(chosen.recipe, overrides)
        use(recipe.storage)
        VERBS[chosen.verb][0](recipe, chosen)
        return 0
    except SaladError as error:
        if chosen.debug:
            traceback.print_exc()
        rank = os.environ.get("RANK", "0")
        where = f"salad-ds {chosen.verb}" + (f" (rank {rank})" if rank != "0" else "")
        print(f"{where}: {error.what}" + (f"\n  mend: {error.mend}" if error.mend else ""), file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(f"\nsalad-ds {chosen.verb}: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `salad-ds doctor | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has no reader either
        return 141
