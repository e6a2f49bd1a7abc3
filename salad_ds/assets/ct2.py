"""Read the weights of a CTranslate2 ``model.bin`` (format versions 5 and 6), without CTranslate2.

Layout, little-endian: u32 version; string spec name; u32 spec revision; u32 number of variables; then per variable a
string name, u8 rank, u32 × rank shape, u8 dtype, u32 byte count, bytes; u32 number of aliases; two strings per alias.
A string is u16 length (its terminating NUL included) and the bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from salad_ds.errors import AssetError

DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"), 1: np.dtype("i1"), 2: np.dtype("<i2"), 3: np.dtype("<i4"), 4: np.dtype("<f2"),
}


@dataclass
class Ct2Model:
    """``spec`` such as ``WhisperSpec``; ``weights`` name → array (views of the file's bytes, in its dtype)."""

    spec: str
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def fp32(self, name: str) -> np.ndarray:
        """One weight as a float32 copy. Raises AssetError naming what is missing."""
        if name not in self.weights:
            raise AssetError(f"the CTranslate2 model has no weight {name!r}",
                             "use the pinned asset packages")
        return self.weights[name].astype(np.float32)


class Cursor:
    """Reads forward through bytes; reading past the end is an AssetError."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data, self.at = memoryview(data), 0

    def take(self, count: int) -> memoryview:
        if self.at + count > len(self.data):
            raise AssetError(f"the CTranslate2 model ends at byte {len(self.data)}, in the middle of a value",
                             "reinstall the package it came from")
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, kind: str) -> int:
        return struct.unpack("<" + kind, self.take(struct.calcsize(kind)))[0]

    def string(self) -> str:
        try:
            return bytes(self.take(self.number("H"))).rstrip(b"\0").decode()
        except UnicodeDecodeError:
            raise AssetError("the CTranslate2 model holds a name that is not text",
                             "reinstall the package it came from") from None


def read(data: bytes) -> Ct2Model:
    """Parse a whole ``model.bin``. Raises AssetError when it is not one, is cut short, or has a dtype not read here."""
    cursor = Cursor(data)
    version = cursor.number("I")
    if version not in (5, 6):
        raise AssetError(f"not a CTranslate2 model of format 5 or 6 (it says {version})",
                         "use the pinned asset packages")
    model = Ct2Model(cursor.string())
    cursor.number("I")
    for _ in range(cursor.number("I")):
        name = cursor.string()
        shape = [cursor.number("I") for _ in range(cursor.number("B"))]
        dtype = DTYPES.get(kind := cursor.number("B"))
        raw = cursor.take(cursor.number("I"))
        if dtype is None or len(raw) != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
            raise AssetError(f"the CTranslate2 weight {name!r} has dtype {kind} and {len(raw)} bytes for shape {shape}",
                             "reinstall the package it came from")
        model.weights[name] = np.frombuffer(raw, dtype).reshape(shape)
    for _ in range(cursor.number("I")):
        alias, name = cursor.string(), cursor.string()
        if name in model.weights:
            model.weights[alias] = model.weights[name]
    return model
