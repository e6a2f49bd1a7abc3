"""The same few steps, under ZeRO-3 on several ranks and plainly in one process: what test_zero3.py compares.

Run as a module by the launcher: ``deepspeed --num_gpus 2 --no_local_rank --module tests.train.parity LLM OUT
SETTINGS``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from salad_ds.config import AdapterConfig, EncoderConfig, ModelConfig, SourceConfig, TrainConfig
from salad_ds.data.collate import MicroBatch, Sequence, collate
from salad_ds.data.interleave import Piece
from salad_ds.data.stream import Step
from salad_ds.distill import SparseTargets
from salad_ds.model.build import build_student
from salad_ds.model.salad import SaladForConditionalGeneration

ROWS, CONTEXT = 4, 96


def student(llm: str, loading: AbstractContextManager[None] | None = None) -> SaladForConditionalGeneration:
    settings = ModelConfig(
        llm=llm,
        encoder=EncoderConfig("whisper", "packaged:whisper-tiny.en"),
        adapter=AdapterConfig(layers=2, width=32, mlp=48, heads=4, kv_heads=2, stack=4),
    )
    return build_student(settings, loading)[0]


def stage(steps: int, micro_batch: int, alpha: float) -> TrainConfig:
    # eps: a parameter whose true gradient is 0 would turn rounding into a full step at 1e-8
    return TrainConfig(
        sources=[SourceConfig("speech", "x")],
        steps=steps,
        micro_batch=micro_batch,
        global_batch=ROWS,
        alpha=alpha,
        lr_adapter=1e-3,
        lr_llm=5e-4,
        warmup_steps=2,
        eps=1e-6,
        clip=0.0,
    )


def rows_of(model: SaladForConditionalGeneration, encoder: torch.nn.Module, step: int) -> list[list[Sequence]]:
    """The global batch of ``step``: row 0 packs two sequences, row 1 is text only, rows 2 and 3 differ in length."""
    rng = np.random.default_rng(step)

    def sequence(n: int, seconds: float) -> Sequence:
        ids = (0, *rng.integers(5, 49000, n).tolist())
        if seconds == 0:
            return Sequence("text", ids, [Piece(False, 0, n + 1, n + 1)])
        wave = (rng.standard_normal(int(16000 * seconds)) * 0.1).astype(np.float32)
        positions, middle = model.adapter.positions(encoder.num_frames(len(wave))), n // 2
        pieces = [
            Piece(False, 0, 1, 1),
            Piece(True, 1, middle, positions, 0, seconds),
            Piece(False, middle, n + 1, n + 1 - middle),
        ]
        return Sequence("speech", ids, pieces, [wave])

    return [[sequence(15, 1.0), sequence(11, 0.6)], [sequence(30, 0)], [sequence(40, 2.0)], [sequence(9, 0.4)]]


class RandomTeacher:
    """Peaked sparse targets that depend on the text and the row alone."""

    ahead = True

    def targets(self, requests: list[tuple[tuple[int, ...], torch.Tensor]]) -> SparseTargets:
        parts = []
        for ids, rows in requests:
            g = torch.Generator().manual_seed(sum(ids))
            kept = torch.randint(0, 49152, (len(ids), 6), generator=g)
            weights = (torch.randn(len(ids), 6, generator=g) * 3).softmax(-1)
            parts.append((kept[rows], weights[rows], torch.rand(len(ids), generator=g)[rows]))
        return SparseTargets(*(torch.cat(x) for x in zip(*parts, strict=True)))


def batches(rows: list[list[Sequence]], micro_batch: int) -> list[MicroBatch]:
    silence = np.zeros(800, np.float32)
    return [collate(rows[i : i + micro_batch], 0, CONTEXT, silence) for i in range(0, len(rows), micro_batch)]


def plain(llm: str, steps: int, alpha: float) -> tuple[list[float], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(losses, gradients of the first step, parameters at the end), with nothing but torch."""
    from salad_ds.train.engine import parameter_groups
    from salad_ds.train.schedule import wsd_factor

    model, settings, teacher = student(llm), stage(steps, ROWS, alpha), RandomTeacher()
    encoder = model.detach_encoder()
    optimizer = torch.optim.AdamW(parameter_groups(model, settings), betas=tuple(settings.betas), eps=settings.eps)
    base = [group["lr"] for group in optimizer.param_groups]
    losses, gradients = [], {}
    for step in range(steps):
        (batch,) = batches(rows_of(model, encoder, step), ROWS)
        out = model(
            **batch.model_inputs(),
            features=encoder(batch.audio, batch.audio_lengths),
            labels=batch.labels,
            alpha=alpha,
            targets=teacher.targets(batch.teacher_requests()),
        )
        (out.loss / len(batch.labels)).backward()
        if step == 0:
            gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * wsd_factor(step, settings.steps, settings.warmup_steps, settings.decay_share)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(out.loss.item() / len(batch.labels))
    return losses, gradients, {name: p.detach().clone() for name, p in model.named_parameters()}


def sharded(llm: str, out: Path, steps: int, alpha: float, micro_batch: int, config: str) -> None:
    """The same under DeepSpeed, with the training loop's own step; rank 0 writes what ``plain`` returns."""
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    from salad_ds.train.engine import deepspeed_config, start_engine
    from salad_ds.train.feed import Feed
    from salad_ds.train.steps import Stepper
    from salad_ds.zero import sharded_loading, start_processes

    torch.set_num_threads(1)
    rank, ranks, device = start_processes(timeout_minutes=2)
    settings = stage(steps, micro_batch, alpha)
    deepspeed_settings = deepspeed_config(config, settings, ranks)
    model = student(llm, sharded_loading(deepspeed_settings))  # as ``train`` loads it
    encoder = model.detach_encoder()
    engine = start_engine(model, settings, deepspeed_settings)
    gradients, held = {}, {}

    def keep_gradients(*_: Any) -> None:
        if not gradients:
            gradients.update({name: safe_get_full_grad(p).clone() for name, p in model.named_parameters()})

    inner = engine.optimizer.step  # gradients exist between the last backward and the update
    engine.optimizer.step = lambda *a, **k: (keep_gradients(), inner(*a, **k))[1]
    step_of = Stepper(engine, encoder, RandomTeacher(), settings, ranks, device)

    def stream() -> Iterator[Step]:
        for step in range(steps):
            rows = rows_of(model, encoder, step)
            yield Step(batches(rows[rank * ROWS // ranks : (rank + 1) * ROWS // ranks], micro_batch), [])

    losses = [step_of(work)["loss"] for work in Feed(stream(), step_of.teacher, device)]
    for name, p in model.named_parameters():
        with deepspeed.zero.GatheredParameters([p]):
            held[name] = p.detach().clone()
    if rank == 0:
        save_file(
            {f"gradient.{name}": value.contiguous() for name, value in gradients.items()}
            | {f"parameter.{name}": value.contiguous() for name, value in held.items()},
            out / "tensors.safetensors",
        )
        (out / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    chosen = json.loads(Path(sys.argv[3]).read_text())
    sharded(sys.argv[1], Path(sys.argv[2]), **chosen)
