"""Speech that is still being spoken: a prompt that grows while its audio arrives, the LLM's cache growing with it.

A causal encoder (Mimi) hears a frame as soon as its last sample is there; adapter and LLM are causal too: each
keeps what it needs of the past (convolutions their last inputs, attention its keys and values), so that a sample is
computed once and what comes out is, up to rounding, what the whole clip would give at once. When the speaker ends, only
the last frame and the text behind it are left to read before the first token.

Whisper and wav2vec2 look ahead: a clip of theirs is kept, and encoded whole when it ends. The result is the same, and
the wait is longer (``incremental`` is False).
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache
from transformers.generation.streamers import BaseStreamer

from salad_ds.audio import resample
from salad_ds.errors import DataError, SaladError
from salad_ds.model.processing import AUDIO_MARK, SaladProcessor
from salad_ds.model.salad import SaladForConditionalGeneration


class SpeechStream:
    """One prompt of text and speech, in the order in which they come: ``read``, ``feed``, ``feed``, ..., ``finish``,
    ``read``, ``generate``.

    ``incremental``: whether sound is encoded while it arrives. ``positions``: of the LLM, filled so far.
    ``first_token_seconds``: from the last sound (or, without sound, from ``generate``) to the first token; None before.
    """

    def __init__(self, model: SaladForConditionalGeneration, processor: SaladProcessor) -> None:
        self.model, self.processor = model, processor
        self.incremental = bool(model.encoder.causal)
        self.first_token_seconds: float | None = None
        self.cache: Cache | None = None
        self.rows: list[Tensor] = []
        """Everything so far, [1, P, H] a piece. The last position is not in the cache yet: generation begins at it."""
        self.clip: Clip | None = None
        self.last_sound: float | None = None
        self.ended = False
        self.extend(self.embedded([model.config.start_token_id]))

    @property
    def positions(self) -> int:
        return sum(row.shape[1] for row in self.rows)

    def read(self, text: str) -> int:
        """Text of the prompt, behind what is there; returns the positions it filled.

        Raises DataError for text with a mark in it (feed the clip instead), SaladError while a clip is open.
        """
        self.require_open()
        if AUDIO_MARK in text:
            raise DataError(f"streamed text holds {AUDIO_MARK}", "read the text up to it, then feed the clip")
        if self.clip is not None:
            raise SaladError("there is text before the clip has ended", "call finish first")
        ids = self.processor.words(text)
        return self.extend(self.embedded(ids)) if ids else 0

    def feed(self, samples: np.ndarray, rate: int | None = None) -> int:
        """The next samples of the clip that is being heard, which begins with the first call.

        samples: float [n], any n, in [-1, 1], at ``rate`` Hz (default: the encoder's; other rates are resampled as they
        arrive). Returns the positions that could be filled with them. Raises DataError for samples that are no finite
        floats, a rate that changes within a clip, or a clip longer than the encoder hears.
        """
        self.require_open()
        wave = np.asarray(samples)
        if wave.ndim != 1 or wave.dtype.kind != "f" or not np.isfinite(wave).all():
            raise DataError(f"streamed samples are {wave.dtype} of shape {wave.shape}, or not finite",
                            "give mono floats in [-1, 1]")
        if self.clip is None:
            self.clip = Clip(self.model, rate or self.processor.sample_rate, self.incremental)
        filled = self.extend(self.clip.feed(wave.astype(np.float32), rate or self.clip.rate))
        self.last_sound = time.monotonic()
        return filled

    def finish(self) -> int:
        """The clip has ended; returns the positions that were still to fill. DataError for one without samples."""
        self.require_open()
        if self.clip is None:
            raise SaladError("there is no clip to finish", "feed samples first")
        clip, self.clip = self.clip, None
        return self.extend(clip.finish())

    def generate(self, streamer: BaseStreamer | None = None, **settings: Any) -> Tensor:
        """New tokens [1, at most max_new_tokens] behind the prompt; a clip that is open ends here, and so does the
        stream. ``settings`` are those of HF ``generate``; ``streamer`` is told every token as it comes."""
        self.require_open()
        if self.clip is not None:
            self.finish()
        self.ended = True
        watch = Watch(streamer)
        began = self.last_sound if self.last_sound is not None else time.monotonic()
        prompt = torch.cat(self.rows, 1)
        with torch.no_grad():
            tokens = self.model.llm.generate(
                inputs_embeds=prompt,
                attention_mask=prompt.new_ones(prompt.shape[:2], dtype=torch.long),
                past_key_values=self.cache,
                streamer=watch,
                **settings,
            )
        self.first_token_seconds = None if watch.first is None else watch.first - began
        return tokens

    @torch.no_grad()
    def extend(self, embeddings: Tensor) -> int:
        """Put [1, P, H] behind the prompt, and what lay last into the LLM's cache; returns P."""
        if not embeddings.shape[1]:
            return 0
        if self.rows:
            ready = torch.cat([self.rows[-1][:, -1:], embeddings[:, :-1]], 1)
            out = self.model.llm.get_decoder()(inputs_embeds=ready, past_key_values=self.cache, use_cache=True)
            self.cache = out.past_key_values
        self.rows.append(embeddings)
        return embeddings.shape[1]

    @torch.no_grad()
    def embedded(self, ids: list[int]) -> Tensor:
        return self.model.get_input_embeddings()(torch.tensor([ids], device=self.model.device))

    def require_open(self) -> None:
        if self.ended:
            raise SaladError("the stream has ended with generate", "begin another SpeechStream")


class Clip:
    """One clip while it arrives: samples → whole frames → whole positions of the LLM, each kept until it is whole."""

    def __init__(self, model: SaladForConditionalGeneration, rate: int, incremental: bool) -> None:
        self.model, self.rate, self.incremental = model, rate, incremental
        self.resampler = Resampler(rate, model.sample_rate)
        self.table: Tensor = model.get_input_embeddings().weight  # type: ignore[assignment]
        self.frame = math.prod(stride for _, stride in model.hearing.convolutions)
        self.waiting = np.zeros(0, np.float32)
        self.samples = 0
        self.features: Tensor | None = None
        """Frames [1, F, E] that do not make a position yet; F < stack."""
        self.heard: Any = None
        self.adapted: Cache | None = None

    def feed(self, wave: np.ndarray, rate: int) -> Tensor:
        """Embeddings [1, P, H] of what has become whole, P may be 0."""
        if rate != self.rate:
            raise DataError(f"a clip that began at {self.rate} Hz goes on at {rate} Hz", "finish it, or keep the rate")
        return self.take(self.resampler.feed(wave))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Embeddings of the rest, with zeros up to a whole frame and a whole position."""
        early = self.take(self.resampler.finish())
        if not self.samples:
            raise DataError("the clip that was fed holds no samples", "feed some before it is finished")
        if not self.incremental:
            wave = torch.from_numpy(self.waiting)[None]
            return self.model.speech_embeddings(wave, torch.tensor([self.samples]))[0][None]
        missing = -len(self.waiting) % self.frame
        self.waiting = np.pad(self.waiting, (0, missing))
        return torch.cat([early, self.encoded(last=True)], 1)

    def take(self, wave: np.ndarray) -> Tensor:
        self.samples += len(wave)
        self.model.hearing.frames(self.samples)  # too long for this encoder?
        self.waiting = np.concatenate([self.waiting, wave])
        return self.encoded() if self.incremental else self.nothing()

    @torch.no_grad()
    def encoded(self, last: bool = False) -> Tensor:
        """The whole frames of what waits as embeddings; ``last``: incomplete positions too."""
        whole = len(self.waiting) - len(self.waiting) % self.frame
        if whole:
            wave, self.waiting = self.waiting[:whole], self.waiting[whole:]
            features, self.heard = self.model.encoder.continued(torch.from_numpy(wave)[None], self.heard)
            self.features = features if self.features is None else torch.cat([self.features, features], 1)
        if self.features is None:
            return self.nothing()
        count = self.features.shape[1]
        count -= 0 if last else count % self.model.adapter.stack
        ready, self.features = self.features[:, :count], self.features[:, count:]
        if not count:
            return self.nothing()
        embeddings, self.adapted = self.model.adapter.continued(ready, self.adapted)
        return embeddings.to(self.table.dtype)

    def nothing(self) -> Tensor:
        return self.table.new_zeros(1, 0, self.table.shape[1])


class Resampler:
    """``salad_ds.audio.resample`` of a wave that arrives in pieces.

    Its filter reaches about 6 periods of the lower rate to each side: a block of samples is resampled with enough
    neighbours, whose own output is cut away again.
    """

    def __init__(self, source: int, target: int) -> None:
        if source <= 0:
            raise DataError(f"sample rate {source} must be positive", "give the rate of the samples in Hz")
        common = math.gcd(source, target)
        self.source, self.target, self.block, self.made = source, target, source // common, target // common
        self.context = math.ceil(7 / min(self.block, self.made)) + 1
        """Blocks to each side."""
        self.waiting = np.zeros(0, np.float32)
        self.done = 0
        """Blocks of ``waiting`` that are resampled already and serve as neighbours."""

    def feed(self, wave: np.ndarray) -> np.ndarray:
        """What can be resampled now."""
        if self.source == self.target:
            return wave
        self.waiting = np.concatenate([self.waiting, wave])
        upto = len(self.waiting) // self.block - self.context
        if upto <= self.done:
            return np.zeros(0, np.float32)
        out = resample(self.waiting[: (upto + self.context) * self.block], self.source, self.target)
        out = out[self.done * self.made : upto * self.made]
        spent = max(upto - self.context, 0)
        self.waiting, self.done = self.waiting[spent * self.block :], upto - spent
        return out

    def finish(self) -> np.ndarray:
        """The rest: in all ``ceil(samples · target / source)`` samples."""
        if not len(self.waiting):
            return np.zeros(0, np.float32)
        out, self.waiting = resample(self.waiting, self.source, self.target), np.zeros(0, np.float32)
        return out[self.done * self.made :]


class Watch(BaseStreamer):
    """Notes when the first token came, and hands everything on."""

    def __init__(self, streamer: BaseStreamer | None) -> None:
        self.streamer = streamer
        self.first: float | None = None

    def put(self, value: Tensor) -> None:
        if value.numel() and self.first is None:  # the prompt comes first, and has no ids: it was embedded
            self.first = time.monotonic()
        if self.streamer is not None:
            self.streamer.put(value)

    def end(self) -> None:
        if self.streamer is not None:
            self.streamer.end()
