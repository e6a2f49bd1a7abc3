"""Real programs behind synth.command: a script that speaks, flite and espeak-ng where they are installed; failures."""

import shutil
import sys
import time

import numpy as np
import pytest

from salad_ds.config import SynthConfig
from salad_ds.errors import AssetError, DataError, RecipeError
from salad_ds.synth import command
from salad_ds.synth.engine import load_engine

TEXT = "the market opens early in the morning"
SCRIPT = """
import io
import sys
import soundfile
from salad_ds.synth.espeak import Espeak
voice, out, source = sys.argv[1:]
text = sys.stdin.read() if source == "-" else open(source).read()
said = Espeak().say(text, voice, 0)
made = io.BytesIO() if out == "-" else out  # a WAV needs to seek
soundfile.write(made, said.wave, said.rate, format="WAV", subtype="PCM_16")
if out == "-":
    sys.stdout.buffer.write(made.getvalue())
"""


def engine_for(line: str, *voices: str) -> command.Command:
    return load_engine(SynthConfig(engine="command", command=line, voices=list(voices)))


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    pytest.importorskip("espeakng_loader")
    path = tmp_path_factory.mktemp("a program") / "speak it.py"  # blanks, as in many a path
    path.write_text(SCRIPT)
    return f"{sys.executable} '{path}'"


@pytest.fixture(scope="module")
def espeak():
    pytest.importorskip("espeakng_loader")
    return load_engine(SynthConfig(engine="espeak"))


@pytest.mark.parametrize("rest", ["{voice} {out} -", "{voice} - {text_file}"])
def test_a_program_speaks_and_its_sound_is_read_back(script, espeak, rest):
    engine = engine_for(f"{script} {rest}", "en-us", "en-gb-scotland")
    expected = espeak.say(TEXT, "en-gb-scotland", 0)
    said = engine.say(TEXT, "en-gb-scotland", 7)
    assert said.rate == expected.rate and said.words is None and not engine.times_words
    assert said.wave.dtype == np.float32 and np.abs(said.wave - expected.wave).max() <= 1 / 32768
    assert not np.array_equal(said.wave, engine.say(TEXT, "en-us", 7).wave)


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed (Debian: apt-get install flite)")
@pytest.mark.assets
def test_flite_is_understood():
    from salad_ds.asr import character_error_rate, hear

    engine = engine_for("flite -voice {voice} -o {out}", "slt", "rms")
    first = engine.say(TEXT, "slt", 1)
    assert np.array_equal(first.wave, engine.say(TEXT, "slt", 1).wave)
    assert not np.array_equal(first.wave, engine.say(TEXT, "rms", 1).wave)
    heard = hear([first.wave], first.rate, "packaged:whisper-base")[0]
    assert character_error_rate(TEXT, heard) < 0.1


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed (Debian: espeak-ng)")
def test_espeak_ng_speaks_into_a_pipe():
    """Its WAV header does not know how long the sound will be."""
    said = engine_for("espeak-ng --stdin --stdout -v {voice}", "en-us").say(TEXT, "en-us", 1)
    assert said.rate == 22050 and 1.5 < said.seconds < 5 and np.abs(said.wave[-20000:]).max() > 0.05


def test_no_shell_sees_the_command_the_text_or_a_voice(script, tmp_path):
    program = "import sys; sys.exit(repr(sys.argv[1:]) + repr(sys.stdin.read()))"
    probe = f"{sys.executable} -c '{program}' {{voice}} '$HOME;x' {{seed}}"
    with pytest.raises(DataError) as caught:
        engine_for(probe, "a b; $(touch no) {out}").say("cats & dogs", "a b; $(touch no) {out}", 5)
    assert "['a b; $(touch no) {out}', '$HOME;x', '5']'cats and dogs\\n'" in str(caught.value)


@pytest.mark.parametrize("line, words", [
    ("", "synth.command is empty"), ("say 'it", "cannot be read"), ("say {outt}", r"\{outt\}.*\{voice\}, \{seed\}")])
def test_a_wrong_command_line_is_a_recipe_error(line, words):
    with pytest.raises(RecipeError, match=words):
        engine_for(line)


def test_a_missing_program_and_voices_without_a_place_are_named():
    with pytest.raises(AssetError, match="'no-such-program', which is no program here.*install it"):
        engine_for("no-such-program {out}")
    with pytest.raises(RecipeError, match="2 voices.*no place for one"):
        engine_for(f"{sys.executable} {{out}}", "a", "b")
    engine = engine_for(f"{sys.executable} {{out}}")
    assert engine.voices == ("default",)
    with pytest.raises(RecipeError, match="no voice 'slt'"):
        engine.say(TEXT, "slt", 0)


@pytest.mark.parametrize("program, words", [
    ("import sys; print('one'); sys.exit('no voice today')", "status 1: no voice today"),
    ("import sys; sys.exit(3)", "status 3: it said nothing"),
    ("pass", "made no sound file"),
    ("print('this is not a sound')", "does not decode")])
def test_a_program_that_fails_costs_the_item_with_its_own_last_words(program, words):
    with pytest.raises(DataError, match=words):
        engine_for(f'{sys.executable} -c "{program}"').say(TEXT, "default", 0)


def test_a_program_that_hangs_is_ended_with_what_it_started(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "SECONDS_PER_CHARACTER", 0.0)
    beats = tmp_path / "beats"
    child = f"import time\nwhile True: open({str(beats)!r}, 'a').write('x'); time.sleep(.05)"
    (tmp_path / "child.py").write_text(child)
    start = f"import subprocess, sys\nsubprocess.run([sys.executable, {str(tmp_path / 'child.py')!r}])"
    (tmp_path / "hang.py").write_text(start)
    for seconds in (1.0, 10.0, 60.0):  # by then the child has begun, else it has more time
        monkeypatch.setattr(command, "SECONDS", seconds)
        with pytest.raises(DataError, match=f"more than {seconds:.0f} s"):
            engine_for(f"{sys.executable} {tmp_path / 'hang.py'}").say(TEXT, "default", 0)
        if beats.exists() and beats.stat().st_size:
            break
    at = beats.stat().st_size
    time.sleep(0.3)
    assert at and beats.stat().st_size == at


def test_the_version_follows_the_command_line_and_the_files_it_names(script, tmp_path):
    tool = tmp_path / "tool.py"
    tool.write_text("pass")
    line = f"{sys.executable} {tool} {{out}}"
    first = engine_for(line).version
    assert engine_for(line).version == first != engine_for(f"{line} {{voice}}").version
    tool.write_text("pass  # changed")
    assert engine_for(line).version != first


def test_a_word_of_the_command_may_be_longer_than_a_file_name():
    line = f"{sys.executable} -c '{'pass; ' * 100}' {{out}}"
    assert engine_for(line).version != engine_for(line + " x").version
