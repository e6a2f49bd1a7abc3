"""Kokoro says what it is given: heard by Whisper, timed by pocketsphinx, the same again in another process."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from salad_ds.asr import character_error_rate, hear
from salad_ds.assets import resolve
from salad_ds.config import SynthConfig
from salad_ds.errors import AssetError, DataError, RecipeError
from salad_ds.synth import kokoro
from salad_ds.synth.engine import load_engine
from salad_ds.synth.kokoro import model_file, read_voices, styles_of
from tests.synth.starts import offsets

pytestmark = pytest.mark.assets
TEXTS = ["the committee met on a monday and nobody from the bakery came to see them",
         "she put the red cup on the table and walked back into the kitchen"]
SHORT = "Good evening."
AGAIN = f"""
import hashlib
from salad_ds.config import SynthConfig
from salad_ds.synth.engine import load_engine
said = load_engine(SynthConfig(engine="kokoro")).say({SHORT!r}, "af_heart", 3)
print(hashlib.sha256(said.wave.tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def packaged() -> Path:
    return Path(resolve("packaged:kokoro"))


@pytest.fixture(scope="module")
def engine(packaged):
    return load_engine(SynthConfig(engine="kokoro"))


@pytest.fixture(scope="module")
def said(engine):
    return [engine.say(text, engine.voices[0], 0) for text in TEXTS]


@pytest.fixture(scope="module")
def short(engine):
    return engine.say(SHORT, "af_heart", 3)


def test_the_papers_voice_comes_first_among_28_english_ones(engine):
    assert engine.voices[0] == "af_heart" and len(engine.voices) == 28
    assert {voice[:2] for voice in engine.voices} == {"af", "am", "bf", "bm"}


def test_a_recogniser_hears_what_was_said(said):
    assert all(speech.wave.dtype == np.float32 and np.abs(speech.wave).max() <= 1 for speech in said)
    heard = hear([speech.wave for speech in said], 24000, "packaged:whisper-base")
    assert max(character_error_rate(text, words) for text, words in zip(TEXTS, heard, strict=True)) < 0.1


def test_word_starts_agree_with_pocketsphinx(said):
    found = [offset for speech, text in zip(said, TEXTS, strict=True) for offset in offsets(speech, text)]
    assert abs(np.median(found)) < 0.02
    assert np.median(np.abs(found)) < 0.03 and np.abs(found).mean() < 0.04


def test_every_original_word_has_a_time_in_order_and_inside_the_audio(engine):
    text = "It cost $12.50 — too much? Yes."
    speech = engine.say(text, "bm_george", 0)
    assert len(speech.words) == len(text.split())
    edges = [edge for word in speech.words for edge in (word.start, word.end)]
    assert edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= speech.seconds
    assert speech.words[3].start == speech.words[3].end, "the dash"
    assert speech.words[2].end - speech.words[2].start > 0.8, "five spoken words"
    # Was each said where its time says? The sound there is far above that of the pauses between.
    loud = [np.abs(speech.wave[int(word.start * 24000):int(word.end * 24000)]).max()
            for i, word in enumerate(speech.words) if i != 3]
    assert min(loud) > 0.03


def test_the_same_samples_in_another_process(short):
    done = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(short.wave.tobytes()).hexdigest()


def test_voices_differ(engine, short):
    other = engine.say(SHORT, "am_michael", 3)
    assert len(other.wave) != len(short.wave) or np.abs(other.wave - short.wave).max() > 0.05


def test_pieces_are_joined_and_timed_on(engine, monkeypatch):
    pieces = []
    run = engine.model.run
    monkeypatch.setattr(kokoro, "MAX_PHONEMES", 20)
    monkeypatch.setattr(engine.model, "run", lambda session, inputs: pieces.append(len(inputs["tokens"][0])) or
                        run(session, inputs))
    speech = engine.say("he said. That it was so, and not otherwise", "af_heart", 0)
    assert len(pieces) > 2 and max(pieces) <= 22 and len(speech.words) == 9
    starts = [word.start for word in speech.words]
    assert starts == sorted(set(starts)) and 0.7 * speech.seconds < starts[-1] < speech.seconds


def test_what_cannot_be_said_and_unknown_voices_are_refused(engine):
    with pytest.raises(DataError):
        engine.say("...", "af_heart", 0)
    with pytest.raises(RecipeError, match="no voice 'nobody'.*af_heart"):
        engine.say("hello", "nobody", 0)


def test_a_directory_as_the_hub_lays_it_out(packaged, tmp_path, short):
    """onnx/model.onnx beside voices/; a foreign voice is left alone."""
    (tmp_path / "onnx").mkdir()
    (tmp_path / "voices").mkdir()
    (tmp_path / "onnx/model.onnx").symlink_to(packaged / "model.onnx")
    for name, source in (("af_heart", "af_heart"), ("bf_emma", "bf_emma"), ("jf_alpha", "af_sky")):
        (tmp_path / f"voices/{name}.bin").symlink_to(packaged / f"voices/{source}.bin")
    engine = load_engine(SynthConfig(engine="kokoro", model=str(tmp_path)))
    assert engine.voices == ("af_heart", "bf_emma") and engine.times_words
    assert np.array_equal(engine.say(SHORT, "af_heart", 3).wave, short.wave)


def test_the_files_of_a_kokoro_onnx_release(packaged, tmp_path, engine):
    (tmp_path / "kokoro-v1.0.onnx").symlink_to(packaged / "model.onnx")
    styles = {name: engine.styles[name].reshape(-1, 1, 256) for name in ("am_adam", "af_sky")}
    with open(tmp_path / "voices-v1.0.bin", "wb") as file:
        np.savez(file, **styles)
    model = model_file(tmp_path)
    voices = read_voices(model)
    assert model.name == "kokoro-v1.0.onnx" and sorted(voices) == ["af_sky", "am_adam"]
    assert np.array_equal(voices["am_adam"], engine.styles["am_adam"])


def test_other_models_and_voices_make_another_version(packaged, tmp_path, engine):
    (tmp_path / "model.onnx").symlink_to(packaged / "model.onnx")
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices/af_heart.bin").write_bytes((packaged / "voices/af_sky.bin").read_bytes())
    other = load_engine(SynthConfig(engine="kokoro", model=str(tmp_path)))
    assert other.version != engine.version and other.version.split("/")[0] == engine.version.split("/")[0]


def test_what_is_no_kokoro_is_named(packaged, tmp_path):
    with pytest.raises(AssetError, match="does not exist.*voices"):
        load_engine(SynthConfig(engine="kokoro", model=str(tmp_path / "none")))
    with pytest.raises(AssetError, match="holds no ONNX model"):
        load_engine(SynthConfig(engine="kokoro", model=str(tmp_path)))
    (tmp_path / "model_q8.onnx").symlink_to(packaged / "model.onnx")
    with pytest.raises(AssetError, match="no Kokoro voices beside"):
        load_engine(SynthConfig(engine="kokoro", model=str(tmp_path)))
    (tmp_path / "model_q4.onnx").write_bytes(b"")
    with pytest.raises(AssetError, match="2 models: model_q4.onnx, model_q8.onnx.*the file that is meant"):
        load_engine(SynthConfig(engine="kokoro", model=str(tmp_path)))
    (tmp_path / "voices").mkdir()
    voice = tmp_path / "voices/af_heart.bin"
    for content, words in ((b"\0" * 1000, "is not a Kokoro voice"), (b"", "is empty"), (b"\xff" * 1024, "NaN")):
        voice.write_bytes(content)
        with pytest.raises(AssetError, match=words):
            styles_of(voice)
    voice.write_bytes(b"\0" * 1024)
    import hibari

    other = Path(hibari.__file__).parent / "assets/hibari.onnx"
    (tmp_path / "model.onnx").symlink_to(other)
    with pytest.raises(AssetError, match="takes ids, speed, not the tokens, style and speed"):
        load_engine(SynthConfig(engine="kokoro", model=str(tmp_path)))
