import shutil

import numpy as np
import pytest
import torch

from salad_ds.asr import LEAST, RATE, SILENCE, WINDOW, character_error_rate, encode, hear, identity, recogniser, windows
from salad_ds.assets import resolve
from salad_ds.audio import resample
from salad_ds.config import SynthConfig
from salad_ds.errors import AssetError, DataError
from salad_ds.synth.engine import load_engine

TINY = "packaged:whisper-tiny.en"
TEXTS = ["In 1999, 20% of the people left the city.", "A small boat drifted slowly across the quiet lake.", "stop",
         "Nocturnal indris with thick grey-brown fur and a long tail."]


@pytest.fixture(scope="module")
def speech():
    """(waves, rate) of TEXTS."""
    engine = load_engine(SynthConfig(engine="hibari"))
    said = [engine.say(text, "heart", 0) for text in TEXTS]
    return [item.wave for item in said], said[0].rate


@pytest.mark.assets
def test_what_was_said_is_heard(speech):
    heard = hear(*speech, TINY)
    assert all(character_error_rate(text, found) < 0.1 for text, found in zip(TEXTS[:3], heard, strict=False)), heard
    assert character_error_rate(TEXTS[0], heard[1]) > 0.5


@pytest.mark.assets
def test_what_is_heard_depends_on_nothing_but_the_clip(speech):
    waves, rate = speech
    together = hear(waves, rate, TINY)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert [hear([wave], rate, TINY)[0] for wave in reversed(waves)] == together[::-1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.assets
def test_a_window_of_30_s_is_whispers_own(speech, whisper_dir):
    """The frames of the cut-down window are the encoder's: in a whole window they are what the library computes."""
    network, processor = recogniser(TINY)
    wave = np.zeros(int(WINDOW * RATE), np.float32)
    own = resample(speech[0][1], speech[1], RATE)
    wave[:len(own)] = own
    features = processor.feature_extractor([own], sampling_rate=RATE, return_tensors="pt").input_features
    with torch.inference_mode():
        expected = network.model.encoder(features).last_hidden_state
        found = encode(network.model.encoder, wave)
        short = encode(network.model.encoder, own)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert short.shape[1] == LEAST * 50 < found.shape[1] == 1500
    assert encode(network.model.encoder, wave[:12 * RATE]).shape[1] == (12 + SILENCE) * 50


@pytest.mark.assets
def test_noise_is_not_the_text_and_loops_are_bounded():
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32).clip(-1, 1)
    heard = hear([noise], RATE, TINY)
    assert len(heard) == 1 and len(heard[0]) < 400


def test_error_rates_forgive_spelling_but_not_content():
    said = "it cost twelve dollars fifty cents about twenty percent"
    assert character_error_rate("It cost $12.50, about 20 %.", said) == 0
    assert character_error_rate("abcd", "abxd") == pytest.approx(0.25)
    assert character_error_rate("abcd", "") == 1
    assert character_error_rate("ab", "ab cd ef") > 1
    assert character_error_rate("...", "") == 0 and character_error_rate("...", "hello") == 1


def test_long_waves_are_cut_where_it_is_quiet():
    wave = np.random.default_rng(0).normal(0, 0.1, int(70 * RATE)).astype(np.float32)
    quiet = int(27.3 * RATE)
    wave[quiet:quiet + RATE // 5] = 0
    pieces = windows(wave)
    assert np.array_equal(np.concatenate(pieces), wave)
    assert all(0 < len(piece) <= WINDOW * RATE for piece in pieces)
    assert quiet <= len(pieces[0]) <= quiet + RATE // 5


@pytest.mark.assets
def test_a_recogniser_is_known_by_its_files(tmp_path):
    first = tmp_path / "a"
    shutil.copytree(resolve(TINY), first)
    name = identity(str(first))
    assert name == identity(str(first)) and name.startswith(str(first))
    assert name.split()[-1] == identity(TINY).split()[-1] != identity("packaged:whisper-base").split()[-1]
    settings = first / "generation_config.json"
    settings.write_text(settings.read_text().replace('"max_length": 448', '"max_length": 400'))
    assert identity(str(first)) != name


def test_wrong_models_and_waves_are_named(tmp_path):
    for ask in (identity, lambda model: hear([np.zeros(RATE, np.float32)], RATE, model)):
        with pytest.raises(AssetError, match=r"synth\.asr.*nowhere"):
            ask(str(tmp_path / "nowhere"))
    with pytest.raises(AssetError, match="no weights"):
        identity(str(tmp_path))
    with pytest.raises(DataError):
        hear([np.zeros(0, np.float32)], RATE, TINY)
