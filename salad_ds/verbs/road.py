"""The verbs of the road, in its order: each is one station, and ``run`` is all of them."""

from __future__ import annotations

import argparse
import os

from salad_ds.verbs.verb import DEMO, Verb, checkpoint_option, part_option, recipe_of


def run(arguments: argparse.Namespace) -> None:
    from salad_ds.run import run

    run(recipe_of(arguments), arguments.recipe, arguments.overrides)


def prepare(arguments: argparse.Namespace) -> None:
    from salad_ds.data.prepare import prepare

    prepare(recipe_of(arguments), arguments.part)


def synthesize(arguments: argparse.Namespace) -> None:
    recipe = recipe_of(arguments)
    if arguments.selected:
        from salad_ds.select.run import synthesize_selected

        synthesize_selected(recipe, arguments.part)
        return
    from salad_ds.synth.synthesize import synthesize

    synthesize(recipe, arguments.part)


def synthesize_options(verb: argparse.ArgumentParser) -> None:
    part_option(verb)
    verb.add_argument("--selected", action="store_true", help="speak what `select` has drawn instead")


def align(arguments: argparse.Namespace) -> None:
    from salad_ds.align.run import align

    align(recipe_of(arguments), arguments.part)


def encode(arguments: argparse.Namespace) -> None:
    from salad_ds.encode import encode

    encode(recipe_of(arguments))


def precompute(arguments: argparse.Namespace) -> None:
    from salad_ds.teacher.precompute import precompute

    precompute(recipe_of(arguments))


def train(arguments: argparse.Namespace) -> None:
    recipe = recipe_of(arguments)
    if arguments.preflight:
        from salad_ds.cluster.preflight import require_fit

        require_fit(recipe, arguments.stage)
    from salad_ds.train.loop import train

    train(recipe, arguments.stage)


def train_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--stage", default="stage1", help="which of the recipe's stages (default: stage1)")
    verb.add_argument("--preflight", action="store_true", help="first what doctor --cluster does, for this stage")


def measure(arguments: argparse.Namespace) -> None:
    from salad_ds.measure.run import measure_checkpoint

    measure_checkpoint(recipe_of(arguments), arguments.checkpoint)


def evaluate(arguments: argparse.Namespace) -> None:
    from salad_ds.evaluate.verb import evaluate

    evaluate(recipe_of(arguments), arguments.checkpoint)


def select(arguments: argparse.Namespace) -> None:
    from salad_ds.select.after import finish
    from salad_ds.select.run import select, select_and_speak

    recipe = recipe_of(arguments)
    if arguments.step:
        select(recipe, arguments.step)
        return
    select_and_speak(recipe, arguments.part)
    if (page := finish(recipe)) is not None and os.environ.get("RANK", "0") == "0":
        print(f"look at it: {page.absolute().as_uri()}")


def select_options(verb: argparse.ArgumentParser) -> None:
    part_option(verb)
    verb.add_argument("--step", default="", help="one step alone: embed, cluster, probe or sample")


def report(arguments: argparse.Namespace) -> None:
    from salad_ds.measure.run import write_report

    write_report(recipe_of(arguments))


ROAD = (
    Verb("run", "all of it, in this order", run,
         (DEMO, f"{DEMO} workdir=runs/longer stages.stage1.steps=100", f"{DEMO} --dry-run"), recipe=True),
    Verb("prepare", "corpora → shards of speech and text", prepare,
         (DEMO, f"{DEMO} workdir=runs/mine --part 1/8"), part_option, recipe=True),
    Verb("synthesize", "shards of text → shards of speech with word times", synthesize,
         (DEMO, f"{DEMO} synth.engine=kokoro synthesize.out=speech/kokoro", f"{DEMO} --selected --part 1/8"),
         synthesize_options, recipe=True),
    Verb("align", "shards of speech → word times", align,
         (DEMO, f"{DEMO} align.engine=ctc align.model=hama"), part_option, recipe=True),
    Verb("encode", "recordings → frames of the encoder, to train without audio", encode,
         (f"{DEMO} data.features=cache data.span_encoding=slice", f"{DEMO} data.span_encoding=slice --dry-run"),
         recipe=True),
    Verb("precompute", "what the teacher says about every text → teacher store", precompute,
         (DEMO, f"{DEMO} teacher.keep=sampled teacher.store=teacher-small"), recipe=True),
    Verb("train", "one stage (--stage); for several GPUs see launchers/", train,
         (f"{DEMO} --stage stage1", f"{DEMO} --stage stage2 stages.stage2.steps=20"), train_options, recipe=True),
    Verb("measure", "misalignment M and forgetting F of a student (--checkpoint)", measure,
         (f"{DEMO} --checkpoint init", f"{DEMO} --checkpoint stage2 measure.items=0"), checkpoint_option, recipe=True),
    Verb("evaluate", "accuracy in multiple choice, read and heard (--checkpoint)", evaluate,
         (f"{DEMO} --checkpoint init", f"{DEMO} --checkpoint stage2 evaluate.models=[student,cascade]"),
         checkpoint_option, recipe=True),
    Verb("select", "Stage II: clusters, their M, texts drawn and spoken; a page", select,
         (DEMO, f"{DEMO} --step cluster select.clusters=16"), select_options, recipe=True),
    Verb("report", "one page about everything that was measured", report,
         (DEMO, f"{DEMO} workdir=runs/longer"), recipe=True),
)  # fmt: skip
