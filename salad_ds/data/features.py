"""Cached encoder frames: the sidecar ``<shard>.features.safetensors`` of a speech shard, memory-mapped.

The encoder is frozen, so what it says about a recording is the same in every epoch and for every student: ``salad-ds
encode`` writes it once, and training reads the frames of its spans instead of decoding, resampling and encoding sound.
A sidecar holds the frames of *whole* recordings, of which a span is a slice (``data.span_encoding=slice``), or of their
words, each encoded by itself (``words``): spans are drawn anew in every epoch, so frames of spans that are encoded by
themselves cannot be kept.

Tensors: ``starts`` [n + 1] int64 (rows of ``frames``), ``counts`` [n] int64 (frames of each sample; 0 where it could
not be encoded), ``frames`` [rows, W] float16 or float32, or [rows, bytes] uint8 for codes, packed; ``keys`` uint8 (the
samples' keys, each on a line). Header metadata: one entry ``salad_ds``, JSON with schema, the shard's SHA-256, the
encoder's identity, the encoding (``slice``, ``words``), dtype and width, the SHA-256 of the tensors and a digest of the
JSON itself.

Size per second of speech: Whisper base in float16 51 kB, in float32 102 kB; Mimi's latents 13 and 26 kB, its codes
(32 of 11 bits per frame) 0.55 kB.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from salad_ds.config import DataConfig
from salad_ds.data import storage
from salad_ds.data.shard_ref import sidecar_path
from salad_ds.data.shard_set import AT_ONCE, Recent, ShardSet
from salad_ds.errors import DataError
from salad_ds.files import atomic_path, digest_of

SCHEMA = 1
LABELS = {"float16": "F16", "float32": "F32", "codes": "U8"}
AGAIN = "delete it and run salad-ds encode again"
SIDECAR_BYTES, SIDECARS_OPEN = 256 << 20, 128
"""What is kept of open sidecars: bytes of their keys, of 160 or so each, and number."""


class Encoder(Protocol):
    """What a format is taken from: model/encoder_base.SpeechEncoder."""

    hidden_size: int
    codebooks: int
    code_bits: int

    def identity(self) -> str: ...


@dataclass(frozen=True)
class FrameFormat:
    """What a sidecar holds. ``encoder``: the identity of the one whose frames they are. ``dtype``: ``float16``,
    ``float32`` or ``codes``. ``width``: features, or codes, per frame. ``bits``: of a code. ``encoding``: ``slice``,
    whole recordings, or ``words``, one word behind the other, each encoded by itself."""

    encoder: str
    dtype: str
    width: int
    bits: int = 0
    encoding: str = "slice"

    @classmethod
    def of(cls, encoder: Encoder, dtype: str, encoding: str = "slice") -> FrameFormat:
        """``dtype``: ``data.cache_dtype``; codes are kept as they are. Reads the encoder's weights, to name it."""
        if encoder.codebooks:
            return cls(encoder.identity(), "codes", encoder.codebooks, encoder.code_bits, encoding)
        return cls(encoder.identity(), dtype, encoder.hidden_size, encoding=encoding)

    @property
    def kept(self) -> np.dtype:
        """Of the values in the file."""
        return np.dtype(np.uint8 if self.dtype == "codes" else self.dtype)

    @property
    def columns(self) -> int:
        """Values per frame in the file."""
        return -(-self.width * self.bits // 8) if self.dtype == "codes" else self.width

    @property
    def frame_bytes(self) -> int:
        return self.columns * self.kept.itemsize

    def pack(self, frames: np.ndarray) -> np.ndarray:
        """[n, width] frames (codes: integers from 0 to 2 ** bits - 1) → [n, columns] as in the file.

        Raises DataError for values that do not fit.
        """
        if self.dtype != "codes":
            with np.errstate(over="ignore"):
                packed = frames.astype(self.kept)
            if not np.isfinite(packed).all():
                raise DataError(f"frames do not fit {self.dtype} (up to {np.abs(frames).max():.3g})",
                                "set data.cache_dtype=float32")
            return packed
        if frames.size and not 0 <= frames.min() <= frames.max() < 1 << self.bits:
            raise DataError(f"codes from {frames.min()} to {frames.max()} do not fit {self.bits} bits")
        bits = (frames[..., None].astype(np.int64) >> np.arange(self.bits)) & 1
        return np.packbits(bits.reshape(len(frames), self.width * self.bits).astype(np.uint8), axis=1)

    def unpack(self, rows: np.ndarray) -> np.ndarray:
        """The inverse of ``pack``: [n, width] float16, float32, or int16 codes. A copy."""
        if self.dtype != "codes":
            return np.array(rows)
        bits = np.unpackbits(rows, axis=1, count=self.width * self.bits).reshape(len(rows), self.width, self.bits)
        return (bits.astype(np.int16) << np.arange(self.bits, dtype=np.int16)).sum(-1, dtype=np.int16)

    def silence(self, frames: int) -> np.ndarray:
        """[frames, width] that become features of zeros."""
        if self.dtype == "codes":
            return np.full((frames, self.width), -1, np.int16)
        return np.zeros((frames, self.width), self.kept)

    def header(self, shard_sha256: str) -> dict[str, Any]:
        return {"schema": SCHEMA, "shard_sha256": shard_sha256, **vars(self)}


def wanted_format(encoder: Encoder, data: DataConfig) -> FrameFormat | None:
    """What sidecars must hold for this encoder and these settings; None where features come from audio."""
    return FrameFormat.of(encoder, data.cache_dtype, data.span_encoding) if data.features == "cache" else None


def features_path(shards: ShardSet, number: int) -> Path:
    """Where the sidecar of the shard with this number lies: beside the manifest, wherever the tar is.

    Raises DataError where the manifest lies at a URL: sidecars are mapped, which takes a file system.
    """
    place = sidecar_path(shards.shards[number], ".features.safetensors")
    path = storage.local(place)
    if path is None:
        raise DataError(f"{storage.shown(place)} is no file of this machine",
                        "keep the manifest on a local or network file system; the tars may stay where they are")
    return path


@contextlib.contextmanager
def write_features(
    path: Path, form: FrameFormat, shard_sha256: str, keys: list[str], counts: list[int]
) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Write a sidecar whole, or not at all, without holding it in memory.

    Yields ``put(place, frames)``, to be called in any order: ``frames`` [counts[place], width] of the sample
    ``keys[place]``. One that is never put has no frames; its rows stay zeros. Equal arguments give equal bytes.
    """
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    names = np.frombuffer("\n".join(keys).encode(), np.uint8)
    shapes = {"starts": ("I64", np.int64, starts.shape), "counts": ("I64", np.int64, (len(keys),)),
              "frames": (LABELS[form.dtype], form.kept, (int(starts[-1]), form.columns)),
              "keys": ("U8", np.uint8, names.shape)}  # fmt: skip
    tensors, at = {}, 0
    for name, (label, kind, shape) in shapes.items():
        end = at + int(np.prod(shape)) * np.dtype(kind).itemsize
        tensors[name] = {"dtype": label, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    told = {**form.header(shard_sha256), "samples": len(keys), "sha256": "0" * 64}
    with atomic_path(path) as part:
        with open(part, "r+b") as file:
            begin = file.write(head_of(told, tensors))
            file.truncate(begin + at)
        body = np.memmap(part, np.uint8, "r+", begin, (at,)) if at else np.zeros(0, np.uint8)
        views = {name: body[slice(*tensors[name]["data_offsets"])].view(kind).reshape(shape)
                 for name, (_, kind, shape) in shapes.items()}  # fmt: skip
        views["starts"][:] = starts
        views["keys"][:] = names

        def put(place: int, frames: np.ndarray) -> None:
            views["frames"][starts[place] : starts[place + 1]] = form.pack(frames)
            views["counts"][place] = len(frames)

        yield put
        told["sha256"] = sha256_of(body)
        if isinstance(body, np.memmap):
            body.flush()
        with open(part, "r+b") as file:
            file.write(head_of(told, tensors))


def sha256_of(body: np.ndarray) -> str:
    digest = hashlib.sha256()
    for at in range(0, len(body), 1 << 24):
        digest.update(body[at : at + (1 << 24)])
    return digest.hexdigest()


def head_of(told: dict[str, Any], tensors: dict[str, Any]) -> bytes:
    """The file's beginning: eight bytes of length, then JSON padded with blanks, so that the tensors are aligned."""
    text = json.dumps({**told, "digest": digest_of(told)}, sort_keys=True)
    raw = json.dumps({"__metadata__": {"salad_ds": text}, **tensors}).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw


def damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path} is damaged: {why}", AGAIN)


def read_head(path: Path) -> tuple[dict[str, Any], dict[str, Any], int]:
    """(what the sidecar says about itself, its tensors, where they begin). Raises DataError naming the file."""
    try:
        with open(path, "rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            if length > path.stat().st_size - 8:
                raise damaged(path, "it is cut short")
            tensors = json.loads(file.read(length))
        told = json.loads(tensors.pop("__metadata__")["salad_ds"])
        digest = told.pop("digest")
    except FileNotFoundError:
        raise DataError(f"{path} is missing", "run salad-ds encode, or set data.features=audio") from None
    except (OSError, struct.error, ValueError, KeyError, AttributeError, TypeError) as error:
        raise damaged(path, f"its header cannot be read ({type(error).__name__})") from None
    if digest_of(told) != digest:
        raise damaged(path, "its header was changed")
    return told, tensors, 8 + length


def check_head(shards: ShardSet, number: int, form: FrameFormat | None) -> None:
    """Refuse a sidecar of another shard, and (with ``form``) of another encoder or format, naming what differs."""
    path = features_path(shards, number)
    told, _, _ = read_head(path)
    if told.get("schema") != SCHEMA:
        raise DataError(f"{path} has schema {told.get('schema')}, not {SCHEMA}", AGAIN)
    if told.get("shard_sha256") != shards.sha256(number):
        raise DataError(f"{path} holds the frames of another {shards.shards[number].name}", AGAIN)
    wanted = form.header(shards.sha256(number)) if form is not None else {}
    differing = [f"{key} {told.get(key)}, not {wanted[key]}" for key in wanted if told.get(key) != wanted[key]]
    if differing:
        raise DataError(f"{path} has {'; '.join(differing)}", f"{AGAIN}, or take the settings it was made with")


def require_features(directories: Sequence[Path], form: FrameFormat | None = None) -> None:
    """Look at every sidecar of some corpora before any work begins. Raises DataError, naming the first that is missing
    or (with ``form``) is not what is wanted."""
    for shards in map(ShardSet.open, directories):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda number, shards=shards: check_head(shards, number, form), range(len(shards.shards))))


@dataclass(frozen=True)
class Sidecar:
    """One open for reading; every array is a view of the mapped file. ``places``: by key."""

    path: Path
    form: FrameFormat
    sha256: str
    body: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    frames: np.ndarray
    places: dict[str, int]

    def verify(self) -> None:
        """Raises DataError if the bytes are not those that were written."""
        if sha256_of(self.body) != self.sha256:
            raise damaged(self.path, "its checksum does not match")

    def read(self, key: str, first: int, last: int) -> np.ndarray:
        """[last - first, width]: these frames of a sample. Only their bytes are read."""
        begin = int(self.starts[self.places[key]])
        return self.form.unpack(self.frames[begin + first : begin + last])


def open_features(path: Path) -> Sidecar:
    """Map a sidecar. Its structure is checked here, its checksum by ``verify``. Raises DataError naming it."""
    told, tensors, begin = read_head(path)
    try:
        form = FrameFormat(told["encoder"], told["dtype"], told["width"], told["bits"], told["encoding"])
        body = np.memmap(path, np.uint8, "r", begin) if path.stat().st_size > begin else np.zeros(0, np.uint8)
        kinds = {"starts": np.int64, "counts": np.int64, "frames": form.kept, "keys": np.uint8}
        views = {name: body[slice(*tensors[name]["data_offsets"])].view(kind).reshape(tensors[name]["shape"])
                 for name, kind in kinds.items()}  # fmt: skip
        keys = views["keys"].tobytes().decode().split("\n") if told["samples"] else []
        fits = views["frames"].shape == (views["starts"][-1], form.columns) and len(keys) == told["samples"]
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise damaged(path, f"its tensors are not what its header says ({type(error).__name__})") from None
    if not fits or not len(views["starts"]) - 1 == len(views["counts"]) == len(keys):
        raise damaged(path, "its tensors do not fit each other")
    places = {key: place for place, key in enumerate(keys)}
    return Sidecar(path, form, told["sha256"], body, views["starts"], views["counts"], views["frames"], places)


class FrameCache:
    """The sidecars of a set of shards, each mapped when it is first asked for. May be pickled and forked."""

    def __init__(self, shards: ShardSet, wanted: FrameFormat) -> None:
        self.shards, self.wanted = shards, wanted
        self._sidecars: Recent[Sidecar] = Recent(
            self._open, SIDECAR_BYTES, lambda one: max(160 * len(one.places), SIDECAR_BYTES // SIDECARS_OPEN)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return FrameCache, (self.shards, self.wanted)

    def _open(self, number: int) -> Sidecar:
        check_head(self.shards, number, self.wanted)
        return open_features(features_path(self.shards, number))

    def require(self, index: int, frames: int) -> None:
        """Raises DataError where sample ``index`` has not this many frames."""
        sidecar, key = self._sidecars(self.shards.locate(index)[0]), self.shards.entry(index).key
        place = sidecar.places.get(key)
        found = 0 if place is None else int(sidecar.counts[place])
        if not found:
            raise DataError("has no cached features", AGAIN)
        if found != frames:
            raise DataError(f"has {found} cached frames, its length means {frames}", AGAIN)

    def read(self, index: int, first: int, last: int) -> np.ndarray:
        """[last - first, W]: these frames of sample ``index``."""
        sidecar = self._sidecars(self.shards.locate(index)[0])
        return sidecar.read(self.shards.entry(index).key, first, last)
