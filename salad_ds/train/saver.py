"""Writing the checkpoints of a stage: while the step waits, or beside the steps behind it.

DeepSpeed gives each file of a checkpoint to its checkpoint engine, which may be another than its own: here one that
writes the file at once, or copies what is in it to host memory and leaves the rest (writing, syncing, checksums, the
mark, the name) to a thread of every rank. The threads speak through a process group of their own, and the name still
comes last, when all ranks' files are on disk: whatever is killed in between, the checkpoint before is the newest whole
one. What goes wrong in a thread is raised, on all ranks, before their next step.

DeepSpeed 0.19.8 has writers of its own (``checkpoint.writer`` in its config), which docs/bench/checkpoint.md measures;
engine.py refuses them and says why.
"""

from __future__ import annotations

import copy
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree  # what DeepSpeed and transformers use; torch has no public one

from salad_ds.errors import CheckpointError
from salad_ds.files import sha256_file, sync_directory, sync_file, write_json
from salad_ds.train.checkpoint import MARK, SCHEMA, name_of, owners_below, prune, shared
from salad_ds.train.frozen import KEY as FROZEN
from salad_ds.train.together import gathered
from salad_ds.zero import PATIENCE

T = TypeVar("T")


class Shards:
    """DeepSpeed's checkpoint engine ``inner``, asked to save now or ``later``.

    A file that cannot be written does not raise here, in the midst of DeepSpeed's collectives, where the other ranks
    would wait for this one: ``require`` does.
    """

    def __init__(self, inner: Any, later: bool, frozen: frozenset[str] = frozenset()) -> None:
        self.inner, self.later = inner, later
        self.frozen = frozen
        """Weights that are left out. DeepSpeed does that itself, but for the second name of a tied one."""
        self.written: list[str] = []
        """Files of the newest checkpoint that this rank has written, or will."""
        self.waiting: list[tuple[Any, str]] = []
        self.fault: Exception | None = None
        self.host: dict[tuple[int, int], Tensor] = {}
        """Host memory by (file, tensor), kept for the next checkpoint: getting it anew takes longer than the copy."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def begin(self) -> None:
        self.written, self.waiting, self.fault = [], [], None

    def save(self, state_dict: dict[str, Any], path: str) -> None:
        self.written.append(path)
        for name in self.frozen & set(state_dict.get("module") or ()):
            del state_dict["module"][name]
        if self.later:
            self.waiting.append((self.copied(state_dict), path))
        else:
            self.write(state_dict, path)

    def copied(self, state: Any) -> Any:
        """``state`` as it is now: its tensors in host memory, everything else copied."""
        leaves, shape = pytree.tree_flatten(state)
        held = [self.held(leaf, (len(self.written), number)) for number, leaf in enumerate(leaves)]
        if any(isinstance(leaf, Tensor) and leaf.is_cuda for leaf in leaves):
            torch.cuda.synchronize()
        return pytree.tree_unflatten(held, shape)

    def held(self, leaf: Any, place: tuple[int, int]) -> Any:
        if not isinstance(leaf, Tensor):
            return copy.deepcopy(leaf)
        kept = self.host.get(place)
        if kept is None or kept.shape != leaf.shape or kept.dtype != leaf.dtype:
            kept = self.host[place] = torch.empty(leaf.shape, dtype=leaf.dtype, pin_memory=leaf.is_cuda)
        return kept.copy_(leaf.detach(), non_blocking=True)

    def write(self, state: Any, path: str) -> None:
        try:
            if self.fault is None:
                self.inner.save(state, path)
        except (OSError, RuntimeError) as error:  # the latter is what torch's zip writer says of a full disk
            self.fault = error

    def require(self) -> None:
        """Write what waits. Raises what went wrong in that, or before."""
        for state, path in self.waiting:
            self.write(state, path)
        self.waiting = []
        if self.fault is not None:
            raise self.fault


@dataclass
class Saver:
    """Writes the checkpoints of a stage, one at a time; made by every rank, and called by all together.

    ``recipe_digest`` becomes part of the mark. Of the whole ones the newest ``keep`` stay, and those of steps that are
    multiples of ``keep_every`` (0: none); ``damaged``: names of some that are known not to be whole; ``frozen_digest``:
    of what no checkpoint holds (frozen_identity), part of the mark. ``later``: write beside the steps that
    follow, for which every rank keeps a copy of its share of the state in host memory.
    """

    engine: Any
    directory: Path
    recipe_digest: str
    keep: int
    keep_every: int = 0
    later: bool = False
    damaged: set[str] = field(default_factory=set)
    frozen_digest: str = ""

    def __post_init__(self) -> None:
        weights = self.engine.module.named_parameters(remove_duplicate=False)
        frozen = frozenset(name for name, parameter in weights if not parameter.requires_grad)
        self.shards = self.engine.checkpoint_engine = Shards(self.engine.checkpoint_engine, self.later, frozen)
        self.group = dist.new_group(backend="gloo", timeout=PATIENCE)  # ranks may write for different times
        self.thread: threading.Thread | None = None
        self.fault: Exception | None = None

    def __call__(self, step: int, state: dict[str, Any]) -> None:
        """Write the checkpoint of ``step``: every rank its shards, rank 0 the mark, which ``state`` becomes part of.

        Waits for the checkpoint before. Raises CheckpointError, on all ranks, where one of them cannot write (the disk
        is full) or could not write that; the earlier checkpoints are untouched.
        """
        self.wait()
        part = self.directory / (name_of(step) + ".part")
        self.agreed(step, lambda: fresh(part) if dist.get_rank() == 0 else None)
        self.shards.begin()
        try:
            self.engine.save_checkpoint(str(self.directory), tag=part.name, save_latest=False,
                                        exclude_frozen_parameters=True)  # fmt: skip
        except OSError as error:  # of what DeepSpeed copies itself
            raise self.failure(step, str(error)) from error
        if not self.later:
            self.finish(step, state)
            return
        self.thread = threading.Thread(target=self.beside, args=(step, copy.deepcopy(state)), name="checkpoint",
                                       daemon=True)  # fmt: skip
        self.thread.start()

    def join(self) -> None:
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def forget(self) -> None:
        """Wait for the newest checkpoint, and let it be if it could not be written: some ranks may know, others not."""
        self.join()
        self.fault = None

    def wait(self) -> None:
        """Until the newest checkpoint has its name. Raises CheckpointError where it could not be written."""
        self.join()
        self.require()

    def require(self) -> None:
        """Raises, once, what a thread of this rank has ended with."""
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault

    def beside(self, step: int, state: dict[str, Any]) -> None:
        try:
            self.finish(step, state)
        except Exception as error:  # for the thread that trains
            self.fault = error

    def finish(self, step: int, state: dict[str, Any]) -> None:
        """From what DeepSpeed wants saved to a whole checkpoint with its name."""
        target = self.directory / name_of(step)
        part = target.with_name(target.name + ".part")

        def write() -> dict[str, tuple[int, str]]:
            self.shards.require()
            return {os.path.relpath(path, part): durable(Path(path)) for path in self.shards.written}

        digests = {name: told for own in self.agreed(step, write) for name, told in own.items()}
        # Only DeepSpeed's copies of what it has swapped to NVMe are left.
        owners = {name: owner for name, owner in owners_below(part, self.group).items() if name not in digests}
        digests |= shared(part, owners, durable, self.group)
        mark = {"schema": SCHEMA, "step": step, "recipe": self.recipe_digest, "ranks": dist.get_world_size(),
                **({FROZEN: self.frozen_digest} if self.frozen_digest else {}), **state}  # fmt: skip
        self.agreed(step, lambda: self.give_name(part, target, mark, digests) if dist.get_rank() == 0 else None)

    def give_name(self, part: Path, target: Path, mark: dict[str, Any], digests: dict[str, tuple[int, str]]) -> None:
        write_json(part / MARK, {**mark, "files": {name: list(digests[name]) for name in sorted(digests)}})
        if target.exists():  # of a run that was given up, or damaged
            shutil.rmtree(target)
        part.rename(target)
        sync_directory(self.directory)
        self.damaged.discard(target.name)
        prune(self.directory, mark["step"], self.keep, self.keep_every, self.damaged)

    def agreed(self, step: int, work: Callable[[], T]) -> list[T]:
        """What ``work`` returns on every rank. Raises CheckpointError on all of them where it failed on some. A
        collective."""
        fault, value = None, None
        try:
            value = work()
        except Exception as error:
            fault = error
        words = "" if fault is None else (str(fault) or type(fault).__name__).splitlines()[0]
        told = gathered((words, value), self.group)
        for rank, (why, _) in enumerate(told):
            if why:
                if dist.get_rank() == 0:
                    shutil.rmtree(self.directory / (name_of(step) + ".part"), ignore_errors=True)
                raise self.failure(step, f"rank {rank}: {why}") from fault
        return [found for _, found in told]

    def failure(self, step: int, why: str) -> CheckpointError:
        return CheckpointError(f"the checkpoint of step {step} cannot be written: {why}",
                               f"make room in {self.directory} and start again: the last checkpoint is whole")


def fresh(part: Path) -> None:
    """An empty place for a checkpoint."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)


def durable(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 of a file that is on disk now."""
    return sync_file(path), sha256_file(path)
