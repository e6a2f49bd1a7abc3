"""Floating-point operations of a training step, by arithmetic; and what a device could do at most.

A multiplication and its addition count as two. What is trained takes three passes' worth: one forward, two backward
(gradients of inputs and of weights); a frozen LLM two of them, a frozen adapter the first alone. What gradient
checkpointing computes again is not counted (that is the *model's* FLOPs, as in PaLM, arXiv 2204.02311, appendix B).
Unlike a text model's 6·N per token, three parts see different numbers of positions here: the LLM's layers all of them,
its head only those whose next token is text, the adapter only speech. The frozen encoder is not among them: it is
counted apart, by torch's own counter.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

PASSES = 3
"""Forward, and a backward of twice its work."""


@dataclass(frozen=True)
class Shape:
    """What the arithmetic needs of a model. ``layers``, ``head``, ``adapter``: weights that each position is multiplied
    with there; ``attention``: width of all heads of all layers together (heads × head width × layers). ``llm_passes``,
    ``adapter_passes``: of its products, forward and backward."""

    layers: int
    head: int
    adapter: int
    attention: int
    llm_passes: int = PASSES
    adapter_passes: int = PASSES

    def training(self, positions: float, targets: float, speech: float, pairs: float) -> float:
        """FLOPs of a step over ``positions`` of the LLM, of which ``speech`` came through the adapter, ``targets``
        through the head; ``pairs``: (position, position it attends to), itself included, summed over sequences.

        Attention inside the adapter (spans of some dozen positions) and norms are left out: below 1 %.
        """
        products = self.llm_passes * (self.layers * positions + self.head * targets)
        products += self.adapter_passes * self.adapter * speech
        return 2 * products + PASSES * 4 * self.attention * pairs  # queries × keys, and weights × values


def shape_of(model: Any) -> Shape | None:
    """Of a SaladForConditionalGeneration, sharded or not; None for a mixture of experts, whose positions do not meet
    all weights."""
    text = model.config.text_config
    if any(getattr(text, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        return None
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    tables = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    layers = sum(numel(p) for p in model.llm.parameters() if matrix(p) and all(p is not table for table in tables))
    return Shape(
        layers=layers,
        head=numel(tables[1]),
        adapter=sum(numel(p) for p in model.adapter.parameters() if matrix(p)),
        attention=heads * width * text.num_hidden_layers,
        llm_passes=PASSES if tables[1].requires_grad else PASSES - 1,
        adapter_passes=PASSES if next(model.adapter.parameters()).requires_grad else 1,
    )


def numel(parameter: nn.Parameter) -> int:
    """Numbers in a parameter, all ranks' shares together."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def matrix(parameter: nn.Parameter) -> bool:
    """Whether positions are multiplied with it, rather than scaled or shifted by it."""
    return len(getattr(parameter, "ds_shape", parameter.shape)) > 1


def measured_peak(size: int = 768, repeats: int = 6) -> float:
    """FLOP/s of this process's CPU threads in float32: the best of a few products of two square matrices. 0.1 s."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
