"""Run by a launcher: in every situation of DeepSpeed a tiny student takes one step, a checkpoint is written, and it is
saved as training does at a stage's end. Argument: the recipe, which has a stage of each name."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from salad_ds.config import load_recipe
from salad_ds.files import sha256_file, write_json
from salad_ds.model.build import build_student
from salad_ds.train import checkpoint
from salad_ds.train.engine import start_engine
from salad_ds.train.export import export_student
from salad_ds.train.saver import Saver
from salad_ds.zero import sharded_loading, start_processes

SITUATIONS = {
    "plain": {"zero_optimization": {"stage": 0}},
    "zero2": {"zero_optimization": {"stage": 2}},
    "zero3": {"zero_optimization": {"stage": 3}},
    "zero3buffers": {"zero_optimization": {"stage": 3, "sub_group_size": 20_000}},
    "zero2frozen": {"zero_optimization": {"stage": 2}},
    "zero3frozen": {"zero_optimization": {"stage": 3}},
    "zero2llmalone": {"zero_optimization": {"stage": 2}},
    "zero3bf16": {"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}},
}
EVERY = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "gradient_clipping": 1.0,
         "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
         "steps_per_print": 10**9}  # fmt: skip


def main() -> None:
    rank, ranks, _ = start_processes()
    recipe = load_recipe(sys.argv[1])
    for name, settings in SITUATIONS.items():
        config = {**EVERY, **settings, "train_batch_size": ranks}
        half = "bf16" in settings
        model, tokenizer = build_student(recipe.model, None if half else sharded_loading(config))
        encoder = model.detach_encoder()
        if half:  # on a CPU students are loaded in float32 alone
            model.bfloat16()
            model.llm.config.dtype = torch.bfloat16
        engine = start_engine(model, recipe.stages[name], config)
        ids = torch.randint(5, 900, (1, 9), generator=torch.Generator().manual_seed(rank))
        weight = next(engine.module.adapter.parameters())
        loss = engine(
            input_ids=ids, position_ids=torch.arange(9)[None], target_positions=torch.arange(3, 8), labels=ids[0, 4:9],
            features=torch.randn(1, 6, encoder.hidden_size, dtype=weight.dtype), speech_lengths=torch.tensor([2]),
            speech_positions=torch.arange(1, 3), alpha=0.0,
        ).loss  # fmt: skip
        engine.backward(loss)
        engine.step()
        out = recipe.path(name)
        Saver(engine, out / "checkpoints", "", keep=1)  # its way of writing files
        engine.save_checkpoint(str(out / "checkpoints"), tag="step-00000001", save_latest=False,
                               exclude_frozen_parameters=True)  # fmt: skip
        export_student(engine, encoder, tokenizer, out / "model")
        if rank == 0:
            mark(out / "checkpoints/step-00000001", ranks)
            print(f"{name}: loss {float(loss):.3f}, {weight.dtype}", flush=True)
    dist.barrier()


def mark(directory: Path, ranks: int) -> None:
    """What makes a whole checkpoint of the directory (train/checkpoint.py)."""
    files = {path.name: [path.stat().st_size, sha256_file(path)] for path in sorted(directory.iterdir())}
    told = {"schema": checkpoint.SCHEMA, "step": 1, "recipe": "test", "ranks": ranks, "files": files}
    write_json(directory / checkpoint.MARK, told)


if __name__ == "__main__":
    main()
