"""Graphs written here byte by byte, run by onnxruntime: hidden durations are told, and noise follows from the seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.config import SynthConfig
from salad_ds.errors import AssetError, DataError
from salad_ds.synth.engine import load_engine
from salad_ds.synth.onnx_output import SpeechModel, duration_tensor, output_field, outputs_of, varint


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def value(name: str) -> bytes:
    """ValueInfoProto: float32 [n]."""
    shape = field(2, field(1, field(2, b"n")))
    return field(1, name.encode()) + field(2, field(1, varint(1 << 3) + varint(1) + shape))


def model(nodes: list[tuple[str, list[str], list[str]]], outputs: list[str]) -> bytes:
    graph = b"".join(field(1, b"".join(field(1, name.encode()) for name in inputs)
                           + b"".join(field(2, name.encode()) for name in results) + field(4, op.encode()))
                     for op, inputs, results in nodes)
    graph += field(2, b"graph") + field(11, value("x")) + b"".join(field(12, value(name)) for name in outputs)
    return varint(1 << 3) + varint(8) + field(8, varint(2 << 3) + varint(17)) + field(7, graph)


STYLE_TTS = [("Round", ["x"], ["r"]), ("Clip", ["r"], ["d"]), ("Neg", ["d"], ["y"])]
VITS = [("Ceil", ["x"], ["w"]), ("Neg", ["w"], ["y"])]
NOISE = [("RandomNormalLike", ["x"], ["n"]), ("Add", ["x", "n"], ["y"])]
X = {"x": [0.4, 1.6, 3.0]}


def loaded(tmp_path, content: bytes) -> SpeechModel:
    (tmp_path / "model.onnx").write_bytes(content)
    return SpeechModel(tmp_path / "model.onnx", "give another")


@pytest.mark.parametrize("nodes, tensor, durations", [(STYLE_TTS, "d", [0, 2, 3]), (VITS, "w", [1, 2, 3])])
def test_hidden_durations_are_told(tmp_path, nodes, tensor, durations):
    speech = loaded(tmp_path, model(nodes, ["y"]))
    assert speech.durations and speech.tensor == tensor and speech.outputs == ["y", tensor]
    (wave,), found = speech.run(speech.session(0), X)
    assert found.tolist() == durations and wave.tolist() == [-d for d in durations]


def test_durations_that_are_told_already_are_taken_as_they_are(tmp_path):
    speech = loaded(tmp_path, model(VITS, ["y", "w"]))
    assert speech.outputs == ["y", "w"] and speech.run(speech.session(0), X)[1].tolist() == [1, 2, 3]
    named = [("Abs", ["x"], ["durations"]), ("Neg", ["x"], ["y"])]
    assert loaded(tmp_path, model(named, ["y", "durations"])).tensor == "durations"


def test_a_graph_without_durations_or_with_several_candidates_has_none(tmp_path):
    speech = loaded(tmp_path, model([("Neg", ["x"], ["y"])], ["y"]))
    assert not speech.durations and speech.run(speech.session(0), X)[1] is None
    assert duration_tensor(model([*VITS, ("Ceil", ["w"], ["v"])], ["y"])) is None


def test_noise_follows_from_the_seed_and_a_graph_without_any_keeps_its_session(tmp_path):
    speech = loaded(tmp_path, model(NOISE, ["y"]))

    def drawn(seed: int, times: int = 1) -> np.ndarray:
        session = speech.session(seed)
        return np.stack([speech.run(session, X)[0][0] for _ in range(times)])

    first = drawn(1, 2)
    assert not np.array_equal(first[0], first[1]), "the operators go on drawing"
    drawn(2)
    assert np.array_equal(drawn(1, 2), first) and not np.array_equal(drawn(2)[0], first[0])
    quiet = loaded(tmp_path, model(VITS, ["y"]))
    assert quiet.session(1) is quiet.session(2) and not quiet.random


def test_what_fails_on_one_text_costs_that_text(tmp_path):
    speech = loaded(tmp_path, model(VITS, ["y"]))
    with pytest.raises(DataError, match="model.onnx fails on this text"):
        speech.run(speech.session(0), {"x": [[1.0]]})


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_file_is_refused_by_name(tmp_path_factory, data):
    folder, whole = tmp_path_factory.mktemp("damaged"), model(STYLE_TTS, ["y"])
    content = data.draw(st.one_of(st.integers(0, len(whole) - 1).map(lambda end: whole[:end]), st.binary(max_size=60)))
    with pytest.raises(AssetError, match="model.onnx"):
        loaded(folder, content)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(AssetError, match="cannot be read"):
        SpeechModel(tmp_path / "none.onnx", "give another")


def test_hibari_is_left_as_it_is_and_gains_one_output():
    engine = load_engine(SynthConfig(engine="hibari"))
    path = engine.model_path("heart")
    before = path.read_bytes()
    assert duration_tensor(before) == "/Clip_output_0" and "/Clip_output_0" not in outputs_of(before)
    assert outputs_of(before + output_field("/Clip_output_0"))[-1] == "/Clip_output_0"
    assert engine.load("heart").outputs == [*outputs_of(before), "/Clip_output_0"] and path.read_bytes() == before
