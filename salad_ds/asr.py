"""What a real recogniser hears in synthetic speech, and how far it is from what should have been said.

Whisper, greedy, fp32, one clip at a time and one thread: what is heard in a clip depends on nothing but the clip. Its
30 s window is cut down to the clip and a little silence, from which it learns that nothing more is said. 96 sentences
of hibari (4.2 s each) with the base model on one core: 0.55 s a clip, with a mean character error rate of 0.017,
against 1.35 s and 0.014 in the whole window; 42 of espeak-ng and Kokoro: 0.154 against 0.151. Clips joined in one
window, cut apart by its timestamps, cost as much, and words of one were heard in another.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from torch import Tensor, nn

from salad_ds import onednn
from salad_ds.audio import checked, resample
from salad_ds.errors import AssetError
from salad_ds.files import digest_of
from salad_ds.model.encoder_whisper import STRIDE, log_mel
from salad_ds.pool import worker_device
from salad_ds.synth.normalize import plain
from salad_ds.teacher.identity import model_directory, remembered_sha256, weight_files

HEARING = 1
"""Raised when ``hear`` finds something else than before in the same clip."""
RATE = 16000
WINDOW = 30.0
"""Seconds Whisper hears at once; longer waves are heard in pieces, cut at their quietest moment."""
SEARCH = 5.0
LEAST, SILENCE = 10.0, 3.0
"""Seconds of the shortest window, and of silence behind a clip. Without them the base model says its sentence again and
again: it was trained on 30 s, most of them silent. 10 s and 3 s is where that ends."""
TOKENS_PER_SECOND = 8
"""More than anybody says: bounds the greedy search where the recogniser falls into a loop."""


@functools.lru_cache(maxsize=1)
def recogniser(model: str) -> tuple[Any, Any]:
    """``(WhisperForConditionalGeneration, WhisperProcessor)`` of a hub name, directory or ``packaged:`` asset, on the
    device of this worker. Raises AssetError."""
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    onednn.use()
    where = directory_of(model)
    try:
        loaded = WhisperForConditionalGeneration.from_pretrained(where, dtype=torch.float32).eval()
        processor = WhisperProcessor.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise AssetError(f"synth.asr {model!r} is not a Whisper model that can be loaded ({first_line(error)})",
                         "give a Whisper checkpoint, such as packaged:whisper-base") from None
    return loaded.to(worker_device()), processor


def directory_of(model: str) -> Path:
    try:
        return model_directory(model)
    except AssetError as error:
        raise AssetError(f"synth.asr: {error.what}", error.mend) from None


def identity(model: str) -> str:
    """A name of what ``hear`` hears with ``model``: that, and a digest of its files. Raises AssetError."""
    directory = directory_of(model)
    weights = weight_files(directory)
    if not weights:
        raise AssetError(f"synth.asr: {directory} has no weights", "give a Whisper checkpoint")
    others = [path for path in sorted(directory.glob("*.json")) if path.name != "asset.json"]
    return f"{model} {digest_of([HEARING, {path.name: remembered_sha256(path) for path in others + weights}])[:12]}"


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__


@torch.inference_mode()
def hear(waves: Sequence[np.ndarray], rate: int, model: str = "packaged:whisper-base") -> list[str]:
    """What is said in each of ``waves`` (float32 [samples] at ``rate``, any length), in English.

    Raises DataError for an empty or non-finite wave, AssetError for a model that cannot be loaded.
    """
    from transformers.modeling_outputs import BaseModelOutput

    network, processor = recogniser(model)
    heard = []
    with one_thread():
        for wave in waves:
            parts = []
            for piece in windows(resample(checked(wave), rate, RATE)):
                frames = BaseModelOutput(last_hidden_state=encode(network.model.encoder, piece))
                ids = network.generate(encoder_outputs=frames,
                                       generation_config=greedy(network, len(piece) / RATE))
                parts.append(processor.batch_decode(ids, skip_special_tokens=True)[0].strip())
            heard.append(" ".join(parts).strip())
    return heard


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """More threads round sums differently, and a worker has one anyway."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def encode(encoder: Any, wave: np.ndarray) -> Tensor:
    """[1, frames, hidden] of a wave of at most WINDOW seconds at RATE, in a window of its own length: see LEAST."""
    frames = max(math.ceil(len(wave) / STRIDE + SILENCE * RATE / STRIDE), int(LEAST * RATE / STRIDE))
    frames = min(frames, encoder.config.max_source_positions)
    audio = torch.zeros(1, frames * STRIDE)
    audio[0, :len(wave)] = torch.from_numpy(wave)
    device = encoder.conv1.weight.device
    mel = log_mel(audio.to(device), torch.tensor([frames], device=device), encoder.config.num_mel_bins)
    hidden = nn.functional.gelu(encoder.conv1(mel))
    hidden = nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
    hidden = hidden + encoder.embed_positions.weight[:frames]
    for layer in encoder.layers:
        hidden = layer(hidden, None)
    return encoder.layer_norm(hidden)


def greedy(network: Any, seconds: float) -> Any:
    """Whisper's own generation settings, greedy, bounded by what can be said in ``seconds``, in English."""
    settings = copy.deepcopy(network.generation_config)
    settings.num_beams, settings.do_sample = 1, False
    settings.max_length = min(int(seconds * TOKENS_PER_SECOND) + 16, settings.max_length or 448)
    if getattr(settings, "is_multilingual", False):
        settings.language, settings.task = "en", "transcribe"
    return settings


def windows(wave: np.ndarray) -> list[np.ndarray]:
    """``wave`` (at RATE) in pieces of at most WINDOW seconds, in order, each cut at the quietest 50 ms of its end."""
    longest, search, frame = int(WINDOW * RATE), int(SEARCH * RATE), RATE // 20
    pieces = []
    while len(wave) > longest:
        tail = wave[longest - search:longest].reshape(-1, frame)
        at = longest - search + int((tail ** 2).mean(axis=1).argmin()) * frame + frame // 2
        pieces.append(wave[:at])
        wave = wave[at:]
    return [*pieces, wave]


def character_error_rate(reference: str, heard: str) -> float:
    """Character edits per character of the reference, 0 for a perfect match; may exceed 1.

    Both sides are first brought to how they are spoken (``normalize.plain``): numbers, units and symbols as words,
    lower case, letters and blanks only, so that '20 %' against 'twenty percent' costs nothing. A reference in which
    nothing can be spoken gives 0 when nothing was heard, else 1.
    """
    expected, found = plain(reference), plain(heard)
    if not expected:
        return float(bool(found))
    return float(jiwer.cer(expected, found))
