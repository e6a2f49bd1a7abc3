"""Speech models as ONNX graphs: the durations that they compute and hide, and the noise that they draw, on a seed.

**Durations.** Such a graph computes how long each phoneme lasts, uses it and forgets it; one output more tells it. A
protobuf message may be followed by more of its fields, so that output is added by appending its bytes, and the tensor
is found by walking the bytes of the graph: no ``onnx`` package.

**Noise.** The random operators of onnxruntime are seeded where a session is made and then go on from call to call: the
same text would sound different the second time. So a graph that has any gets a new session, seeded, for every item
(0.25 s for a Piper voice of 63 MB, 0.6 s for Kokoro of 92 MB); a graph that has none keeps its session.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from salad_ds.errors import AssetError, DataError

RANDOM = (b"RandomNormal", b"RandomUniform", b"Multinomial", b"Bernoulli")
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
         "tensor(int32)": np.int32, "tensor(int64)": np.int64}


class SpeechModel:
    """An ONNX file that also tells its durations where they can be found (``durations``: whether).

    One thread. Raises AssetError for a file that is no such model.
    """

    def __init__(self, path: Path, mend: str) -> None:
        self.path, self.mend = path, mend
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise AssetError(f"{path} cannot be read ({error.strerror})", mend) from None
        try:
            self.tensor = duration_tensor(raw)
            untold = None if self.tensor is None or self.tensor in outputs_of(raw) else self.tensor
        except (ValueError, IndexError):
            raise AssetError(f"{path} is not an ONNX model", mend) from None
        self.raw = raw if untold is None else raw + output_field(untold)
        self.random = any(name in raw for name in RANDOM)
        self.kept: Any = None
        session = self.session(0)
        self.inputs = {entry.name: TYPES.get(entry.type, np.float32) for entry in session.get_inputs()}
        self.outputs = [entry.name for entry in session.get_outputs()]
        if self.tensor is None:  # some exports tell them of their own accord
            self.tensor = next((name for name in self.outputs[1:] if "duration" in name), None)
        self.durations = self.tensor is not None

    def session(self, seed: int) -> Any:
        """An ``onnxruntime.InferenceSession`` whose every draw follows from ``seed``."""
        if self.kept is not None:
            return self.kept
        try:
            import onnxruntime
        except ImportError:
            raise AssetError("onnxruntime, which runs speech models, is not installed", "pip install onnxruntime") \
                from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        onnxruntime.set_seed(seed)
        try:
            session = onnxruntime.InferenceSession(self.raw, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common base but this
            raise AssetError(f"{self.path} cannot be run ({' '.join(str(error).split())[:200]})", self.mend) from None
        if not self.random:
            self.kept, self.raw = session, b""
        return session

    def run(self, session: Any, inputs: dict[str, Any]) -> tuple[list[np.ndarray], np.ndarray | None]:
        """``(the graph's own outputs, durations float64 [ids])``; inputs are brought to the types that it wants.

        Raises DataError where the graph fails on them.
        """
        feed = {name: np.asarray(value, self.inputs[name]) for name, value in inputs.items()}
        try:
            results = dict(zip(self.outputs, session.run(None, feed), strict=True))
        except Exception as error:  # see session()
            raise DataError(f"{self.path.name} fails on this text ({' '.join(str(error).split())[:120]})",
                            "remove the sample") from None
        durations = results.pop(self.tensor).ravel().astype(np.float64) if self.tensor else None
        return list(results.values()), durations


def duration_tensor(raw: bytes) -> str | None:
    """Name of the tensor of durations, None where there is no telling.

    The family of StyleTTS 2 (Kokoro, hibari) rounds them and keeps them from zero (``clamp(round(d), min=1)``); the
    family of VITS (Piper) rounds them up, the only ``Ceil`` of its graph.
    """
    nodes = list(nodes_of(raw))
    rounded = {name for op, _, outputs in nodes if op == "Round" for name in outputs}
    found = [outputs[0] for op, inputs, outputs in nodes if op in ("Clip", "Max") and rounded & set(inputs)]
    found = found or [outputs[0] for op, _, outputs in nodes if op == "Ceil"]
    return found[0] if len(found) == 1 else None


def nodes_of(raw: bytes) -> Iterator[tuple[str, list[str], list[str]]]:
    """``(operator, inputs, outputs)`` of every node of the graph in a serialised ModelProto.

    onnx.proto3: ModelProto.graph is field 7, GraphProto.node 1, NodeProto.input 1, output 2, op_type 4. Raises
    ValueError, IndexError for bytes that are none.
    """
    for number, graph in fields(memoryview(raw)):
        for kind, node in fields(graph) if number == 7 else ():
            if kind == 1:
                parts: dict[int, list[str]] = {1: [], 2: [], 4: [""]}
                for part, value in fields(node):
                    if part in parts:
                        parts[part].append(str(value, "utf-8"))
                yield parts[4][-1], parts[1], parts[2]


def outputs_of(raw: bytes) -> list[str]:
    """Names of the graph's outputs (GraphProto.output is field 12, ValueInfoProto.name 1). Raises as ``nodes_of``."""
    return [str(value, "utf-8") for number, graph in fields(memoryview(raw)) if number == 7
            for kind, output in fields(graph) if kind == 12 for part, value in fields(output) if part == 1]


def fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each length-delimited field of a protobuf message; others are passed over."""
    at = 0
    while at < len(message):
        key, at = read_varint(message, at)
        if key & 7 == 2:
            size, at = read_varint(message, at)
            if at + size > len(message):
                raise ValueError("a field ends behind its message")
            yield key >> 3, message[at:at + size]
            at += size
        elif key & 7 == 0:
            _, at = read_varint(message, at)
        elif key & 7 in (1, 5):
            at += 8 if key & 7 == 1 else 4
        else:
            raise ValueError("no such wire type")


def read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """Protobuf's base-128 integer at ``at``, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def output_field(tensor: str) -> bytes:
    """The protobuf bytes that, appended to a ModelProto, merge one more output into its graph.

    ModelProto.graph is field 7, GraphProto.output field 12, ValueInfoProto.name field 1 (onnx.proto3).
    """
    def field(number: int, payload: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(payload)) + payload

    return field(7, field(12, field(1, tensor.encode())))


def varint(value: int) -> bytes:
    """Protobuf's base-128 integer."""
    out = b""
    while value > 127:
        out += bytes((value & 127 | 128,))
        value >>= 7
    return out + bytes((value,))
