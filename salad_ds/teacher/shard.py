"""One file of a teacher store: a safetensors file, memory-mapped, holding the records of a few hundred texts.

Tensors: ``keys`` [N, 16] uint8 ascending; ``starts`` [N + 1] uint32 (bytes into ``payload``), ``counts`` [N] uint32
(rows of each text), ``sums`` [N + 1] uint32 (CRC-32 of each text's bytes, then of ``ranks``); ``ranks`` [T] uint16 (or
uint32, for vocabularies beyond 65,536), the codec's list; ``payload`` [bytes] uint8. Header metadata: one entry
``salad_ds``, JSON with the store's settings, the SHA-256 of the tensors and a digest of the JSON itself. (One entry,
because safetensors writes several in no fixed order, and the same records should give the same bytes.)

The header is checked when a shard is opened, a text's bytes whenever they are read, and everything by ``verify``: a
flipped bit is found before it is learned.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from salad_ds.errors import StoreError
from salad_ds.files import atomic_path, digest_of
from salad_ds.teacher.codec import Coded

SCHEMA = 2
KEY_BYTES = 16
LABELS: dict[str, np.dtype[Any]] = {"U8": np.dtype(np.uint8), "U16": np.dtype("<u2"), "U32": np.dtype("<u4")}


def types(vocab: int) -> dict[str, str]:
    """Tensors of a shard, and their types in safetensors, in the order of the checksum."""
    ranks = "U16" if vocab <= 1 << 16 else "U32"
    return {"keys": "U8", "starts": "U32", "counts": "U32", "sums": "U32", "ranks": ranks, "payload": "U8"}


@dataclass(frozen=True)
class Shard:
    """A shard opened for reading; every array is a view of the mapped file."""

    path: Path
    header: dict[str, Any]
    keys: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    sums: np.ndarray
    ranks: np.ndarray
    payload: np.ndarray
    sound: list[bool] = field(default_factory=list, init=False, compare=False)
    """Not empty once the ranks have been compared with their checksum."""

    def record(self, place: int) -> Coded:
        """The bytes of the text at ``place``. Raises StoreError naming the file if they are not those written."""
        if not self.sound:
            if zlib.crc32(self.ranks) != self.sums[-1]:
                raise damaged(self.path, "the checksum of its ranks does not match")
            self.sound.append(True)
        data = self.payload[self.starts[place]:self.starts[place + 1]]
        if zlib.crc32(data) != self.sums[place]:
            raise damaged(self.path, f"the checksum of the text {self.keys[place].tobytes().hex()} does not match")
        return Coded(data, int(self.counts[place]), self.ranks)

    def verify(self) -> None:
        """Raises StoreError naming the file if its bytes are not those that were written."""
        if checksum({name: getattr(self, name) for name in types(1)}) != self.header["sha256"]:
            raise damaged(self.path, "its checksum does not match")


def checksum(tensors: dict[str, np.ndarray]) -> str:
    """SHA-256 over the tensors' bytes, in the order of ``types``."""
    digest = hashlib.sha256()
    for name in types(1):
        digest.update(tensors[name].data)
    return digest.hexdigest()


def damaged(path: Path, why: str) -> StoreError:
    return StoreError(f"teacher shard {path} is damaged: {why}",
                      "delete that file and run `salad-ds precompute`: only its texts are computed again")


def shard_name(keys: list[bytes]) -> str:
    """File name of the shard of these texts: the same texts have the same name on every rank and in every run."""
    return hashlib.blake2b(b"".join(sorted(keys)), digest_size=8).hexdigest() + ".safetensors"


def write_shard(directory: Path, records: list[tuple[bytes, bytes, int]], ranks: np.ndarray,
                header: dict[str, Any]) -> Path:
    """Write ``records`` (key, encoded bytes, rows) with the codec's list ``ranks`` as one shard, whole or not at all.

    ``header``: the store's settings and ``made_from``. Equal arguments give equal bytes.
    """
    records, names = sorted(records), types(header["vocab"])
    starts = np.zeros(len(records) + 1, dtype=np.int64)
    np.cumsum([len(data) for _, data, _ in records], out=starts[1:])
    if starts[-1] >= 1 << 32:
        raise StoreError(f"{len(records)} texts take {starts[-1]} bytes, more than a shard of {directory} can hold",
                         "make smaller groups")
    listed = ranks.astype(LABELS[names["ranks"]])
    tensors: dict[str, np.ndarray] = {
        "keys": np.frombuffer(b"".join(key for key, _, _ in records), dtype=np.uint8).reshape(-1, KEY_BYTES),
        "starts": starts.astype(np.uint32),
        "counts": np.array([rows for _, _, rows in records], dtype=np.uint32),
        "sums": np.array([zlib.crc32(data) for _, data, _ in records] + [zlib.crc32(listed)], dtype=np.uint32),
        "ranks": listed,
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
    records = header["records"]
    shapes = {"keys": [records, KEY_BYTES], "starts": [records + 1], "counts": [records], "sums": [records + 1],
              "ranks": None, "payload": None}
    if set(head) != set(shapes):
        raise damaged(path, "it does not hold the tensors it should")
    arrays, covered = {}, 0
    for name, label in types(header["vocab"]).items():
        arrays[name] = tensor(path, head[name], name, label, shapes[name], body)
        covered += arrays[name].nbytes
    if covered != len(body) or arrays["starts"][0] != 0 or arrays["starts"][-1] != len(arrays["payload"]):
        raise damaged(path, "its tensors do not fill it")
    return Shard(path, header, **arrays)


def tensor(path: Path, info: dict[str, Any], name: str, label: str, shape: list[int] | None,
           body: np.ndarray) -> np.ndarray:
    """View of one tensor of the file, after checking its description against what the header promises."""
    kind = LABELS[label]
    try:
        begin, end = (int(place) for place in info["data_offsets"])
        found = [int(side) for side in info["shape"]]
        fits = (set(info) == {"dtype", "shape", "data_offsets"} and info["dtype"] == label
                and 0 <= begin <= end <= len(body) and (found == shape if shape is not None else len(found) == 1)
                and end - begin == int(np.prod(found)) * kind.itemsize)
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise damaged(path, f"tensor {name!r} is not what the header says")
    return np.asarray(body[begin:end]).view(kind).reshape(found)
