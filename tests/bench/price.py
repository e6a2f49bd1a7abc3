"""The price of distillation: a training step with the teacher store against the same step with hard labels alone.

    python -m tests.bench.price [WORKDIR] [--blocks 6] [--steps 3]

SmolLM2-135M with Whisper tiny as on the demo's road, real speech and text, ZeRO-3 in one process with one thread of
torch; WORKDIR gets shards, word times and store where it has not got them. Blocks of steps alternate, store and labels,
on the same micro-batches; the feed decodes the targets of the next step beside the step, as in training. Of every block
the first step is not counted (nothing was trained before it to hide its decoding behind).
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import mean, median

import torch

import salad_ds
from salad_ds.align.run import align
from salad_ds.config import load_recipe
from salad_ds.data.plan import Planner
from salad_ds.data.prepare import prepare
from salad_ds.data.stream import Step, Stream
from salad_ds.distill import fused_linear_distill
from salad_ds.environment import hush
from salad_ds.model.build import build_student
from salad_ds.teacher.precompute import precompute
from salad_ds.teacher.stored import Teacher, open_teacher
from salad_ds.train.engine import deepspeed_config, start_engine
from salad_ds.train.feed import Feed
from salad_ds.train.loop import switch_off_dropout
from salad_ds.train.steps import Stepper
from salad_ds.zero import sharded_loading, start_processes

DEMO = Path(salad_ds.__file__).parent / "recipes/demo.yaml"
CHANGES = [
    "corpora=[{kind: asterisk, source: 'packaged:asterisk', out: speech/natural, limit: 40, join_seconds: 16},"
    " {kind: wordnet, source: 'packaged:wordnet', out: text/plain, limit: 60}]",
    "stages.stage1.sources=[{kind: speech, path: speech/natural}, {kind: text, path: text/plain}]",
    "model.encoder.name=packaged:whisper-tiny.en",
]


def price(workdir: str | Path, blocks: int = 6, steps: int = 3) -> float:
    """Prints the table; returns the ratio of the medians of the step's seconds, store over labels."""
    hush()
    torch.set_num_threads(1)
    recipe = load_recipe(DEMO, [f"workdir={workdir}", *CHANGES])
    prepare(recipe)
    align(recipe)
    precompute(recipe, ["speech/natural", "text/plain"])
    _, ranks, device = start_processes()
    stage = replace(recipe.stages["stage1"], ranks=1, global_batch=recipe.stages["stage1"].micro_batch)
    config = deepspeed_config(stage.deepspeed, stage, ranks)
    model, tokenizer = build_student(recipe.model, sharded_loading(config))
    switch_off_dropout(model)
    encoder = model.detach_encoder().to(device)
    planner = Planner(stage.sources, recipe.path, recipe.data, tokenizer, model.hearing, None)
    with closing(iter(Stream(planner, 0, stage.global_batch, stage.micro_batch))) as stream:
        work = list(islice(stream, steps + 2))  # one that is not counted, and one that is decoded beside the last
    engine = start_engine(model, stage, config)
    teacher = open_teacher(recipe, tokenizer, device)
    ways = {
        "store": (Stepper(engine, encoder, teacher, replace(stage, alpha=1.0), ranks, device), teacher),
        "labels": (Stepper(engine, encoder, None, replace(stage, alpha=0.0), ranks, device), None),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    waits: list[float] = []
    for block in range(blocks):
        for name in ways if block % 2 else reversed(ways):
            for spent, of_cpu, waited in run_block(*ways[name], work, steps):
                seconds[name].append(spent)
                cpu[name].append(of_cpu)
                waits += [waited] if name == "store" else []
    ratio = median(seconds["store"]) / median(seconds["labels"])
    labels = mean(sum(len(batch.labels) for batch in step.batches) for step in work[1:-1])
    worked = median(cpu["store"]) / median(cpu["labels"])
    print(f"\na step of {stage.global_batch} rows of {recipe.data.context} positions, {labels:.0f} text targets")
    for name, values in seconds.items():
        print(f"  {name:<8} {median(values):8.3f} s (median of {len(values)}, {min(values):.3f} to {max(values):.3f})")
    fastest = min(seconds["store"]) / min(seconds["labels"])
    print(f"  price of distillation: {ratio - 1:+.1%} of the step (target: 3 % or less); of the fastest steps "
          f"{fastest - 1:+.1%}; of CPU time, decoding included, {worked - 1:+.1%} (that much on a busy machine too)")
    print(f"  the step waited for its targets: {mean(waits) * 1000:.1f} ms")
    parts(teacher, work[1], model)
    return ratio


def run_block(
    step_of: Stepper, teacher: Teacher | None, work: list[Step], steps: int
) -> list[tuple[float, float, float]]:
    """(seconds, CPU seconds of the process, seconds waited for targets) of each of ``steps`` steps, after one that is
    not counted."""
    told = []
    with closing(iter(Feed(iter(work), teacher, step_of.device))) as feed:
        for number in range(steps + 1):
            began, worked = time.perf_counter(), time.process_time()
            record = step_of(next(feed))
            if number:
                spent = time.perf_counter() - began
                told.append((spent, time.process_time() - worked, record["teacher_wait"]))
    return told


def parts(teacher: Teacher, step: Step, model: torch.nn.Module) -> None:
    """Where the difference can come from: decoding, and the loss on sparse targets instead of labels."""
    (batch,) = step.batches
    requests = batch.teacher_requests()
    targets = teacher.targets(requests)
    decoding = best(lambda: teacher.targets(requests))
    hidden = torch.randn(len(batch.labels), model.config.text_config.hidden_size, requires_grad=True)
    weight = torch.randn(model.config.text_config.vocab_size, hidden.shape[1], requires_grad=True)
    sparse = best(lambda: fused_linear_distill(hidden, weight, targets, alpha=1.0))
    hard = best(lambda: fused_linear_distill(hidden, weight, None, batch.labels, alpha=0.0))
    print(f"  decoding beside the step {decoding * 1000:.1f} ms ({len(targets) / decoding:.0f} targets/s); loss with "
          f"its gradient: stored targets {sparse * 1000:.1f} ms, labels {hard * 1000:.1f} ms")


def best(work, times: int = 5) -> float:
    """Seconds of the fastest of several calls."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", nargs="?", default="runs/bench-price")
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    price(arguments.workdir, arguments.blocks, arguments.steps)


if __name__ == "__main__":
    main()
