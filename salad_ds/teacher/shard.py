"""One file of a teacher store: a safetensors file, memory-mapped, holding the records of a few hundred texts.

Tensors: ``keys`` [N, 16] uint8 ascending, ``starts`` [N + 1] int64 (bytes into ``payload``), ``counts`` [N] int32 (rows
of each text), ``payload`` [bytes] uint8. Header metadata: one entry ``salad_ds``, JSON with the store's settings, the
SHA-256 of the tensors and a digest of the JSON itself, so that a flipped bit anywhere in the file is found. (One entry,
because safetensors writes several in no fixed order, and the same records should give the same bytes.)
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from salad_ds.errors import StoreError
from salad_ds.files import atomic_path, digest_of

SCHEMA = 1
KEY_BYTES = 16
TYPES = {"keys": ("U8", np.uint8), "starts": ("I64", np.int64), "counts": ("I32", np.int32),
         "payload": ("U8", np.uint8)}


@dataclass(frozen=True)
class Shard:
    """A shard opened for reading; every array is a view of the mapped file."""

    path: Path
    header: dict[str, Any]
    keys: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    payload: np.ndarray

    def record(self, place: int) -> tuple[np.ndarray, int]:
        """(encoded bytes, rows) of the text at ``place``."""
        return self.payload[self.starts[place]:self.starts[place + 1]], int(self.counts[place])

    def verify(self) -> None:
        """Raises StoreError naming the file if its bytes are not those that were written."""
        if checksum({name: getattr(self, name) for name in TYPES}) != self.header["sha256"]:
            raise damaged(self.path, "its checksum does not match")


def checksum(tensors: dict[str, np.ndarray]) -> str:
    """SHA-256 over the tensors' bytes, in the order of ``TYPES``."""
    digest = hashlib.sha256()
    for name in TYPES:
        digest.update(tensors[name].data)
    return digest.hexdigest()


def damaged(path: Path, why: str) -> StoreError:
    return StoreError(f"teacher shard {path} is damaged: {why}",
                      "delete that file and run `salad-ds precompute`: only its texts are computed again")


def shard_name(keys: list[bytes]) -> str:
    """File name of the shard of these texts: the same texts have the same name on every rank and in every run."""
    return hashlib.blake2b(b"".join(sorted(keys)), digest_size=8).hexdigest() + ".safetensors"


def write_shard(directory: Path, records: list[tuple[bytes, bytes, int]], header: dict[str, Any]) -> Path:
    """Write ``records`` (key, encoded bytes, rows) as one shard, whole or not at all.

    ``header``: the store's settings and ``made_from``. Equal arguments give equal bytes.
    """
    records = sorted(records)
    starts = np.zeros(len(records) + 1, dtype=np.int64)
    np.cumsum([len(data) for _, data, _ in records], out=starts[1:])
    tensors = {
        "keys": np.frombuffer(b"".join(key for key, _, _ in records), dtype=np.uint8).reshape(-1, KEY_BYTES),
        "starts": starts,
        "counts": np.array([rows for _, _, rows in records], dtype=np.int32),
        "payload": np.frombuffer(b"".join(data for _, data, _ in records), dtype=np.uint8),
    }
    path = directory / shard_name([key for key, _, _ in records])
    text = {**header, "schema": SCHEMA, "records": len(records), "rows": int(tensors["counts"].sum()),
            "sha256": checksum(tensors)}
    with atomic_path(path) as part:
        save_file(tensors, part, {"salad_ds": json.dumps({**text, "digest": digest_of(text)}, sort_keys=True)})
    return path


def open_shard(path: Path) -> Shard:
    """Map a shard. Its structure is checked here, its checksum by ``Shard.verify``. Raises StoreError naming it."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            if length > size - 8:
                raise damaged(path, "it is cut short")
            head = json.loads(file.read(length))
        meta = head.pop("__metadata__")
        header = json.loads(meta.pop("salad_ds"))
        digest = header.pop("digest")
    except (OSError, struct.error, ValueError, KeyError, AttributeError, TypeError) as error:
        raise damaged(path, f"its header cannot be read ({type(error).__name__})") from None
    if meta or digest_of(header) != digest:
        raise damaged(path, "its header was changed")
    if header["schema"] != SCHEMA:
        raise StoreError(f"teacher shard {path} has schema {header['schema']}, this version reads {SCHEMA}",
                         "install the salad_ds that wrote it, or precompute again")
    body = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
    shapes = {"keys": [header["records"], KEY_BYTES], "starts": [header["records"] + 1], "counts": [header["records"]],
              "payload": None}
    if set(head) != set(shapes):
        raise damaged(path, "it does not hold the tensors it should")
    arrays, covered = {}, 0
    for name, shape in shapes.items():
        arrays[name] = tensor(path, head[name], name, shape, body)
        covered += arrays[name].nbytes
    if covered != len(body) or arrays["starts"][0] != 0 or arrays["starts"][-1] != len(arrays["payload"]):
        raise damaged(path, "its tensors do not fill it")
    return Shard(path, header, arrays["keys"], arrays["starts"], arrays["counts"], arrays["payload"])


def tensor(path: Path, info: dict[str, Any], name: str, shape: list[int] | None, body: np.ndarray) -> np.ndarray:
    """View of one tensor of the file, after checking its description against what the header promises."""
    label, kind = TYPES[name]
    try:
        begin, end = (int(place) for place in info["data_offsets"])
        found = [int(side) for side in info["shape"]]
        fits = (set(info) == {"dtype", "shape", "data_offsets"} and info["dtype"] == label
                and 0 <= begin <= end <= len(body) and (found == shape if shape is not None else len(found) == 1)
                and end - begin == int(np.prod(found)) * np.dtype(kind).itemsize)
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise damaged(path, f"tensor {name!r} is not what the header says")
    return np.asarray(body[begin:end]).view(kind).reshape(found)
