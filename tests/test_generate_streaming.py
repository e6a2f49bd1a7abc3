"""``salad-ds generate --stream`` and a clip on standard input: the same words, as they come."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import soundfile

from salad_ds.cli import main
from salad_ds.generate import generate, generate_streaming, live
from tests.model.listening import listener, listener_dir, mimi_dir  # noqa: F401

RATE = 24_000


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    """Half a second of sound, of which 16 bits keep all."""
    path = tmp_path_factory.mktemp("clips") / "said.wav"
    pcm = np.random.default_rng(0).integers(-6000, 6000, RATE // 2).astype(np.int16)
    soundfile.write(path, pcm, RATE, subtype="PCM_16")
    return path


class Pipe(io.RawIOBase):
    """Standard input that brings a few bytes at a time, odd numbers of them too."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def read1(self, most: int) -> bytes:
        taken = self.data[self.at : self.at + min(most, 777)]
        self.at += len(taken)
        return taken


def test_streamed_files_say_what_whole_ones_say(listener_dir, wav, capsys):  # noqa: F811
    said = generate(str(listener_dir), [str(wav), str(wav)], "One <|audio|> two <|audio|>", 6)
    command = ["generate", "--checkpoint", str(listener_dir), "--audio", str(wav), "--audio", str(wav), "--stream"]
    capsys.readouterr()
    assert main([*command, "--text", "One <|audio|> two <|audio|>", "--max-new-tokens", "6"]) == 0
    out, error = capsys.readouterr()
    assert out == said + "\n" and said
    assert "clips encoded while listening; first token" in error


def test_standard_input_is_heard_while_it_arrives(listener_dir, wav, monkeypatch):  # noqa: F811
    pcm, _ = soundfile.read(wav, dtype="int16")
    stdin = type("Stdin", (), {"buffer": Pipe(pcm.tobytes())})()
    monkeypatch.setattr(sys, "stdin", stdin)
    said, stream = generate_streaming(str(listener_dir), ["-"], "Hear <|audio|>", 6)
    assert said == generate(str(listener_dir), [str(wav)], "Hear <|audio|>", 6)
    assert stream.incremental and stream.first_token_seconds > 0 and stdin.buffer.at == len(pcm) * 2


def test_odd_bytes_wait_for_their_other_half():
    pcm = np.arange(-500, 500, dtype=np.int16)
    got = np.concatenate(list(live(Pipe(pcm.tobytes()), RATE)))
    np.testing.assert_array_equal(got * 32768, pcm)


@pytest.mark.parametrize("arguments, fault", [
    (["--audio", "-"], "standard input brought no samples"),
    (["--audio", "-", "--audio", "-"], "standard input is named twice"),
    (["--audio", "-", "--text", "<|audio|><|audio|>"], "2 <|audio|> marks and 1 clips"),
    (["--audio", "nowhere.wav", "--stream"], "nowhere.wav does not exist"),
    (["--text", "a", "--rate", "16000"], "the rate 16000 is for samples on standard input"),
])  # fmt: skip
def test_what_cannot_be_is_one_line(listener_dir, monkeypatch, capsys, arguments, fault):  # noqa: F811
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Pipe(b"")})())
    assert main(["generate", "--checkpoint", str(listener_dir), *arguments]) == 1
    out, error = capsys.readouterr()
    assert out == "" and fault in error and "mend:" in error and "Traceback" not in error
