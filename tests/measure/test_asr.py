import numpy as np
import pytest

from salad_ds.errors import AssetError, DataError
from salad_ds.measure.asr import RATE, WINDOW, character_error_rate, hear, windows
from salad_ds.synth.engine import load_engine

TINY = "packaged:whisper-tiny.en"


@pytest.mark.assets
def test_what_was_said_is_heard():
    engine = load_engine("hibari")
    texts = ["In 1999, 20% of the people left the city.", "A small boat drifted slowly across the quiet lake."]
    speech = [engine.say(text, "heart", 0) for text in texts]
    heard = hear([item.wave for item in speech], engine.sample_rate, TINY)
    assert all(character_error_rate(text, found) < 0.1 for text, found in zip(texts, heard, strict=True)), heard
    assert character_error_rate(texts[0], heard[1]) > 0.5


@pytest.mark.assets
def test_noise_is_not_the_text_and_loops_are_bounded():
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32).clip(-1, 1)
    heard = hear([noise], RATE, TINY)
    assert len(heard) == 1 and len(heard[0]) < 400


def test_error_rates_forgive_spelling_but_not_content():
    said = "it cost twelve dollars and fifty cents about twenty percent"
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


def test_wrong_models_and_waves_are_named(tmp_path):
    with pytest.raises(AssetError, match="nowhere"):
        hear([np.zeros(RATE, np.float32)], RATE, str(tmp_path / "nowhere"))
    with pytest.raises(DataError):
        hear([np.zeros(0, np.float32)], RATE, TINY)
