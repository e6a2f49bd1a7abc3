"""Operations of a step, and the seconds that they take at a stated share of what the GPUs could do.

MFU is the model FLOPs utilisation of PaLM (arXiv 2204.02311, appendix B): operations that the model *needs*, per
second, over the accelerator's peak. What gradient checkpointing computes again is not needed, so that it is part of
what keeps MFU low; what the encoder and a live teacher compute is needed, and counted. A run logs its MFU without these
two (train/speed.py): its ``encoder_tflops`` over its ``tflops`` says how much higher the one to plan with is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from salad_ds.plan.hardware import Cluster
from salad_ds.plan.rows import Rows
from salad_ds.plan.shapes import Shapes, count, head_of, layers_of
from salad_ds.plan.traffic import Traffic

FORWARD, TRAINING = 2, 6
"""Operations per parameter and position: one multiplication and one addition, twice more for backward."""


@dataclass(frozen=True)
class Operations:
    """Of one position, on average."""

    student: float
    adapter: float
    encoder: float
    teacher: float

    @property
    def total(self) -> float:
        return self.student + self.adapter + self.encoder + self.teacher


def attention(config: Any, length: float, training: bool) -> float:
    """Operations of scores and mixtures per position, of causal sequences of ``length`` positions: half of them are
    looked at."""
    text = config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    wide = text.num_hidden_layers * text.num_attention_heads * width
    return (TRAINING if training else FORWARD) * 2 * wide * length / 2


def operations(shapes: Shapes, rows: Rows, length: float, live: bool) -> Operations:
    """``length``: positions of a sequence, on average. Embeddings multiply nothing; the head works where text is
    predicted."""
    student = TRAINING * (layers_of(shapes.body) + head_of(shapes.body) * rows.read)
    return Operations(
        student=student + attention(shapes.body.config, length, True),
        adapter=TRAINING * count(shapes.adapter) * rows.spoken,
        # As if every weight worked once per frame: convolutions work oftener, but hold few of the weights.
        encoder=FORWARD * shapes.frozen * rows.heard * shapes.encoder.frame_rate,
        teacher=rows.teacher * reading_flops(shapes, length) if live else 0.0,
    )


def reading_flops(shapes: Shapes, length: float) -> float:
    """Operations of the teacher for one token: all of them, for it says something about every one that it reads."""
    llm = shapes.teacher
    return FORWARD * (layers_of(llm) + head_of(llm)) + attention(llm.config, length, False)


@dataclass(frozen=True)
class Speed:
    """``compute``, ``network``: seconds of a step; ``step``: of both, one beside the other where ``overlapped``."""

    compute: float
    network: float
    step: float
    overlapped: bool
    positions: float
    """Per second, of all GPUs."""

    def days(self, steps: int) -> float:
        return self.step * steps / 86400


def speed(machines: Cluster, flops_per_position: float, positions: int, mfu: float, moved: Traffic,
          overlapped: bool) -> Speed:
    """``positions``: of one optimizer step, over all ranks."""
    compute = flops_per_position * positions / (machines.ranks * machines.gpu.flops * mfu)
    step = max(compute, moved.seconds) if overlapped else compute + moved.seconds
    return Speed(compute, moved.seconds, step, overlapped, positions / step)
