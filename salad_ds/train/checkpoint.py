"""Checkpoints of a training stage: written beside, marked complete, found again, pruned.

A checkpoint is a directory ``step-00000042`` with DeepSpeed's sharded state and ``complete.json``, which is written
last: a directory without it is half-written and is passed over, by name.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from salad_ds.errors import CheckpointError
from salad_ds.files import read_json, sync_directory, sync_file, write_json

MARK = "complete.json"


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def save(engine: Any, directory: Path, step: int, recipe_digest: str, state: dict[str, Any], keep: int) -> None:
    """Write the checkpoint of ``step``: every rank its shards, rank 0 the mark, which ``state`` becomes part of.

    Of the complete ones the newest ``keep`` stay; what a killed job left half-written goes.
    """
    target = directory / name_of(step)
    rank = dist.get_rank()
    if rank == 0:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
    dist.barrier()
    engine.save_checkpoint(str(directory), tag=target.name, save_latest=False, exclude_frozen_parameters=True)
    dist.barrier()
    if rank == 0:
        files = {str(f.relative_to(target)): sync_file(f) for f in sorted(target.rglob("*")) if f.is_file()}
        write_json(
            target / MARK,
            {
                "schema": 1,
                "step": step,
                "recipe": recipe_digest,
                "ranks": dist.get_world_size(),
                **state,
                "files": files,
            },
        )
        sync_directory(directory)
        prune(directory, step, keep)
    dist.barrier()


def prune(directory: Path, step: int, keep: int) -> None:
    """Leave the ``keep`` newest complete checkpoints up to ``step``; later ones belong to a run that was given up."""
    found = sorted(directory.glob("step-*"))
    complete = [path for path in found if path.name <= name_of(step) and (path / MARK).is_file()]
    for path in found:
        if path not in complete[-keep:]:
            shutil.rmtree(path)


def newest(directory: Path, recipe_digest: str, say: Any = print) -> tuple[Path, dict[str, Any]] | None:
    """The newest complete checkpoint and its mark; None where there is none. A half-written one is passed over and
    named.

    Raises CheckpointError when it was made with other settings: continuing it would be neither run.
    """
    for candidate in sorted(directory.glob("step-*"), reverse=True):
        if not (candidate / MARK).is_file():
            say(f"passing over {candidate}: it was not finished")
            continue
        mark = read_json(candidate / MARK)
        damaged = [
            name
            for name, size in mark["files"].items()
            if not (candidate / name).is_file() or (candidate / name).stat().st_size != size
        ]
        if damaged:
            say(f"passing over {candidate}: {damaged[0]} is missing or cut short")
            continue
        if mark["recipe"] != recipe_digest:
            raise CheckpointError(
                f"{candidate} was made by another recipe (settings {mark['recipe'][:8]}, now {recipe_digest[:8]})",
                f"restore the settings, use another workdir, or remove {directory}",
            )
        return candidate, mark
    return None


def load(engine: Any, checkpoint: Path, mark: dict[str, Any]) -> None:
    """Put model, optimizer and schedule back. Raises CheckpointError for another number of ranks or damaged shards."""
    if mark["ranks"] != dist.get_world_size():
        raise CheckpointError(
            f"{checkpoint} was written by {mark['ranks']} ranks, this run has {dist.get_world_size()}",
            f"run with {mark['ranks']} ranks, or convert it with deepspeed.checkpoint.ds_to_universal",
        )
    try:
        path, _ = engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint} cannot be loaded: {error}", f"remove {checkpoint}: the one before it is used"
        ) from error
    if path is None:
        raise CheckpointError(f"{checkpoint} holds no state", f"remove {checkpoint}")
