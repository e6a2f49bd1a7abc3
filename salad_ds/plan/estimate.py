"""The plan of one stage on one cluster under one DeepSpeed config: every part, put together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from salad_ds.config import Recipe, TrainConfig
from salad_ds.errors import RecipeError
from salad_ds.plan.activations import Work, activation_bytes, hearing_bytes, teaching_bytes
from salad_ds.plan.hardware import Cluster
from salad_ds.plan.memory import Memory, memory
from salad_ds.plan.rows import Rows, rows_of
from salad_ds.plan.shapes import Shapes, count, remembered, shapes_of
from salad_ds.plan.speed import Operations, Speed, operations, reading_flops, speed
from salad_ds.plan.storage import (
    Checkpoint,
    Corpus,
    Reading,
    Store,
    checkpoint,
    kept_tokens,
    reading,
    recordings,
    store,
)
from salad_ds.plan.traffic import Traffic, traffic
from salad_ds.plan.zero import Zero


@dataclass(frozen=True)
class Question:
    """What is planned: a stage of a recipe, on machines, at an MFU; ``hours`` of speech, 0 for what is known."""

    recipe: Recipe
    stage: str
    machines: Cluster
    mfu: float
    hours: float = 0.0

    @property
    def settings(self) -> TrainConfig:
        return self.recipe.stages[self.stage]

    @property
    def live(self) -> bool:
        return self.settings.alpha > 0 and self.recipe.teacher.mode == "live"


@dataclass(frozen=True)
class Plan:
    """The answer. ``micro_batch``: rows per GPU and pass, which may be fewer than the recipe's; ``passes``: of one GPU
    in a step."""

    asked: Question
    zero: Zero
    shapes: Shapes
    rows: Rows
    micro_batch: int
    passes: int
    memory: Memory
    operations: Operations
    traffic: Traffic
    speed: Speed
    offload: float
    """Seconds of a step that the host's memory, its disks and its Adam take."""
    store: Store
    corpus: Corpus
    reading: Reading
    checkpoint: Checkpoint

    @property
    def machines(self) -> Cluster:
        return self.asked.machines

    @property
    def fits(self) -> bool:
        return self.memory.peak <= self.machines.gpu.memory

    @property
    def positions(self) -> int:
        """Of an optimizer step."""
        return self.asked.settings.global_batch * self.asked.recipe.data.context


def micro_batch_of(stage: TrainConfig, ranks: int) -> int:
    """The largest number of rows up to the recipe's that divides the global batch on so many ranks.

    Raises RecipeError where a rank would have no row."""
    if stage.global_batch % ranks:
        most = max(n for n in range(1, stage.global_batch + 1) if stage.global_batch % n == 0 and n <= ranks)
        raise RecipeError(
            f"global_batch is {stage.global_batch} rows, which {ranks} GPUs cannot share evenly",
            f"take {most} GPUs, or a global_batch that is a multiple of {ranks}",
        )
    rows = stage.global_batch // ranks
    return max(n for n in range(1, min(stage.micro_batch, rows) + 1) if rows % n == 0)


def work_of(recipe: Recipe, rows: Rows, micro_batch: int, live_width: int, dtype: torch.dtype) -> Work:
    """A demanding micro-batch: nothing but speech for the encoder and adapter, nothing but text for the loss."""
    positions = micro_batch * recipe.data.context
    spoken = int(positions * rows.spoken / max(rows.speech_share, 1e-9)) if rows.speech_share else 1
    longest = math.ceil(rows.longest_span * rows.frames_per_span / rows.span_seconds)
    per_span = max(int(rows.frames_per_span / recipe.model.adapter.stack), 1)
    return Work(
        rows=micro_batch,
        width=recipe.data.context,
        spans=max(spoken // per_span, 1),
        frames=max(longest, 1),
        spoken=max(spoken, 1),
        targets=positions,
        kept=kept_tokens(recipe.teacher),
        live_width=live_width,
        checkpointing=recipe.model.gradient_checkpointing,
        masked=dtype == torch.float32 or recipe.model.attention in ("sdpa", "eager"),
        dtype=dtype,
        cuda=True,
    )


@dataclass(frozen=True)
class Peaks:
    """Bytes: of forward and backward, of what a live teacher said, of hearing, of the teacher's reading, of the
    micro-batches that lie ready."""

    activations: dict[str, int]
    said: float
    hearing: float
    teaching: float
    ahead: float


@remembered
def peaks(recipe: Recipe, stage: str, rows: Rows, micro_batch: int, bytes_: int) -> Peaks:
    """The slow part, the same for every ZeRO config."""
    shapes, alpha = shapes_of(recipe), recipe.stages[stage].alpha
    live = alpha > 0 and recipe.teacher.mode == "live"
    dtype = torch.bfloat16 if bytes_ == 2 else torch.float32
    width = int(shapes.teacher.config.get_text_config().hidden_size) if live else 0
    work = work_of(recipe, rows, micro_batch, width, dtype)
    features = shapes.encoder.hidden_size
    activations = activation_bytes(shapes.body.config, vars(recipe.model.adapter), features, work)
    hears = recipe.data.features == "audio" and rows.speech_share > 0
    samples = round(rows.longest_span * shapes.encoder.sample_rate)
    said = bytes_ * work.targets * width  # by a live teacher: it lies there until the loss has used it
    ahead = 16 * micro_batch * recipe.data.context + 32 * work.targets + 8 * work.spoken
    ahead += 4 * work.spans * samples if hears else 0
    ahead += 12 * work.targets * work.kept if alpha and not live else 0
    return Peaks(
        activations=activations,
        said=said,
        hearing=hearing_bytes(shapes.encoder, work.spans, samples) if hears else 0,
        teaching=teaching_bytes(shapes.teacher.config, recipe.teacher.batch_tokens, recipe.data.context, dtype)
        if live else 0,
        ahead=ahead * (recipe.teacher.prefetch + 1),
    )  # fmt: skip


def estimate(asked: Question, zero: Zero, micro_batch: int = 0) -> Plan:
    """The plan under ``zero``; ``micro_batch`` instead of the recipe's. Raises RecipeError for what cannot be trained
    so: a stage that is not there, rows that do not divide."""
    recipe, machines = asked.recipe, asked.machines
    if asked.stage not in recipe.stages:
        stages = ", ".join(recipe.stages) or "none"
        raise RecipeError(f"the recipe has no stage {asked.stage!r}", f"its stages are {stages}")
    stage = asked.settings
    micro_batch = micro_batch or micro_batch_of(stage, machines.ranks)
    passes = stage.global_batch // (micro_batch * machines.ranks)
    shapes = shapes_of(recipe)
    rows = rows_of(recipe, stage, replace(shapes.encoder.hearing, stack=recipe.model.adapter.stack))
    held = peaks(recipe, asked.stage, rows, micro_batch, zero.bytes)
    checkpointing = recipe.model.gradient_checkpointing
    found = memory(shapes, zero, machines.ranks, held.activations, checkpointing=checkpointing, passes=passes,
                   said=held.said, hearing=held.hearing, teaching=held.teaching, ahead=held.ahead)  # fmt: skip
    if asked.live:
        place_teacher(found, recipe, shapes, zero, machines.ranks)
    done = operations(shapes, rows, recipe.data.context, asked.live)
    moved = traffic(shapes, zero, machines, passes, checkpointing)
    positions = stage.global_batch * recipe.data.context
    overlapped = bool(zero.zero.overlap_comm)
    offload = offload_seconds(shapes, zero, machines, passes)
    fast = speed(machines, done.total, positions, asked.mfu, moved, overlapped)
    fast = replace(fast, step=fast.step + offload, positions=positions / (fast.step + offload))
    corpus = recordings(recipe, stage, asked.hours)
    kept = store(recipe, rows, float(positions * stage.steps), corpus, machines,
                 reading_flops(shapes, recipe.data.context), asked.mfu)  # fmt: skip
    return Plan(asked, zero, shapes, rows, micro_batch, passes, found, done, moved, fast, offload, kept, corpus,
                reading(rows, fast.positions, corpus), checkpoint(shapes, zero, stage, machines))  # fmt: skip


def place_teacher(found: Memory, recipe: Recipe, shapes: Shapes, zero: Zero, ranks: int) -> None:
    """A live teacher's weights: whole or sharded, on the GPUs or in their hosts."""
    whole, where = float(zero.bytes * count(shapes.teacher)), recipe.teacher.placement
    share = whole / ranks if where.startswith("sharded") else whole
    if where.endswith("offload"):
        found.host["live teacher"] = share
        head = shapes.teacher.get_output_embeddings().weight.numel() * zero.bytes
        found.standing["live teacher"] = float(head)  # its head lies on the device whatever the placement
    else:
        found.standing["live teacher"] = share


HOST_ADAM = 4e9
"""Parameters of a node per second that an Adam on its CPUs updates: it reads and writes 28 bytes of each, at the 100 to
200 GB/s of two sockets (assumed)."""
NVME = 6e9
"""Bytes per second of a node's NVMe disks (assumed)."""


def offload_seconds(shapes: Shapes, zero: Zero, machines: Cluster, passes: int) -> float:
    """What offloading adds to a step; nothing of it is hidden behind work."""
    shard, seconds = shapes.trained / machines.ranks, 0.0
    if zero.optimizer_at != "gpu":
        seconds += 2 * zero.bytes * shard / machines.gpu.host  # gradients down, parameters up
        seconds += shard * machines.gpus_per_node / HOST_ADAM
    if zero.optimizer_at == "nvme":
        seconds += 2 * 16 * shard * machines.gpus_per_node / NVME
    if zero.parameters_at != "gpu":
        disks = NVME / machines.gpus_per_node
        rate = machines.gpu.host if zero.parameters_at == "cpu" else min(machines.gpu.host, disks)
        seconds += passes * 2 * zero.bytes * shard / rate
    return seconds
