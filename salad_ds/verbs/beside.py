"""The verbs beside the road: what many runs say, what one student says, what this machine can do."""

from __future__ import annotations

import argparse
import sys

from salad_ds.errors import SaladError
from salad_ds.verbs.verb import DEMO, Verb, recipe_of


def sweep(arguments: argparse.Namespace) -> None:
    from salad_ds.select.sweep import sweep

    recipe_of(arguments, swept=True)
    sweep(arguments.recipe, arguments.overrides)


def lint(arguments: argparse.Namespace) -> None:
    from salad_ds.lint import lint, lint_shards

    if not arguments.recipe.endswith((".yaml", ".yml")):
        lint_shards([arguments.recipe, *arguments.overrides], arguments.max_bad_share, arguments.list)
        return
    lint(recipe_of(arguments), max_bad_share=arguments.max_bad_share, listing=arguments.list)


def lint_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--max-bad-share", type=float, help="fail above it (default: data.max_bad_share)")
    verb.add_argument("--list", metavar="FILE", help="write every fault to FILE, as lines of JSON")


def plan(arguments: argparse.Namespace) -> None:
    from salad_ds.plan.verb import plan

    plan(recipe_of(arguments), arguments)


def plan_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--nodes", type=int, default=1, help="machines (default: 1)")
    verb.add_argument("--gpus-per-node", type=int, default=8, help="GPUs of each (default: 8)")
    verb.add_argument("--gpu", default="h200", help="such as a100, h100, b200: salad_ds/plan/gpus.yaml (default: h200)")
    verb.add_argument("--stage", default="stage1", help="which of the recipe's stages (default: stage1)")
    verb.add_argument("--mfu", type=float, default=0.4, help="model FLOPs utilisation, 0 to 1 (default: 0.4)")
    verb.add_argument("--network", type=float, default=0.0, metavar="GBPS",
                      help="Gb/s out of a node (default: of the vendor's own machine)")  # fmt: skip
    verb.add_argument("--storage", type=float, default=20.0, metavar="GBS",
                      help="GB/s of the shared file system, for all nodes together (default: 20)")  # fmt: skip
    verb.add_argument("--hours", type=float, default=0.0, help="hours of speech (default: counted, or as published)")
    verb.add_argument("--out", metavar="FILE", help="write it there as well: nothing else is written")


def analyze(arguments: argparse.Namespace) -> None:
    from salad_ds.analyze.run import analyze_command

    analyze_command(arguments.runs, arguments.out)


def analyze_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("runs", nargs="+", help="work directories, or addresses of MLflow stores")
    verb.add_argument("--out", default="runs/analysis", help="directory of the tables, pictures and page")


def generate(arguments: argparse.Namespace) -> None:
    from salad_ds.generate import LIVE, generate, generate_aloud

    if arguments.stream or arguments.rate is not None or LIVE in arguments.audio:
        generate_aloud(arguments.checkpoint, arguments.audio, arguments.text, arguments.max_new_tokens,
                       arguments.temperature, arguments.rate)  # fmt: skip
        return
    print(generate(arguments.checkpoint, arguments.audio, arguments.text, arguments.max_new_tokens,
                   arguments.temperature))  # fmt: skip


def generate_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--checkpoint", required=True, help="directory of a saved student")
    verb.add_argument("--audio", action="append", default=[], metavar="FILE", help="an audio file, or - for raw "
                      "16-bit mono samples on standard input, heard as they arrive; may be repeated")  # fmt: skip
    verb.add_argument(
        "--text", default="", help="text around the clips, <|audio|> for each; without a mark the clips come first"
    )
    verb.add_argument("--max-new-tokens", type=int, default=40, help="at most so many tokens (default: 40)")
    verb.add_argument("--temperature", type=float, default=0.0, help="0 (the default) is greedy")
    verb.add_argument("--stream", action="store_true", help="feed the clips as if they were being spoken, and print "
                      "tokens as they come, then how long the first one took")  # fmt: skip
    verb.add_argument("--rate", type=int, help="Hz of the samples on standard input (default: what the encoder takes)")


def serve(arguments: argparse.Namespace) -> None:
    from salad_ds.serve.verb import options_of, serve

    serve(options_of(arguments))


def serve_options(verb: argparse.ArgumentParser) -> None:
    from salad_ds.serve.verb import add_options

    add_options(verb)


def export(arguments: argparse.Namespace) -> None:
    from salad_ds.export.run import export

    export(recipe_of(arguments), arguments.checkpoint, arguments.out, arguments.dtype, arguments.max_shard_size,
           arguments.adapter)


def export_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--checkpoint", default="stage1", help="a stage (its newest checkpoint), a directory step-... of "
                      "one, universal or not, or a saved student (default: stage1)")  # fmt: skip
    verb.add_argument("--out", default="", metavar="DIR", help="where to (default: below the work directory, export/)")
    verb.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"),
                      help="of adapter and LLM (default, auto: as trained)")  # fmt: skip
    verb.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="largest file (default: 5GB)")
    verb.add_argument("--adapter", action="store_true", help="the adapter alone, for model.adapter_weights")


def doctor(arguments: argparse.Namespace) -> int:
    if arguments.cluster:
        from salad_ds.cluster.preflight import examine

        arguments.recipe = arguments.cluster
        return 0 if examine(recipe_of(arguments), arguments.stage, sys.stdout, arguments.patience) else 1
    if arguments.overrides or arguments.stage:
        raise SaladError("settings and --stage belong to a recipe", "salad-ds doctor --cluster RECIPE ...")
    from salad_ds.doctor import run

    return 0 if run(sys.stdout) else 1


def doctor_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="settings of RECIPE")
    verb.add_argument("--cluster", metavar="RECIPE", help="under a launcher, on every rank: do all hosts have the same "
                      "code, recipe, shards and store, do they reach each other, how fast is an all-reduce")
    verb.add_argument("--stage", default="", help="look at this stage of RECIPE (default: at all)")
    verb.add_argument("--patience", type=float, default=300.0, metavar="SECONDS",
                      help="wait so long for other ranks, and for the network (default: 300)")


def completion(arguments: argparse.Namespace) -> None:
    from salad_ds.completion import script

    print(script(arguments.shell))


def completion_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that is to read the output")


BESIDE = (
    Verb("sweep", "selections side by side: select.gamma=0,1,5 and the like", sweep,
         (f"{DEMO} select.gamma=0,1,5 select.clusters=8,16", f"{DEMO} select.policy=active,uniform workdir=runs/mine"),
         recipe=True, swept=True),
    Verb("lint", "check shards, sidecars, teacher store; or any SHARDS", lint,
         (DEMO, "runs/demo/speech/natural runs/demo/speech/synthetic", f"{DEMO} --list faults.jsonl"),
         lint_options, recipe=True, usage="salad-ds lint RECIPE [key=value ...] | SHARDS ..."),
    Verb("plan", "what a stage will take: memory, days, network, disks", plan,
         ("salad_ds/recipes/salad-3b.yaml --nodes 8 --gpus-per-node 8 --gpu h200",
          "salad_ds/recipes/salad-7b.yaml --gpu h100 --mfu 0.35 stages.stage1.micro_batch=1"),
         plan_options, recipe=True),
    Verb("analyze", "what many runs say: M against data, accuracy against M and F", analyze,
         ("runs/alpha-0 runs/alpha-1 --out runs/analysis", "sqlite:///runs/demo/mlflow.db"), analyze_options),
    Verb("generate", "what a student says after hearing a clip", generate,
         ("--checkpoint runs/demo/stage1/model --audio x.wav --text ' The word is'",
          "--checkpoint runs/demo/stage2/model --audio a.wav --audio b.wav --text '<|audio|> or <|audio|>?'",
          "--checkpoint runs/demo/stage2/model --audio x.wav --stream"),
         generate_options),
    Verb("serve", "a page: speak to a student, reading and hearing side by side", serve,
         ("runs/demo/stage2/model --asr packaged:whisper-base --base packaged:smollm2-135m",
          "runs/demo/stage2/model --host 0.0.0.0 --token new --tls cert.pem key.pem"),
         serve_options, usage="salad-ds serve CHECKPOINT [options]"),
    Verb("export", "any checkpoint → safetensors that transformers loads; no GPU", export,
         (f"{DEMO} --checkpoint stage2 --out student", f"{DEMO} --dtype bfloat16 --max-shard-size 2GB",
          f"{DEMO} --checkpoint runs/demo/stage1/checkpoints/step-00000024"), export_options, recipe=True),
    Verb("doctor", "what this machine can do, and how to mend what is missing", doctor,
         ("", f"--cluster {DEMO}", "--debug"), doctor_options),
    Verb("completion", "Tab completes verbs, options, keys: a script for bash, zsh, fish", completion,
         ("bash > ~/.local/share/bash-completion/completions/salad-ds", 'zsh > "${fpath[1]}/_salad-ds"',
          "fish > ~/.config/fish/completions/salad-ds.fish"), completion_options),
)  # fmt: skip
