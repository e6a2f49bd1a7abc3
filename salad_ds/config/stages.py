"""The training stages."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from salad_ds.config.data import SourceConfig


@dataclass
class TrainConfig:
    """One training stage (SALAD (arXiv 2510.13632), 'Training'). The defaults are the paper's Stage I for a 3B LLM."""

    sources: list[SourceConfig] = MISSING
    """What is trained on."""
    init_from: str | None = None
    """An earlier stage of this recipe (``stage1``), or the directory of a saved student, to start from; by default a
    fresh one."""
    steps: int = 24000
    """Optimizer steps."""
    ranks: int = 1
    """Processes on this machine when ``salad-ds run`` launches the stage; under your own launcher its world size
    counts."""
    micro_batch: int = 1
    """Rows of ``data.context`` positions per rank and forward pass."""
    global_batch: int = 512
    """Rows per optimizer step over all ranks: micro_batch × ranks × accumulation."""
    alpha: float = 1.0
    """Loss = alpha · KL(teacher ‖ student) + (1 − alpha) · NLL."""
    temperature: float = 1.0
    """T of the KL, which is then T² · KL between both distributions at T (arXiv 1503.02531). Other than 1 needs
    ``teacher.mode: live``: what is stored of a distribution cannot be tempered again."""
    lr_adapter: float = 1e-3
    """Highest learning rate of the adapter (AdamW: the stage's rates, decay, betas and eps)."""
    lr_llm: float = 5e-5
    """Highest learning rate of the LLM. 0 freezes it, and of the adapter likewise: no gradients, no optimizer state,
    not in the checkpoints."""
    weight_decay: float = 0.1
    """Of every parameter that is trained, decoupled from the gradient."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """Of the gradient's and its square's running means."""
    eps: float = 1e-8
    """Added to the root of the latter."""
    warmup_steps: int = 500
    """First steps, over which the rates rise linearly."""
    decay_share: float = 0.2
    """Last share of the steps, over which the rate falls linearly to 0."""
    clip: float = 1.0
    """Gradient-norm clipping; 0 switches it off."""
    deepspeed: str = "ds_configs/zero3.json"
    """DeepSpeed config: ZeRO stage, offload, precision. Batch sizes and clipping come from the recipe."""
    checkpoint_every: int = 500
    """Steps between checkpoints; one is also written at the end and when told to stop."""
    keep: int = 2
    """Newest checkpoints kept."""
    keep_every: int = 0
    """Checkpoints of steps that are multiples of this stay for good, and it is one of ``checkpoint_every``; 0: none
    do."""
    async_checkpoints: bool = False
    """Write a checkpoint beside the steps behind it, which wait only until it is copied to host memory: every rank
    keeps room there for its share of the state (12 bytes per parameter over all ranks)."""
    spike: float = 0.0
    """A step whose loss is above this many times the median of the latest 64 is discarded before it changes the
    weights, as one that is not finite always is; 0: only those. It counts as a step, and the learning rate moves on."""
    bad_steps: int = 5
    """So many discarded steps in a row, and the stage goes back to its newest checkpoint, and on with the data behind
    them; after the third time to the same one it stops."""
    silence_seconds: float = 40.0
    """A rank that has not been heard of for so long is lost (killed, stopped, its host or network gone): every other
    rank prints its stacks and ends. 0: nobody listens."""
    hang_minutes: float = 30.0
    """Likewise when no step has ended for so long. 0: nobody looks."""
    seed: int = 0
    """Of the order of the samples and of their interleaving."""
    log_every: int = 1
    """Steps between lines of the log and points of the curves."""
    probe_every: int = 0
    """Every so many steps M (also with another utterance's speech), F and L of the first ``probe_items`` utterances of
    ``measure.speech``; 0 for never. What is trained does not depend on it."""
    probe_items: int = 16
    """How many utterances are probed."""


BOOKKEEPING = {
    "keep", "keep_every", "checkpoint_every", "silence_seconds", "hang_minutes", "log_every", "deepspeed", "ranks",
    "micro_batch", "probe_every", "probe_items", "async_checkpoints",
}  # fmt: skip
"""Settings of a stage that leave its result as it is: they may change between a stop and a resume."""
