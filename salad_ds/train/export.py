"""From a training engine to a directory that ``from_pretrained`` reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn
from transformers import PreTrainedTokenizerBase

from salad_ds.files import sync_directory, sync_file
from salad_ds.model.processing import SaladProcessor


def export_student(engine: Any, encoder: nn.Module, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Gather the weights on rank 0 and write the whole student (encoder included) and its processor; all ranks must
    call it.

    The directory appears whole: it is written beside and renamed.
    """
    if engine.zero_optimization_partition_weights():
        weights = engine._zero3_consolidated_16bit_state_dict()
    else:
        weights = engine.module.state_dict()
    if dist.get_rank() == 0:
        model = engine.module
        weights = {name: value.detach().cpu() for name, value in weights.items()}
        weights |= {f"encoder.{name}": value.cpu() for name, value in encoder.state_dict().items()}
        part = directory.with_name(f".{directory.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        model.save_pretrained(str(part), state_dict=weights)
        SaladProcessor.of(model, tokenizer).save_pretrained(str(part))
        for file in part.iterdir():
            sync_file(file)
        shutil.rmtree(directory, ignore_errors=True)
        part.rename(directory)
        sync_directory(directory.parent)
    dist.barrier()
