"""What a real recogniser hears in synthetic speech, and how far it is from what should have been said.

Whisper, greedy, fp32. It pays for its whole 30 s window however short the clip is (1-2 s of one CPU core per clip with
the base model), so this is for probes and checks, not for whole corpora.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import jiwer
import numpy as np
import torch

from salad_ds.assets import resolve
from salad_ds.audio import checked, resample
from salad_ds.errors import AssetError
from salad_ds.synth.normalize import plain

RATE = 16000
WINDOW = 30.0
"""Seconds Whisper hears at once; longer waves are heard in pieces, cut at their quietest moment."""
SEARCH = 5.0
TOKENS_PER_SECOND = 8
"""More than anybody says: bounds the greedy search where the recogniser falls into a loop."""


@functools.lru_cache(maxsize=1)
def recogniser(model: str) -> tuple[Any, Any]:
    """``(WhisperForConditionalGeneration, WhisperProcessor)`` of a hub name, directory or ``packaged:`` asset."""
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    where = str(resolve(model, "select.asr"))
    try:
        loaded = WhisperForConditionalGeneration.from_pretrained(where, dtype=torch.float32).eval()
        processor = WhisperProcessor.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise AssetError(f"select.asr {model!r} is not a Whisper model that can be loaded ({first_line(error)})",
                         "give a Whisper checkpoint, such as packaged:whisper-base") from None
    return loaded.to("cuda" if torch.cuda.is_available() else "cpu"), processor


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__


@torch.inference_mode()
def hear(waves: Sequence[np.ndarray], rate: int, model: str = "packaged:whisper-base", batch: int = 4) -> list[str]:
    """What is said in each of ``waves`` (float32 [samples] at ``rate``, any length), in English.

    Raises DataError for an empty or non-finite wave, AssetError for a model that cannot be loaded.
    """
    network, processor = recogniser(model)
    pieces = [(i, piece) for i, wave in enumerate(waves) for piece in windows(resample(checked(wave), rate, RATE))]
    heard: list[list[str]] = [[] for _ in waves]
    # Clips of like length together: a batch runs as long as its longest transcript. The sort is stable.
    pieces.sort(key=lambda entry: len(entry[1]))
    for first in range(0, len(pieces), batch):
        part = pieces[first:first + batch]
        coded = processor.feature_extractor([wave for _, wave in part], sampling_rate=RATE, return_tensors="pt",
                                            return_attention_mask=True).to(network.device)
        ids = network.generate(coded.input_features, attention_mask=coded.attention_mask,
                               generation_config=greedy(network, max(len(wave) for _, wave in part) / RATE))
        for (i, _), text in zip(part, processor.batch_decode(ids, skip_special_tokens=True), strict=True):
            heard[i].append(text.strip())
    return [" ".join(parts).strip() for parts in heard]


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
