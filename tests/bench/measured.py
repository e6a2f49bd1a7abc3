"""Launched trainings to hold a plan against: what is trained, how it is launched, and what the plan says of it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from salad_ds.assets import resolve
from salad_ds.config import Recipe, load_recipe
from salad_ds.plan.activations import Work, activation_bytes
from salad_ds.plan.memory import Memory, memory
from salad_ds.plan.shapes import Shapes, shapes_of
from salad_ds.plan.zero import Zero, read_zero
from tests.train.launch import REPOSITORY, deepspeed

TINY = REPOSITORY / "salad_ds/recipes/tiny.yaml"
VOCABULARY = 8192
"""Fewer than the tokenizer has: a head of its size would be most of so small a model."""


@dataclass(frozen=True)
class Case:
    """One training of a random Llama with SmolLM2's tokenizer, behind Whisper tiny. ``width`` and ``layers`` of the
    LLM; ``passes``: micro-batches of a step; ``bucket``: elements of DeepSpeed's gradient bucket (its default, half a
    billion, would be most of so small a model's memory)."""

    width: int = 256
    layers: int = 6
    tied: bool = True
    ranks: int = 2
    stage: int = 3
    micro_batch: int = 4
    passes: int = 1
    checkpointing: bool = False
    context: int = 256
    bucket: int = 4_000_000

    @property
    def name(self) -> str:
        return "-".join(str(value) for value in vars(self).values())

    def prepare(self, out: Path) -> Recipe:
        """Write the LLM and the DeepSpeed config; returns the recipe."""
        out.mkdir(parents=True, exist_ok=True)
        llm = out.parent / f"llm-{self.width}-{self.layers}-{'tied' if self.tied else 'untied'}"
        if not (llm / "tokenizer_config.json").is_file():
            torch.manual_seed(0)
            LlamaForCausalLM(LlamaConfig(
                vocab_size=VOCABULARY, hidden_size=self.width, intermediate_size=3 * self.width,
                num_hidden_layers=self.layers, num_attention_heads=8, num_key_value_heads=4,
                tie_word_embeddings=self.tied, max_position_embeddings=2048,
            )).save_pretrained(llm)  # fmt: skip
            AutoTokenizer.from_pretrained(resolve("packaged:smollm2-135m")).save_pretrained(llm)
        settings = {"stage": self.stage, "overlap_comm": False, "contiguous_gradients": True,
                    "reduce_bucket_size": self.bucket, "stage3_param_persistence_threshold": 10_000}  # fmt: skip
        (out / "zero.json").write_text(json.dumps({"zero_optimization": settings, "steps_per_print": 10**9}))
        return load_recipe(TINY, self.overrides(llm, out / "zero.json"))

    def overrides(self, llm: Path, config: Path) -> list[str]:
        stage = {"deepspeed": config, "micro_batch": self.micro_batch, "ranks": self.ranks,
                 "global_batch": self.micro_batch * self.ranks * self.passes, "probe_every": 0}  # fmt: skip
        return [f"model.llm={llm}", f"data.context={self.context}", "model.adapter.width=64", "model.adapter.layers=2",
                f"model.gradient_checkpointing={str(self.checkpointing).lower()}",
                *(f"stages.stage1.{key}={value}" for key, value in stage.items())]  # fmt: skip

    def run(self, out: Path, how: str, steps: int = 2) -> list[dict[str, Any]]:
        """Train it under the deepspeed launcher; what every rank told."""
        self.prepare(out)
        llm = out.parent / f"llm-{self.width}-{self.layers}-{'tied' if self.tied else 'untied'}"
        job = {"recipe": str(TINY), "overrides": self.overrides(llm, out / "zero.json"), "steps": steps, "how": how}
        (out / "job.json").write_text(json.dumps(job))
        deepspeed(self.ranks, "tests.bench.memory_job", out / "job.json", out, timeout=900)
        return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(self.ranks)]

    def planned(self, out: Path, batch: dict[str, int]) -> tuple[Memory, Shapes, Zero]:
        """What the plan says of a rank that trains micro-batches like ``batch`` (its spans, frames, ...)."""
        recipe, cuda = self.prepare(out), os.path.exists("/dev/nvidia0")
        shapes, zero = shapes_of(recipe), read_zero(out / "zero.json")
        work = Work(rows=self.micro_batch, width=self.context, live_width=0, checkpointing=self.checkpointing,
                    masked=True, dtype=torch.float32, cuda=cuda, **batch)  # fmt: skip
        held = activation_bytes(shapes.body.config, vars(recipe.model.adapter), shapes.encoder.hidden_size, work)
        found = memory(shapes, zero, self.ranks, held, checkpointing=self.checkpointing, passes=self.passes, cuda=cuda)
        return found, shapes, zero
