"""What cached frames save: micro-batches of the demo from audio (spans encoded separately, or as slices) and from the
cache, in turns, in one process; and how large the caches are.

    python -m tests.bench.features [WORKDIR] [--batches 6]

WORKDIR gets the demo's corpora, word times and caches where it has not got them. Times are seconds per micro-batch of
two rows: ``load`` (decode, cut, resample; or read frames), ``encode`` (the frozen encoder), ``train`` (adapter, LLM,
loss, backward). In training loading runs beside the step, on as many cores as there are to spare.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from transformers import MimiConfig

import salad_ds
from salad_ds.align.run import align
from salad_ds.config import Recipe, load_recipe
from salad_ds.data.collate import collate
from salad_ds.data.features import FrameFormat, wanted_format
from salad_ds.data.lanes import Course
from salad_ds.data.plan import Planner
from salad_ds.data.prepare import prepare
from salad_ds.data.workers import Here
from salad_ds.encode import encode
from salad_ds.model.build import build_student
from salad_ds.synth.synthesize import synthesize

DEMO = Path(salad_ds.__file__).parent / "recipes/demo.yaml"
MODES = {
    "audio, separate": [],
    "audio, slice": ["data.span_encoding=slice"],
    "cache (float16)": ["data.span_encoding=slice", "data.features=cache"],
}


class Road:
    """Rows of one mode: the same order of samples in every mode."""

    def __init__(self, recipe: Recipe, model: torch.nn.Module, tokenizer: object, encoder: torch.nn.Module) -> None:
        stage = recipe.stages["stage1"]
        self.recipe = recipe
        self.planner = Planner(stage.sources, recipe.path, recipe.data, tokenizer, model.hearing,
                               wanted_format(encoder, recipe.data))  # fmt: skip
        course, mine = Course(self.planner, stage.global_batch, stage.seed), range(stage.micro_batch)
        self.rows = Here(self.planner, stage.seed, stage.global_batch, mine, [course.start(lane) for lane in mine])
        self.lanes = mine


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", nargs="?", default="runs/bench-features")
    parser.add_argument("--batches", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipes = {mode: load_recipe(DEMO, [f"workdir={arguments.workdir}", *more]) for mode, more in MODES.items()}
    recipe = recipes["cache (float16)"]
    recipe.stages = {"stage1": recipe.stages["stage1"]}
    for verb in (prepare, synthesize, align, encode):
        verb(recipe)
    model, tokenizer = build_student(recipe.model)
    encoder = model.detach_encoder()
    roads = {mode: Road(own, model, tokenizer, encoder) for mode, own in recipes.items()}
    seconds = {mode: {"load": 0.0, "encode": 0.0, "train": 0.0} for mode in MODES}
    for turn in range(arguments.batches + 1):
        for mode, road in roads.items():
            marks = [time.perf_counter()]
            rows = [road.rows.row(turn, lane).sequences for lane in road.lanes]
            batch = collate(rows, 0, road.recipe.data.context, road.planner.dummy())
            marks.append(time.perf_counter())
            features = encoder.hear(batch)
            marks.append(time.perf_counter())
            out = model(**batch.model_inputs(), features=features, labels=batch.labels, alpha=0.0)
            (out.loss / len(batch.labels)).backward()
            model.zero_grad()
            marks.append(time.perf_counter())
            if turn:  # the first of each warms up
                for name, begin, end in zip(seconds[mode], marks[:-1], marks[1:], strict=True):
                    seconds[mode][name] += (end - begin) / arguments.batches
    print(f"{'seconds per micro-batch':<24}{'load':>8}{'encode':>8}{'train':>8}{'sum':>8}")
    for mode, parts in seconds.items():
        print(f"{mode:<24}" + "".join(f"{value:8.3f}" for value in [*parts.values(), sum(parts.values())]))
    base, cached = seconds["audio, separate"], seconds["cache (float16)"]
    print(f"from the cache: {1 - sum(cached.values()) / sum(base.values()):.0%} less time in all, "
          f"{1 - (cached['load'] + cached['encode']) / (base['load'] + base['encode']):.0%} less beside the model")
    mimi = MimiConfig()
    codes = FrameFormat("", "codes", mimi.num_quantizers, (mimi.codebook_size - 1).bit_length())
    sizes = {"Whisper base, float16": (FrameFormat.of(encoder, "float16"), encoder.frame_rate),
             "Whisper base, float32": (FrameFormat.of(encoder, "float32"), encoder.frame_rate),
             "Mimi latents, float16": (FrameFormat("", "float16", mimi.hidden_size), mimi.frame_rate),
             "Mimi codes": (codes, mimi.frame_rate)}  # fmt: skip
    for name, (form, rate) in sizes.items():
        size = form.frame_bytes * rate
        print(f"{name:<24}{size / 1000:9.2f} kB per second {size * 3.6 / 1000:9.2f} MB per hour of speech")


if __name__ == "__main__":
    main()
