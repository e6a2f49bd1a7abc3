"""The student inside a DeepSpeed engine: configuration, parameter groups, schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hjson
import torch

from salad_ds.config import TrainConfig
from salad_ds.errors import RecipeError
from salad_ds.model.salad import SaladForConditionalGeneration
from salad_ds.train.schedule import wsd_factor

OURS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
)
"""Keys of a DeepSpeed config that the recipe decides."""

WRITERS = ("writer", "datastates_ckpt")
"""Other checkpoint engines of DeepSpeed 0.19.8. Those of ``checkpoint.writer`` cannot read what they wrote (they call
torch.load with ``weights_only``, and their files hold more), find out what they run on from DeepSpeed's launcher alone,
and fail below ZeRO stage 3; the decoupled one is still at it when ours would take checksums. DataStates is no package.
See docs/bench/checkpoint.md."""


def deepspeed_config(path: str, stage: TrainConfig, ranks: int) -> dict[str, Any]:
    """The file at ``path`` (JSON with comments) with the recipe's batch sizes and clipping.

    Relative paths are looked up from the working directory, then from the repository. Raises RecipeError for a file
    that is missing or malformed, for a key the recipe decides, for a writer of checkpoints, and for bf16 without an
    accelerator.
    """
    found = next((p for p in (Path(path), Path(__file__).parents[2] / path) if p.is_file()), None)
    if found is None:
        raise RecipeError(f"DeepSpeed config {path} does not exist", "name a file of ds_configs/")
    try:
        config = hjson.loads(found.read_text())
    except hjson.HjsonDecodeError as error:
        raise RecipeError(f"{found}: {error}", "mend the file") from None
    clash = sorted(set(config) & set(OURS))
    if clash:
        raise RecipeError(
            f"{found} sets {', '.join(clash)}, which the recipe decides",
            "remove it there and set it in the recipe's stage",
        )
    writers = [key for key in WRITERS if key in config or key in config.get("checkpoint", {})]
    if writers:
        raise RecipeError(f"{found} sets {writers[0]}: such a checkpoint could neither be checked nor read again here",
                          "remove it; stages.*.async_checkpoints writes beside the steps")
    if not torch.cuda.is_available() and (
        config.get("bf16", {}).get("enabled") or config.get("fp16", {}).get("enabled")
    ):
        raise RecipeError(
            f"{found} asks for 16-bit training and there is no accelerator", "take ds_configs/zero3_cpu.json"
        )
    config["train_micro_batch_size_per_gpu"] = stage.micro_batch
    config["gradient_accumulation_steps"] = accumulation(stage, ranks)
    config["gradient_clipping"] = stage.clip  # DeepSpeed's own default is 1.0, not off
    config["zero_allow_untested_optimizer"] = True
    return dict(config)


def accumulation(stage: TrainConfig, ranks: int) -> int:
    """Micro-batches per rank and optimizer step. Raises RecipeError when global_batch does not divide."""
    rows = stage.micro_batch * ranks
    if stage.global_batch % rows:
        raise RecipeError(
            f"global_batch {stage.global_batch} is not a multiple of micro_batch {stage.micro_batch} × {ranks} ranks",
            "change stages.*.global_batch, micro_batch or the number of ranks",
        )
    return stage.global_batch // rows


def parameter_groups(model: SaladForConditionalGeneration, stage: TrainConfig) -> list[dict[str, Any]]:
    """Adapter and LLM, each with its learning rate. A tied weight is listed once; what is frozen not at all."""
    groups = []
    for name, module, rate in (("adapter", model.adapter, stage.lr_adapter), ("llm", model.llm, stage.lr_llm)):
        if parameters := [p for p in module.parameters() if p.requires_grad]:
            groups.append({"params": parameters, "name": name, "lr": rate, "weight_decay": stage.weight_decay})
    return groups


def freeze(model: SaladForConditionalGeneration, stage: TrainConfig) -> None:
    """What has a learning rate of 0 gets no gradient and no optimizer state, and is in no checkpoint."""
    model.adapter.requires_grad_(stage.lr_adapter > 0)
    model.llm.requires_grad_(stage.lr_llm > 0)


def start_engine(model: SaladForConditionalGeneration, stage: TrainConfig, config: dict[str, Any]) -> Any:
    """``deepspeed.initialize`` with AdamW (torch's), a group of parameters for each part that is trained, and the WSD
    schedule."""
    import deepspeed

    freeze(model, stage)
    optimizer = torch.optim.AdamW(parameter_groups(model, stage), betas=(stage.betas[0], stage.betas[1]), eps=stage.eps)

    def scheduler(inner: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(
            inner, lambda step: wsd_factor(step, stage.steps, stage.warmup_steps, stage.decay_share)
        )

    model.train()  # DeepSpeed leaves the mode alone, and gradient checkpointing works in training mode only
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=scheduler, config=config)
    return engine
