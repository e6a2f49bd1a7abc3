"""Speech LLMs of transformers (``hf:NAME``): any model whose processor takes text and audio together.

The prompt is plain text with the processor's own audio token (and what it puts around it) where a question is heard: no
conversation, the same words as every other model reads. An option's log-probability comes from the logits of
``model(**inputs)``. The prompt is encoded once and its keys and values serve all options; whether the model continues a
prompt from them as it reads it whole is measured on the first item, and where it does not, every option is read whole.
Worked examples are encoded anew for every item.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    PretrainedConfig,
)

from salad_ds import onednn
from salad_ds.assets import resolve
from salad_ds.audio import resample
from salad_ds.errors import DataError, RecipeError
from salad_ds.evaluate.models import TOO_SHORT, too_large
from salad_ds.evaluate.prompts import Piece, Prompt, Sound, option_ids
from salad_ds.evaluate.results import model_name
from salad_ds.evaluate.score import Score
from salad_ds.teacher.identity import teacher_identity

CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Nats per token by which a continued prompt may differ from a whole one: what rounding does."""


class SpeechLLM:
    """A model of transformers with its processor. Raises AssetError where there is none, RecipeError where its
    processor has no audio token or takes no audio."""

    conditions = ("text", "speech")

    def __init__(self, reference: str, device: torch.device) -> None:
        self.reference, self.device = reference, device
        self.name = self.family = model_name(f"hf:{reference}")
        self.identity = teacher_identity(reference)
        self.where = str(resolve(reference, "evaluate.models"))
        try:
            self.config = inner(AutoConfig.from_pretrained(self.where))
            self.processor = AutoProcessor.from_pretrained(self.where)
        except (OSError, ValueError) as error:
            raise RecipeError(f"hf:{reference} cannot be loaded ({' '.join(str(error).split())[:200]})",
                              "give a speech LLM of transformers, by hub name or directory") from None
        tokenizer = getattr(self.processor, "tokenizer", None)
        token = getattr(self.processor, "audio_token", None)
        if tokenizer is None or not token or "audio" not in inspect.signature(self.processor.__call__).parameters:
            raise RecipeError(f"{type(self.processor).__name__} of hf:{reference} takes no text with audio inside",
                              "evaluate a model whose processor has an audio_token and takes audio=")
        self.mark = f"{getattr(self.processor, 'audio_bos_token', None) or ''}{token}" + (
            getattr(self.processor, "audio_eos_token", None) or "")
        self.tokenizer = tokenizer
        self.audio_id = self.tokenizer.convert_tokens_to_ids(token)
        listener = next((part for name in ("feature_extractor", "audio_processor")
                         if (part := getattr(self.processor, name, None)) is not None), None)  # fmt: skip
        self.rate = int(getattr(listener, "sampling_rate", None) or 0)
        if not self.rate:
            raise RecipeError(f"{type(listener).__name__} of hf:{reference} does not say which sample rate it takes",
                              "evaluate a model whose feature extractor has a sampling_rate")
        self.window = getattr(listener, "chunk_length", None)
        self.counts: dict[Sound, int] = {}
        self.limit = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        self.model: Any = None
        self.continues: bool | None = None

    def question(self, sound: Sound) -> Piece:
        return sound

    def text(self, pieces: Sequence[Piece]) -> tuple[str, list[Sound]]:
        """A prompt as one text, and its sounds in order. Raises DataError for a question that has the audio token."""
        sounds = [piece for piece in pieces if isinstance(piece, Sound)]
        text = "".join(self.mark if isinstance(piece, Sound) else piece for piece in pieces)
        if text.count(self.processor.audio_token) != len(sounds):
            raise DataError("its text has the model's audio token in it", "remove the item")
        return text, sounds

    def inputs(self, text: str, waves: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """What the processor makes of a prompt and its waves (at ``rate``): one row, on the CPU."""
        audio = {"audio": list(waves)} if waves else {}
        return dict(self.processor(text=text, return_tensors="pt", **audio))

    def wave(self, sound: Sound) -> np.ndarray:
        wave, rate = sound.clip
        return resample(wave, rate, self.rate)

    def positions(self, sound: Sound) -> int:
        """Audio tokens of a sound. Raises DataError for one that the processor would cut short without a word."""
        if sound not in self.counts:
            wave = self.wave(sound)
            window = int((self.window or len(wave) / self.rate) * self.rate)
            found, cut = (self.audio_tokens(one) for one in (wave, wave[:window]))
            if not found or (len(wave) > window and found <= cut):
                raise DataError("its speech is longer than the model hears" if found else TOO_SHORT, "remove the item")
            self.counts[sound] = found
        return self.counts[sound]

    def audio_tokens(self, wave: np.ndarray) -> int:
        return int((self.inputs(self.mark, [wave])["input_ids"] == self.audio_id).sum())

    def prompt(self, pieces: Sequence[Piece], options: Sequence[str], context: str) -> Prompt:
        text, sounds = self.text(pieces)
        length = len(self.tokenizer(text)["input_ids"]) - len(sounds) + sum(map(self.positions, sounds))
        return Prompt((text, *sounds), length, option_ids(self.tokenizer, context, options))

    def ready(self) -> Any:
        if self.model is None:
            kinds = (AutoModelForMultimodalLM, AutoModelForSeq2SeqLM, AutoModelForCausalLM)
            kind = next((kind for kind in kinds if type(self.config) in kind._model_mapping), None)
            if kind is None:
                raise RecipeError(f"transformers has no {self.config.model_type} that reads and hears",
                                  "evaluate a speech LLM of transformers")
            onednn.use()
            dtype = "auto" if self.device.type == "cuda" else torch.float32
            try:
                model, loaded = kind.from_pretrained(
                    self.where, config=self.config, dtype=dtype, output_loading_info=True
                )
                if absent := sorted(map(str, loaded["missing_keys"])):  # they would be random numbers
                    raise ValueError(f"it lacks {len(absent)} weights, such as {absent[0]}")
                self.model = model.eval().to(self.device)
            except torch.cuda.OutOfMemoryError:
                raise too_large(self.name) from None
            except (OSError, ValueError) as error:
                raise RecipeError(f"hf:{self.reference} cannot be loaded ({' '.join(str(error).split())[:200]})",
                                  "give a complete speech LLM of transformers") from None
        return self.model

    def score(self, prompts: Sequence[Prompt], shared: int) -> list[list[Score]]:
        """``shared`` is of no use here: every prompt is encoded by itself."""
        model = self.ready()
        found = []
        for prompt in prompts:
            text, sounds = prompt.slots[0], [slot for slot in prompt.slots if isinstance(slot, Sound)]
            inputs = {
                name: value.to(self.device, model.dtype if value.is_floating_point() else None)
                for name, value in self.inputs(str(text), [self.wave(one) for one in sounds]).items()
            }
            if self.continues is None:
                self.continues = self.probe(inputs, prompt.options)
            found.append((self.continued if self.continues else self.whole)(inputs, prompt.options))
        return found

    def probe(self, inputs: dict[str, Tensor], options: list[list[int]]) -> bool:
        """Does the model continue a prompt from its keys and values as it reads it whole?"""
        expected = self.whole(inputs, options)
        try:
            found = self.continued(inputs, options)
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError):  # its forward has no such way
            return False
        close = CLOSE.get(self.model.dtype, 1e-4)
        return all(abs(a.logprob - b.logprob) <= close * a.tokens for a, b in zip(expected, found, strict=True))

    @torch.no_grad()
    def continued(self, inputs: dict[str, Tensor], options: list[list[int]]) -> list[Score]:
        """The prompt once, then all options at a time behind its keys and values."""
        out = self.model(**inputs, use_cache=True)
        first, cache = out.logits[:, -1:], out.past_key_values
        seen = cache.get_seq_length()
        cache.batch_repeat_interleave(len(options))
        width = max(map(len, options))
        ids = torch.tensor([[*one, *[0] * (width - len(one))] for one in options], device=self.device)
        mask = torch.ones(len(options), seen + width, dtype=torch.long, device=self.device)
        rest = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True).logits
        logits = torch.cat([first.expand(len(options), -1, -1), rest[:, :-1]], 1)
        return [score(row, one) for row, one in zip(logits, options, strict=True)]

    @torch.no_grad()
    def whole(self, inputs: dict[str, Tensor], options: list[list[int]]) -> list[Score]:
        """Every option behind the whole prompt."""
        found = []
        for one in options:
            grown = dict(inputs)
            for name, value in inputs.items():
                if value.shape == inputs["input_ids"].shape:  # one entry per token
                    fill = {"input_ids": one, "attention_mask": [1] * len(one)}.get(name, [0] * len(one))
                    grown[name] = torch.cat([value, torch.tensor([fill], device=self.device, dtype=value.dtype)], 1)
            found.append(score(self.model(**grown).logits[0, -len(one) - 1 : -1], one))
        return found

    def close(self) -> None:
        self.model = None


def score(logits: Tensor, ids: list[int]) -> Score:
    """logits [at least len(ids), V]: those that predict ``ids``, in order."""
    found = logits[: len(ids)].double().log_softmax(-1).gather(1, torch.tensor(ids, device=logits.device)[:, None])
    return Score(float(found.sum()), len(ids))


def inner(config: PretrainedConfig) -> PretrainedConfig:
    """Of a model that also speaks (Qwen2.5-Omni), the part that reads, hears and thinks."""
    return getattr(config, "thinker_config", config)
