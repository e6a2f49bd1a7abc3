"""Going on with another number of ranks: DeepSpeed's universal checkpoint format.

A sharded checkpoint holds what each rank had; the universal one, which ``deepspeed.checkpoint.ds_to_universal`` makes
of it, holds every parameter whole with its optimizer state, and any number of ranks can load it. It lies beside the
checkpoint as ``step-00000042.universal``, as large as that, until the next checkpoint is written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch.distributed as dist

from salad_ds.environment import cores
from salad_ds.errors import CheckpointError
from salad_ds.train.checkpoint import UNIVERSAL
from salad_ds.zero import PATIENCE


def for_ranks(checkpoint: Path, written_by: int) -> Path:
    """What these ranks load of a checkpoint that ``written_by`` ranks wrote: itself, or, for another number of ranks,
    its universal copy, made here if it is not there. A collective.

    Raises CheckpointError where the conversion fails.
    """
    if written_by == dist.get_world_size():
        return checkpoint
    target = checkpoint.with_name(checkpoint.name + UNIVERSAL)
    fault = [""]
    if dist.get_rank() == 0 and not target.is_dir():
        print(f"{checkpoint} was written by {written_by} ranks, not {dist.get_world_size()}: making it universal")
        fault = [convert(checkpoint, target)]
    group = dist.new_group(backend="gloo", timeout=PATIENCE)  # a large one takes longer than a collective may
    dist.broadcast_object_list(fault, src=0, group=group)
    if fault[0]:
        raise CheckpointError(f"{checkpoint} cannot be made universal: {fault[0]}", f"go on with {written_by} ranks")
    return target


def convert(checkpoint: Path, target: Path) -> str:
    """The last line of what went wrong, "" for nothing."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    workers = str(min(cores(), 8))
    # Its own process: it forks, and this one holds process groups and threads.
    done = subprocess.run(
        [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", str(checkpoint.absolute()),
         "--output_folder", str(part.absolute()), "--num_extract_workers", workers, "--num_merge_workers", workers],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        return (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
    (target.parent / "latest_universal").unlink(missing_ok=True)  # names the directory that is renamed here
    part.rename(target)
    return ""
