"""Any command line as a text-to-speech engine: ``synth.command``.

The text comes on standard input (UTF-8, one line) or in the file ``{text_file}``; the command writes a WAV or FLAC file
to ``{out}``, or to standard output where it names no ``{out}``. ``{voice}`` and ``{seed}`` are the item's. No shell
sees it: its words are split once, and the placeholders are put into them afterwards, whatever they hold.

    flite -voice {voice} -o {out}
    espeak-ng --stdin --stdout -v {voice}
    /opt/tts/speak --seed {seed} --text {text_file} --wav {out}

Whether the same item sounds the same again is the command's affair. Its word times are unknown: ``salad-ds align``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from salad_ds.audio import decode
from salad_ds.errors import AssetError, DataError, RecipeError
from salad_ds.files import sha256_file
from salad_ds.synth.engine import Speech, check_voice
from salad_ds.synth.normalize import speakable

PLACEHOLDERS = ("voice", "seed", "out", "text_file")
SECONDS, SECONDS_PER_CHARACTER = 60.0, 0.5
"""How long a command may take: a start, and much slower speech than anybody waits for."""
EXAMPLE = "such as: flite -voice {voice} -o {out}"


class Command:
    """The engine of the protocol ``SpeechEngine``. ``voices``: those that the recipe gives, else ``default``."""

    name = "command"
    times_words = False

    def __init__(self, line: str, voices: Sequence[str] = ()) -> None:
        self.words = words_of(line)
        self.voices = tuple(voices) or ("default",)
        named = {name for word in self.words for name in re.findall(r"\{(\w+)\}", word)}
        if len(self.voices) > 1 and "voice" not in named:
            raise RecipeError(f"synth.voices names {len(self.voices)} voices, synth.command has no place for one",
                              "put {voice} into the command, or name one voice")
        self.writes = "out" in named
        program = shutil.which(self.words[0])
        if program is None:
            raise AssetError(f"synth.command starts with {self.words[0]!r}, which is no program here",
                             "install it, or give its whole path")
        self.words[0] = program
        # A script's interpreter stays the same when the script changes, so files among the words count too.
        files = [word for word in self.words if os.path.isfile(word)]  # Path's raises for a word too long for a name
        made_of = "\n".join([line, *(sha256_file(file) for file in files)])
        self.version = hashlib.sha256(made_of.encode()).hexdigest()[:16]

    def say(self, text: str, voice: str, seed: int) -> Speech:
        check_voice(self, voice)
        spoken = speakable(text).text
        with tempfile.TemporaryDirectory(prefix="salad_ds-speech-") as folder:
            out, text_file = Path(folder, "speech.wav"), Path(folder, "text.txt")
            text_file.write_text(spoken + "\n", encoding="utf-8")
            values = {"voice": voice, "seed": str(seed), "out": str(out), "text_file": str(text_file)}
            arguments = [re.sub(r"\{(\w+)\}", lambda match: values[match[1]], word) for word in self.words]
            said = run(arguments, spoken + "\n", SECONDS + SECONDS_PER_CHARACTER * len(spoken))
            if not self.writes:
                out.write_bytes(said)
            if not out.is_file() or not out.stat().st_size:
                raise DataError("the command made no sound file", "try it by hand, or remove the sample")
            wave, rate = decode(out.read_bytes())
        return Speech(wave, rate, None)


def words_of(line: str) -> list[str]:
    """The words of a command line, checked. Raises RecipeError."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise RecipeError(f"synth.command cannot be read ({error})", EXAMPLE) from None
    if not words:
        raise RecipeError("synth.engine is command, and synth.command is empty", f"give a command line, {EXAMPLE}")
    unknown = [name for word in words for name in re.findall(r"\{(\w+)\}", word) if name not in PLACEHOLDERS]
    if unknown:
        raise RecipeError(f"synth.command has {{{unknown[0]}}}, which nothing stands for",
                          f"use {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}")
    return words


def run(arguments: list[str], text: str, seconds: float) -> bytes:
    """The command's standard output. Raises DataError where it fails, with its last words, or takes too long."""
    try:
        # a session of its own: what the command has started ends with it
        process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   start_new_session=True)
    except OSError as error:
        raise AssetError(f"{arguments[0]} cannot be run ({error.strerror})", "mend synth.command") from None
    try:
        out, errors = process.communicate(text.encode(), seconds)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise DataError(f"the command took more than {seconds:.0f} s",
                            "try it by hand, or remove the sample") from None
        raise
    if process.returncode:
        last = (errors.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1][:200]
        raise DataError(f"the command failed with status {process.returncode}: {last}",
                        "try it by hand, or remove the sample")
    return out
