"""One rank of a measured training: the launched job of tests/bench/memory.py, scaling.py and tests/plan.

``deepspeed --num_gpus N --module tests.bench.memory_job JOB.json OUT``: the recipe's student, random as JOB says, under
the recipe's DeepSpeed config, trained for a few steps on full rows of noise. Every rank writes OUT/rank-R.json.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from salad_ds.config import Recipe, load_recipe
from salad_ds.data.collate import MicroBatch, Sequence, collate
from salad_ds.data.interleave import Piece
from salad_ds.distill import SparseTargets
from salad_ds.model.build import build_student
from salad_ds.model.salad import SaladForConditionalGeneration
from salad_ds.train.engine import accumulation, deepspeed_config, start_engine
from salad_ds.train.feed import Fed, Work
from salad_ds.train.saver import Saver
from salad_ds.train.steps import Stepper
from salad_ds.zero import sharded_loading, start_processes

KEPT = 16
"""Tokens of a position that the stored teacher's stand-in keeps."""
SPOKEN, READ = 1.5, 16
"""A row: spans of so many seconds of speech, and of so many words that are read, in turns."""


class NoiseTeacher:
    """Stored targets of a right shape."""

    ahead = True

    def targets(self, requests: list[tuple[tuple[int, ...], torch.Tensor]]) -> SparseTargets:
        rows = sum(len(wanted) for _, wanted in requests)
        weights = torch.full((rows, KEPT), 1 / KEPT)
        return SparseTargets(torch.randint(0, 1000, (rows, KEPT)), weights, torch.zeros(rows))


def full_rows(model: SaladForConditionalGeneration, encoder: Any, width: int, rows: int, seed: int) -> MicroBatch:
    """Rows that are full to the last position: text and speech in turns, one sequence each."""
    rng = np.random.default_rng(seed)

    def sequence() -> Sequence:
        wave = (rng.standard_normal(int(encoder.sample_rate * SPOKEN)) * 0.1).astype(np.float32)
        positions = model.adapter.positions(encoder.num_frames(len(wave)))
        pieces, waves, left, token, seconds = [Piece(False, 0, 1, 1)], [], width - 1, 1, 0.0
        while left:
            if len(pieces) % 2 and left > positions + READ:
                pieces.append(Piece(True, token, token + 4, positions, seconds, seconds + SPOKEN))
                waves.append(wave)
                token, seconds, left = token + 4, seconds + SPOKEN, left - positions
            else:
                words = min(READ, left)
                pieces.append(Piece(False, token, token + words, words))
                token, left = token + words, left - words
        return Sequence("noise", (0, *rng.integers(5, 999, token - 1).tolist()), pieces, waves)

    return collate([[sequence()] for _ in range(rows)], 0, width, np.zeros(encoder.hearing.shortest, np.float32))


def resident(name: str) -> int:
    """Bytes of VmRSS or VmHWM, or of another line of the kernel's account of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def living() -> int:
    """Bytes of the storages of all CPU tensors that Python knows."""
    gc.collect()
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def risen(prof: Any) -> int:
    """Bytes by which what torch's CPU allocator holds rose at most, since the profiler began: it is told of every
    allocation and of whatever is freed of these."""
    now = peak = 0
    for event in prof.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


class Counted:
    """Bytes of torch's collectives by name, each as its whole tensor: what was gathered, what was to be reduced."""

    WHOLE = {"all_gather_into_tensor": 0, "reduce_scatter_tensor": 1, "all_reduce": 0, "broadcast": 0}
    """Which argument is the whole tensor."""

    def __init__(self) -> None:
        self.bytes = dict.fromkeys(self.WHOLE, 0)
        for name, place in self.WHOLE.items():
            setattr(dist, name, self.counting(name, place, getattr(dist, name)))

    def counting(self, name: str, place: int, work: Any) -> Any:
        def counted(*arguments: Any, **settings: Any) -> Any:
            tensors = [value for value in (*arguments, *settings.values()) if isinstance(value, torch.Tensor)]
            self.bytes[name] += tensors[place].numel() * tensors[place].element_size()
            return work(*arguments, **settings)

        return counted


def run(recipe: Recipe, name: str, steps: int, how: str, out: Path) -> dict[str, Any]:
    """``how``: ``time``, or ``memory`` (profiled) and ``checkpoint`` (one is written into ``out``), with + between."""
    torch.set_num_threads(1)
    counted, wanted = Counted(), how.split("+")  # before DeepSpeed takes its own references
    rank, ranks, device = start_processes(timeout_minutes=5)
    stage = recipe.stages[name]
    config = deepspeed_config(stage.deepspeed, stage, ranks)
    cuda = device.type == "cuda"
    baseline = resident("VmRSS")
    model, _ = build_student(recipe.model, sharded_loading(config))
    if recipe.model.gradient_checkpointing:
        model.llm.gradient_checkpointing_enable({"use_reentrant": False})
    encoder = model.detach_encoder().to(device)
    engine = start_engine(model, stage, config)
    step_of = Stepper(engine, encoder, None if stage.alpha == 0 else NoiseTeacher(), stage, ranks, device)
    batches = [full_rows(model, encoder, recipe.data.context, stage.micro_batch, 100 * rank + number)
               for number in range(accumulation(stage, ranks))]
    fed = [Fed(batch.to(device), [], NoiseTeacher().targets(batch.teacher_requests()).to(device)) for batch in batches]
    labels = sum(len(batch.labels) for batch in batches)

    def step() -> float:
        began = time.perf_counter()
        step_of(Work(labels, [], iter(fed), 0.0, 0.0))
        return time.perf_counter() - began

    step()  # DeepSpeed learns the order of the modules in it, and Adam makes its moments
    told: dict[str, Any] = {"rank": rank}
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    step()
    if not cuda:
        told["resident"] = resident("VmHWM") - baseline
    dist.barrier()
    before = dict(counted.bytes)
    if "memory" in wanted and not cuda:
        standing = living()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as prof:
            told["seconds"] = [step() for _ in range(steps)]
        told |= {"standing": standing, "peak": standing + risen(prof)}
    else:
        told["seconds"] = [step() for _ in range(steps)]
    if cuda:
        told["peak"] = torch.cuda.max_memory_allocated()
    told["traffic"] = {name: (size - before[name]) / steps for name, size in counted.bytes.items()}
    if "checkpoint" in wanted:
        Saver(engine, out, "", 1)(steps, {})
    batch = batches[0]
    told["batch"] = {"spans": len(batch.speech_lengths), "frames": int(encoder.num_frames(batch.audio.shape[1])),
                     "spoken": len(batch.speech_positions), "targets": len(batch.labels), "kept": KEPT}
    told["positions"] = stage.global_batch * recipe.data.context
    return told


def main() -> None:
    job, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    recipe = load_recipe(job["recipe"], job["overrides"])
    told = run(recipe, "stage1", job["steps"], job["how"], out)
    (out / f"rank-{told['rank']}.json").write_text(json.dumps(told))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
