"""What a checkpoint holds, parameter by parameter, read when it is asked for.

Three layouts: DeepSpeed's shards (each rank has a piece of the float32 weights of every group of parameters; ZeRO-3
divides each parameter, ZeRO-1 and 2 divide the group), its universal checkpoint (a file per parameter), and safetensors
of a saved student. The files are mapped, not loaded, and closed again before their pages add up: reading a model takes
the memory of its largest parameter. Layouts as in ``deepspeed/utils/zero_to_fp32.py`` (0.19.8), whose own reader joins
the whole model for ZeRO-1 and 2.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from salad_ds.errors import CheckpointError
from salad_ds.export.tensors import KINDS

WINDOW = 256 << 20
"""Bytes that are read from mapped files before they are closed."""


@dataclass(frozen=True)
class Held:
    """A parameter of a checkpoint: float32 from an optimizer, else as it was saved."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Weights:
    """``dtype``: what the parameters were in training."""

    parameters: dict[str, Held]
    dtype: torch.dtype


class Mapped:
    """Files of torch.save, mapped when they are needed; all are closed when ``WINDOW`` bytes have been read."""

    def __init__(self) -> None:
        self.opened: dict[Path, Any] = {}
        self.read = 0

    def __call__(self, path: Path) -> Any:
        if path not in self.opened:
            self.opened[path] = load(path)
        return self.opened[path]

    def count(self, value: Tensor) -> Tensor:
        """``value``, a copy out of mapped files."""
        self.read += value.nbytes
        if self.read > WINDOW:
            self.opened.clear()
            self.read = 0
        return value


def load(path: Path) -> Any:
    """A file of torch.save, mapped. Raises CheckpointError naming one that is not."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # its pickles name classes of deepspeed
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    except Exception as error:  # a pickle can fail with anything
        raise CheckpointError(f"{path} cannot be read: {str(error).splitlines()[0] if str(error) else error!r}",
                              "take another checkpoint of the stage") from None


def open_weights(checkpoint: Path) -> Weights:
    """The parameters of a checkpoint's directory, of whatever layout. Raises CheckpointError for none of them."""
    if (checkpoint / "zero").is_dir():
        return universal(checkpoint)
    if sorted(checkpoint.glob("*_optim_states.pt")):
        return sharded(checkpoint)
    if (single := checkpoint / "mp_rank_00_model_states.pt").is_file():
        return unsharded(single)
    if sorted(checkpoint.glob("*.safetensors")):
        return saved(checkpoint)
    raise CheckpointError(f"{checkpoint} holds no weights", "give a stage, one of its checkpoints, or a saved student")


def by_rank(checkpoint: Path, ending: str) -> list[Path]:
    """Files of the ranks, in order: rank 10 comes behind rank 9."""
    return sorted(checkpoint.glob(f"*{ending}"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])


def trained_in(state: dict[str, Any]) -> torch.dtype:
    """The dtype that the DeepSpeed config of a checkpoint asked for."""
    config = state.get("ds_config") or {}
    for key, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if (config.get(key) or {}).get("enabled"):
            return dtype
    return torch.float32


def sharded(checkpoint: Path) -> Weights:
    """Float32 weights from the optimizer's shards."""
    shards = by_rank(checkpoint, "_optim_states.pt")
    state = load(by_rank(checkpoint, "_model_states.pt")[0])
    optimizer = load(shards[0])["optimizer_state_dict"]
    count = optimizer["partition_count"]
    ranks = max(count) if isinstance(count, list) else int(count)
    if ranks != len(shards):
        raise CheckpointError(f"{checkpoint} has the shards of {len(shards)} ranks, not of {ranks}",
                              "copy the missing ones, or take another checkpoint")
    mapped, found = Mapped(), {}

    def buffers(path: Path) -> Any:
        """A rank's float32 weights: a buffer per group, which ZeRO-3 may divide (``sub_group_size``)."""
        own = mapped(path)["optimizer_state_dict"]
        return own["fp32_flat_groups" if third else "single_partition_of_fp32_groups"]

    def of_every_rank(at: int, size: int, shape: torch.Size) -> Callable[[], Tensor]:
        """ZeRO-3: each rank has a part of the parameter, at the same place of its buffers laid behind each other."""
        return lambda: joined([piece for path in shards for piece in stretch(buffers(path), at, size)], shape)

    def of_the_group(group: int, at: int, shape: torch.Size) -> Callable[[], Tensor]:
        """ZeRO-1 and 2: the ranks' buffers of a group, laid behind each other, are the group."""
        return lambda: joined(stretch([buffers(path)[group] for path in shards], at, shape.numel()), shape)

    def joined(pieces: list[Tensor], shape: torch.Size) -> Tensor:
        return mapped.count(torch.cat(pieces)[: shape.numel()].view(shape))

    third, paddings, at = optimizer["zero_stage"] == 3, optimizer.get("param_alignment_paddings"), 0
    for group, shapes in enumerate(state["param_shapes"]):
        at = at if third else 0
        for number, (name, shape) in enumerate(shapes.items()):
            if third:
                part = -(-shape.numel() // ranks)
                found[name] = Held(tuple(shape), torch.float32, of_every_rank(at, part, shape))
                at += part
            else:
                found[name] = Held(tuple(shape), torch.float32, of_the_group(group, at, shape))
                at += shape.numel() + (paddings[group][number] if paddings else 0)
    return Weights(found | buffers_of(state), trained_in(state))


def buffers_of(state: dict[str, Any]) -> dict[str, Held]:
    """What a module keeps beside its parameters; small."""
    return {name: in_memory(state["module"][name].clone()) for name in state.get("buffer_names") or ()}


def in_memory(value: Tensor) -> Held:
    return Held(tuple(value.shape), value.dtype, lambda: value)


def stretch(parts: list[Tensor], at: int, size: int) -> list[Tensor]:
    """``[at, at + size)`` of 1-D ``parts`` laid behind each other."""
    taken, begin = [], 0
    for part in parts:
        first, last = max(at - begin, 0), min(at + size - begin, part.numel())
        if first < last:
            taken.append(part[first:last])
        begin += part.numel()
    return taken


def unsharded(path: Path) -> Weights:
    """Without ZeRO the module's own weights lie in one file."""
    mapped = Mapped()
    module = load(path)["module"]

    def reader(name: str) -> Callable[[], Tensor]:
        return lambda: mapped.count(mapped(path)["module"][name].clone())

    found = {name: Held(tuple(value.shape), value.dtype, reader(name)) for name, value in module.items()}
    floats = [value.dtype for value in module.values() if value.is_floating_point()]
    return Weights(found, floats[0] if floats else torch.float32)


def universal(checkpoint: Path) -> Weights:
    """One file per parameter: whole with its shape, or, made of ZeRO-3, flat with what padded it to the ranks."""
    found, mapped = {}, Mapped()
    states = by_rank(checkpoint, "_model_states.pt")
    state = load(states[0]) if states else {}
    shapes = {name: shape for group in state.get("param_shapes") or () for name, shape in group.items()}

    def reader(path: Path, shape: tuple[int, ...]) -> Callable[[], Tensor]:
        return lambda: mapped.count(whole(mapped(path)).reshape(-1)[: math.prod(shape)].view(shape).clone())

    for path in sorted((checkpoint / "zero").glob("*/fp32.pt")):
        name = path.parent.name
        shape = tuple(shapes.get(name, whole(load(path)).shape))
        found[name] = Held(shape, torch.float32, reader(path, shape))
    return Weights(found | buffers_of(state), trained_in(state))


def whole(content: Any) -> Tensor:
    """The tensor in a file of a universal checkpoint."""
    return content["param"] if isinstance(content, dict) else content


def saved(directory: Path) -> Weights:
    """Of a saved student: every tensor as it is."""
    found, named = {}, {name: dtype for dtype, name in KINDS.items()}

    def reader(path: Path, name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            with safe_open(path, "pt") as file:
                return file.get_tensor(name)

        return read

    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                found[name] = Held(tuple(part.get_shape()), named[part.get_dtype()], reader(path, name))
    trained = [held.dtype for name, held in found.items() if name.startswith("adapter.")]
    return Weights(found, trained[0] if trained else torch.float32)
