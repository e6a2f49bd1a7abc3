"""safetensors files written tensor by tensor, for weights that are larger than the memory.

The library's own writer wants every tensor of a file at once. The format is a length, a JSON header and the bytes
(https://github.com/huggingface/safetensors#format); what is written here is, byte for byte, what the library writes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from salad_ds.errors import CheckpointError
from salad_ds.files import atomic_path

KINDS = {torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.uint32: "U32",
         torch.int32: "I32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16", torch.int16: "I16",
         torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}  # fmt: skip
"""Their names in the header, in the order in which the library lays tensors into a file."""


@dataclass(frozen=True)
class Entry:
    """A tensor to be written: what it will be, and how to get it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(path: Path, entries: Mapping[str, Entry]) -> None:
    """The file appears whole; one tensor at a time is in memory. Raises CheckpointError for a tensor that is not what
    its entry says."""
    kinds = list(KINDS)
    names = sorted(entries, key=lambda name: (kinds.index(entries[name].dtype), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in names:
        entry = entries[name]
        header[name] = {"dtype": KINDS[entry.dtype], "shape": list(entry.shape), "data_offsets": [at, at + entry.bytes]}
        at += entry.bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as part, open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            value, entry = entries[name].read(), entries[name]
            if tuple(value.shape) != entry.shape:
                raise CheckpointError(f"{name} is of shape {tuple(value.shape)}, not {entry.shape}",
                                      "the checkpoint is of another student: give its recipe")
            plain = value.to(entry.dtype).contiguous().reshape(-1)
            file.write(memoryview(plain.view(torch.uint8).numpy()))
