"""``salad-ds generate``: what the student says after hearing a clip, whole or while it is spoken."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer, TextStreamer

from salad_ds.audio import decode
from salad_ds.errors import DataError, SaladError
from salad_ds.model.processing import AUDIO_MARK, SaladProcessor
from salad_ds.model.salad import SaladForConditionalGeneration, load_student
from salad_ds.model.streaming import SpeechStream
from salad_ds.teacher.forward import default_device

LIVE = "-"
"""The name of standard input among the clips: raw samples, 16-bit signed little-endian, mono."""
PIECE = 0.08
"""Seconds of audio that are fed at a time: a frame of Mimi."""


def generate(
    checkpoint: str, audio: list[str], text: str = "", max_new_tokens: int = 40, temperature: float = 0.0
) -> str:
    """The continuation after ``text``, in which each ``<|audio|>`` stands for one clip (by default the clips come
    first).

    ``temperature`` 0 is greedy. Raises CheckpointError for a directory that holds no student, DataError for audio that
    does not decode or marks that do not match the clips, SaladError for settings that cannot be.
    """
    text = checked(audio, text, max_new_tokens, temperature)
    clips = [decode(name) for name in audio]
    model, processor = loaded(checkpoint)
    inputs = {name: value.to(model.device) for name, value in processor(text, clips).items()}
    tokens = model.generate(**inputs, **settings(model, max_new_tokens, temperature))
    return processor.tokenizer.decode(tokens[0], skip_special_tokens=True)


def generate_streaming(
    checkpoint: str,
    audio: list[str],
    text: str = "",
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    rate: int | None = None,
    printer: Callable[[PreTrainedTokenizerBase], BaseStreamer] | None = None,
) -> tuple[str, SpeechStream]:
    """As ``generate``, with every clip fed in pieces as it would arrive; and the stream, which knows how long the first
    token took.

    The clip named ``-`` is read from standard input while it is spoken, at ``rate`` Hz (default: the encoder's).
    ``printer`` makes of the tokenizer what is told every token as it comes. Raises what ``generate`` does.
    """
    text = checked([name for name in audio if name != LIVE], text, max_new_tokens, temperature, audio.count(LIVE))
    if rate is not None and (rate < 1 or LIVE not in audio):
        raise SaladError(f"the rate {rate} is for samples on standard input", "give --audio - with it, and Hz above 0")
    clips = {name: decode(name) for name in audio if name != LIVE}
    model, processor = loaded(checkpoint)
    stream, parts = SpeechStream(model, processor), text.split(AUDIO_MARK)
    if len(parts) != len(audio) + 1:
        raise DataError(f"the prompt has {len(parts) - 1} {AUDIO_MARK} marks and {len(audio)} clips were given",
                        "give one clip per mark")
    stream.read(parts[0])
    for name, following in zip(audio, parts[1:], strict=True):
        hertz = (rate or processor.sample_rate) if name == LIVE else clips[name][1]
        for piece in live(sys.stdin.buffer, hertz) if name == LIVE else pieces(*clips[name]):
            stream.feed(piece, hertz)
        if stream.clip is None:
            raise DataError("standard input brought no samples", "pipe 16-bit mono PCM into it: arecord -t raw ...")
        stream.finish()
        stream.read(following)
    streamer = None if printer is None else printer(processor.tokenizer)
    tokens = stream.generate(streamer, **settings(model, max_new_tokens, temperature))
    return processor.tokenizer.decode(tokens[0], skip_special_tokens=True), stream


def generate_aloud(
    checkpoint: str, audio: list[str], text: str, max_new_tokens: int, temperature: float, rate: int | None = None
) -> None:
    """The command's ``--stream``: tokens on standard output as they come, and on the error output what was heard before
    the end, and how long the first token took."""
    words = partial(TextStreamer, skip_prompt=True, skip_special_tokens=True)
    _, stream = generate_streaming(checkpoint, audio, text, max_new_tokens, temperature, rate, words)
    seconds = stream.first_token_seconds
    heard = "while listening" if stream.incremental else "at their end, for the encoder is not causal"
    wait = "no token came" if seconds is None else f"first token {seconds:.2f} s after the prompt's last sound"
    print(f"salad-ds generate: {stream.positions} positions, clips encoded {heard}; {wait}", file=sys.stderr)


def checked(audio: list[str], text: str, max_new_tokens: int, temperature: float, live_clips: int = 0) -> str:
    """The prompt, with a mark for every clip where it had none. Raises what ``generate`` promises of settings."""
    if max_new_tokens < 1 or temperature < 0:
        raise SaladError(
            f"max_new_tokens is {max_new_tokens} and temperature {temperature}",
            "ask for at least 1 token, and for a temperature of 0 (greedy) or more",
        )
    if live_clips > 1:
        raise SaladError("standard input is named twice", "give --audio - once")
    count = len(audio) + live_clips
    if not count and not text:
        raise DataError("there is neither audio nor text", "give --audio FILE, --text TEXT, or both")
    for name in audio:
        if not Path(name).is_file():
            raise DataError(f"{name} does not exist", "give the path of an audio file")
    return text if AUDIO_MARK in text else AUDIO_MARK * count + text


def loaded(checkpoint: str) -> tuple[SaladForConditionalGeneration, SaladProcessor]:
    """A saved student on the device there is, and its processor."""
    model, tokenizer = load_student(checkpoint)
    return model.to(default_device()), SaladProcessor.of(model, tokenizer)


def settings(model: SaladForConditionalGeneration, max_new_tokens: int, temperature: float) -> dict[str, Any]:
    """Those of HF ``generate``: greedy at temperature 0, whatever the LLM recommends."""
    drawn = (
        {"do_sample": True, "temperature": temperature}
        if temperature > 0
        else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    )
    return {"max_new_tokens": max_new_tokens, "pad_token_id": model.config.start_token_id, **drawn}


def pieces(wave: np.ndarray, rate: int) -> Iterator[np.ndarray]:
    """A decoded clip as it would arrive."""
    step = max(round(PIECE * rate), 1)
    for start in range(0, len(wave), step):
        yield wave[start : start + step]


def live(source: BinaryIO, rate: int) -> Iterator[np.ndarray]:
    """16-bit samples from ``source`` as floats, as soon as there are any, until it ends."""
    rest = b""
    while read := source.read1(max(round(PIECE * rate), 1) * 2):  # type: ignore[attr-defined]
        read = rest + read
        whole = len(read) - len(read) % 2
        rest = read[whole:]
        if whole:
            yield np.frombuffer(read[:whole], "<i2").astype(np.float32) / np.float32(32768)
