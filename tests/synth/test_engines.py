"""The two engines against the protocol, and their word times against the sound itself and against pocketsphinx."""

import re

import numpy as np
import pytest

from salad_ds.audio import resample
from salad_ds.errors import DataError, RecipeError
from salad_ds.synth.engine import load_engine
from salad_ds.synth.hibari import output_field, with_output

TEXTS = ["the committee met on a monday and nobody from the bakery came to see them",
         "a small boat drifted slowly across the quiet lake before the sun came up",
         "people who live near the river often talk about the great flood of that year",
         "the teacher asked the children to open their books and read the first page",
         "she put the red cup on the table and walked back into the kitchen",
         "the market opens early in the morning and closes late at night"]


@pytest.fixture(scope="module", params=["hibari", "espeak"])
def engine(request):
    if request.param == "espeak":
        pytest.importorskip("espeakng_loader")
    return load_engine(request.param)


def test_same_input_same_samples_whatever_was_said_before(engine):
    voice = engine.voices[0]
    first = engine.say(TEXTS[0], voice, 5)
    engine.say(TEXTS[1], voice, 6)
    again = load_engine(engine.name).say(TEXTS[0], voice, 5)
    assert np.array_equal(first.wave, engine.say(TEXTS[0], voice, 5).wave)
    assert np.array_equal(first.wave, again.wave) and first.words == again.words


def test_the_wave_is_sound_and_every_original_word_has_a_time(engine):
    text = "Mr. Smith — of the U.S. — paid $12.50 in 1999; that is (about) 20%. Was it too much? 北京 is far from here."
    speech = engine.say(text, engine.voices[0], 1)
    assert speech.wave.dtype == np.float32 and speech.wave.ndim == 1 and np.abs(speech.wave).max() <= 1
    assert speech.rate == engine.sample_rate and 6 < speech.seconds < 25
    assert len(speech.words) == len(text.split())
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
    decoder = pytest.importorskip("pocketsphinx").Decoder(lm=None, loglevel="FATAL")
    offsets = []
    for text in TEXTS:
        speech = engine.say(text, engine.voices[0], 0)
        wave = resample(speech.wave, speech.rate, 16000)
        padded = np.pad(wave, 4000) + np.random.default_rng(0).normal(0, 1e-3, len(wave) + 8000)
        decoder.set_align_text(text)
        decoder.start_utt()
        decoder.process_raw((np.clip(padded, -1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
        decoder.end_utt()
        found = [(re.sub(r"\(\d\)", "", part.word), part.start_frame / 100 - 0.25) for part in decoder.seg()
                 if part.word not in ("<s>", "</s>", "<sil>", "[NOISE]", "(NULL)")]
        assert [word for word, _ in found] == text.split()
        offsets += [word.start - start for word, (_, start) in zip(speech.words, found, strict=True)]
    assert abs(np.median(offsets)) < 0.015
    assert np.abs(offsets).mean() < 0.03


def test_the_exposed_graph_is_made_once_and_appended_to_the_original(tmp_path, monkeypatch):
    monkeypatch.setenv("SALAD_DS_HOME", str(tmp_path))
    engine = load_engine("hibari")
    model = engine.model_path("heart")
    made = with_output(model)
    assert made.read_bytes() == model.read_bytes() + output_field("/Clip_output_0")
    before = made.stat().st_mtime_ns
    assert with_output(model) == made and made.stat().st_mtime_ns == before
    assert [path.name for path in made.parent.iterdir()] == [made.name]
