"""Checkpoints of a training stage: what they are, how they are found again, loaded and pruned; saver.py writes them.

A checkpoint is a directory ``step-00000042`` with DeepSpeed's sharded state and ``complete.json``, which names every
file with its SHA-256. It is written as ``step-00000042.part`` and takes its name last: what has the name is whole, and
what was damaged afterwards is noticed, passed over and named. The ranks share the hashing.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from salad_ds.errors import CheckpointError, SaladError
from salad_ds.files import read_json, sha256_file, write_json
from salad_ds.train.together import from_first, gathered

MARK = "complete.json"
SCHEMA = 2
UNIVERSAL = ".universal"
STEP = "step-" + "[0-9]" * 8
"""Pattern of whole checkpoints; ``.part`` and ``.universal`` directories have longer names."""


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def files_below(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def owners_below(directory: Path, group: Any = None) -> dict[str, int]:
    """Every file below ``directory`` that any rank sees, in order, and one of the ranks that see it: a network file
    system (NFS) shows the ranks of one machine what another has written with a delay. A collective."""
    listings = [set(files) for files in gathered(files_below(directory), group)]
    seen = {name: [rank for rank, files in enumerate(listings) if name in files] for name in set().union(*listings)}
    return {name: seen[name][number % len(seen[name])] for number, name in enumerate(sorted(seen))}


def shared(directory: Path, owners: dict[str, int], work: Callable[[Path], Any], group: Any = None) -> dict[str, Any]:
    """``work`` of every file of ``owners``, done by the rank named there. A collective, where there are ranks."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    parts = gathered({name: work(directory / name) for name, owner in owners.items() if owner == rank}, group)
    found = {name: told for part in parts for name, told in part.items()}
    return {name: found[name] for name in owners}


def prune(directory: Path, step: int, keep: int, keep_every: int = 0, damaged: Container[str] = ()) -> None:
    """Leave the ``keep`` newest whole checkpoints up to ``step`` and the multiples of ``keep_every``; later ones belong
    to a run that was given up, and directories of other names to one that was killed. One that is among the ``damaged``
    (names), or whose files have not the sizes that its mark says, is none."""
    whole, stay = [], set()
    for path in sorted(directory.glob(STEP)):
        try:
            if path.name <= name_of(step) and path.name not in damaged and has_its_sizes(path):
                whole.append(path)
        except OSError:  # the file system is in trouble: this one is not counted, and not removed either
            stay.add(path)
    stay |= set(whole[-keep:]) | {path for path in whole if keep_every and step_of(path) % keep_every == 0}
    for path in directory.glob("step-*"):
        if path not in stay:
            shutil.rmtree(path, ignore_errors=True)  # what is left goes with the next one


def has_its_sizes(checkpoint: Path) -> bool:
    """Whether mark and files are there, as long as they should be: what can be told without reading them all. Raises
    OSError where the file system does not say."""
    try:
        (checkpoint / MARK).read_bytes()
        fault, _, wanted = read_mark(checkpoint)
        return not fault and all((checkpoint / name).stat().st_size == size for name, (size, _) in wanted.items())
    except FileNotFoundError:
        return False


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def newest(directory: Path, recipe_digest: str, say: Callable[[str], object] = print,
           damaged: set[str] | None = None) -> tuple[Path, dict[str, Any]] | None:
    """The newest intact checkpoint and its mark; None where there is none. Every file is read; a collective, where
    there are ranks. One that was not finished, or is damaged, is passed over and named; the name of the latter is added
    to ``damaged``.

    Raises CheckpointError when it was made with other settings: continuing it would be neither run.
    """
    # Ranks of other machines may see the directory as it was (NFS).
    unfinished, whole = from_first(lambda: [sorted(directory.glob(STEP + end)) for end in (".part", "")])
    for part in unfinished:
        say(f"passing over {part}: it was not finished")
    for candidate in reversed(whole):
        fault, mark = examine(candidate)
        if fault:
            say(f"passing over {candidate}: {fault}")
            if damaged is not None:
                damaged.add(candidate.name)
            continue
        if mark["recipe"] != recipe_digest:
            raise CheckpointError(
                f"{candidate} was made by another recipe (settings {mark['recipe'][:8]}, now {recipe_digest[:8]})",
                f"restore the settings, use another workdir, or remove {directory}",
            )
        return candidate, mark
    return None


def examine(checkpoint: Path) -> tuple[str, dict[str, Any]]:
    """What is wrong with a checkpoint ("" for nothing), and its mark. A collective, where there are ranks."""
    fault, mark, wanted = from_first(lambda: read_mark(checkpoint))
    if fault:
        return fault, mark
    ranks = dist.get_world_size() if dist.is_initialized() else 1

    def told(path: Path) -> tuple[int, str] | None:
        try:
            return path.stat().st_size, sha256_file(path)
        except OSError:
            return None

    for name, found in shared(checkpoint, {name: i % ranks for i, name in enumerate(sorted(wanted))}, told).items():
        if found is None:
            return f"{name} is missing", mark
        if found[0] != wanted[name][0]:
            return f"{name} has {found[0]} bytes, not {wanted[name][0]}", mark
        if found != wanted[name]:
            return f"{name} is damaged: its checksum is another", mark
    return "", mark


def read_mark(checkpoint: Path) -> tuple[str, dict[str, Any], dict[str, tuple[int, str]]]:
    """What is wrong with the mark ("" for nothing), the mark, and size and checksum of each file it names."""
    try:
        mark = read_json(checkpoint / MARK)
        if mark["schema"] != SCHEMA:
            return f"its schema is {mark['schema']}, not {SCHEMA}", {}, {}
        return "", mark, {name: (int(size), str(digest)) for name, (size, digest) in mark["files"].items()}
    except (OSError, SaladError, KeyError, TypeError, ValueError, AttributeError):
        return f"its {MARK} is missing or damaged", {}, {}


def amend(checkpoint: Path, changes: dict[str, Any]) -> None:
    """Change what the mark of a whole checkpoint says besides its files. A collective, where there are ranks. Raises
    CheckpointError where it cannot be written."""

    def change() -> str:
        try:
            write_json(checkpoint / MARK, {**read_json(checkpoint / MARK), **changes})
        except (OSError, SaladError) as error:
            return str(error)
        return ""

    if fault := from_first(change):
        raise CheckpointError(f"{checkpoint / MARK} cannot be written: {fault}", f"make room in {checkpoint.parent}")


def load(engine: Any, checkpoint: Path) -> None:
    """Put model, optimizer and schedule back: from a checkpoint of as many ranks, or from a universal one
    (universal.py), as its name says. Raises CheckpointError for damaged shards."""
    groups = engine.optimizer.param_groups
    own = [{key: value for key, value in group.items() if key != "params"} for group in groups]
    engine._config.load_universal_checkpoint = checkpoint.suffix == UNIVERSAL
    try:
        path, _ = engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name, custom_load_fn=load_trained)
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint} cannot be loaded: {str(error) or type(error).__name__}",
            f"take the DeepSpeed config it was written with; if that is so, remove {checkpoint}",
        ) from error
    if path is None:
        raise CheckpointError(f"{checkpoint} holds no state", f"remove {checkpoint}")
    if engine.load_universal_checkpoint():
        # DeepSpeed gives all groups the settings of the first; the schedule, which it loads, knows each one's rate.
        schedule = engine.lr_scheduler
        for group, settings, base, factor in zip(groups, own, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group.update(settings | {"initial_lr": base, "lr": base * factor(schedule.last_epoch)})
        # It also gives them one and the same step counter, which each of them then advances.
        for state in engine.optimizer.optimizer.state.values():
            state["step"] = copy.deepcopy(state["step"])


def load_trained(src: dict[str, Tensor], dst: nn.Module) -> None:
    """Weights ``src`` into ``dst``: all but what is frozen, which checkpoints do not hold. Raises RuntimeError."""
    frozen = {name for name, parameter in dst.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    missing, unknown = dst.load_state_dict(src, strict=False)
    if missing := sorted(set(missing) - frozen) or unknown:
        raise RuntimeError(f"it is of another model: {missing[0]} is in one and not in the other")
