"""Text and clips → model inputs: the processor that belongs to a student, a ``ProcessorMixin`` of transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    SequenceFeatureExtractor,
)

from salad_ds.audio import decode, resample
from salad_ds.errors import DataError
from salad_ds.model.remote import AUTO_MAP, write_remote_code
from salad_ds.model.salad import SaladConfig, SaladForConditionalGeneration

AUDIO_MARK = "<|audio|>"
"""Where a clip is heard in a prompt."""

Clip = tuple[np.ndarray, int]
"""(float32 samples [n] in [-1, 1], Hz)."""


class SaladFeatureExtractor(SequenceFeatureExtractor):
    """Clips at the encoder's rate, side by side. What an encoder makes of samples (mel bands, a norm) is its own work
    (model/encoder_base.py), so that there is one definition of it."""

    model_input_names = ["audio", "audio_lengths"]

    def __init__(
        self, feature_size: int = 1, sampling_rate: int = 16000, padding_value: float = 0.0, **settings: Any
    ) -> None:
        super().__init__(feature_size, sampling_rate, padding_value, **settings)

    def __call__(self, clips: Sequence[Clip]) -> BatchFeature:
        """``audio`` [S, samples] float32, zeros behind each clip's end, and ``audio_lengths`` [S] samples.

        Clips of another rate are resampled. Raises DataError for rates that cannot be.
        """
        waves = [resample(np.ascontiguousarray(wave, np.float32), rate, self.sampling_rate) for wave, rate in clips]
        lengths = torch.tensor([len(wave) for wave in waves])
        audio = torch.zeros(len(waves), int(lengths.max()))
        for row, wave in zip(audio, waves, strict=True):
            row[: len(wave)] = torch.from_numpy(wave)
        return BatchFeature({"audio": audio, "audio_lengths": lengths})

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Nothing: what a saved processor brings along is one thin file (model/remote.py), not this module."""


class SaladProcessor(ProcessorMixin):
    """``processor("Say it again: <|audio|>", [(wave, rate)])`` → keyword arguments of ``generate`` and
    ``embed_prompt``.

    ``start_token_id`` opens every prompt, ``audio_token_id`` stands for a whole clip: both as in SaladConfig.
    """

    tokenizer: PreTrainedTokenizerBase
    feature_extractor: SaladFeatureExtractor

    def __init__(
        self,
        feature_extractor: SaladFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        start_token_id: int = 0,
        audio_token_id: int = 0,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template or tokenizer.chat_template)
        self.start_token_id, self.audio_token_id = start_token_id, audio_token_id
        self.auto_map = {"AutoProcessor": AUTO_MAP["AutoProcessor"]}

    @classmethod
    def of(cls, model: SaladForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> SaladProcessor:
        """That of a student and its tokenizer."""
        extractor = SaladFeatureExtractor(sampling_rate=model.sample_rate)
        return cls(extractor, tokenizer, model.config.start_token_id, model.config.audio_token_id)

    @classmethod
    def from_pretrained(cls, directory: str | Path, *arguments: Any, **settings: Any) -> SaladProcessor:
        """The processor of a student saved in ``directory``, or on a hub; of one that was saved without, from the
        student's own config."""
        if (Path(directory) / "config.json").is_file() and not (Path(directory) / "processor_config.json").is_file():
            config, tokenizer = SaladConfig.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
            extractor = SaladFeatureExtractor(sampling_rate=config.sampling_rate)
            return cls(extractor, tokenizer, config.start_token_id, config.audio_token_id)
        return super().from_pretrained(directory, *arguments, **settings)

    @property
    def sample_rate(self) -> int:
        """Hz of the audio that the encoder takes."""
        return int(self.feature_extractor.sampling_rate)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **settings: Any) -> list[str]:
        """Tokenizer, processor_config.json, and the thin file that remote loading wants."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        write_remote_code(Path(save_directory))
        return super().save_pretrained(save_directory, push_to_hub, **settings)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Nothing, as in SaladFeatureExtractor."""

    def ids(self, text: str) -> list[int]:
        """The start token, then the text with one ``audio_token_id`` for each mark."""
        ids = [self.start_token_id]
        for i, part in enumerate(text.split(AUDIO_MARK)):
            if i:
                ids.append(self.audio_token_id)
            ids += self.words(part)
        return ids

    def words(self, text: str) -> list[int]:
        """Ids of a piece of a prompt that has no mark. Control tokens in it are control tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def __call__(
        self,
        text: str | Sequence[str] = "",
        audio: Sequence[Clip] | Sequence[np.ndarray] = (),
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
        **others: Any,
    ) -> BatchFeature:
        """Prompts, left-padded [B, T], and their clips in reading order [S, samples] at the encoder's rate.

        ``audio``: clips, or waves of ``sampling_rate`` (default: the encoder's). Raises DataError when the number of
        clips is not that of the marks, a clip is empty, or something else is given than text and audio.
        """
        given = sorted(name for name, value in others.items() if name in ("images", "videos") and value is not None)
        if given or return_tensors != "pt":
            named = ", ".join(given) or return_tensors
            raise DataError(f"a student takes text and audio as torch tensors, not {named}", "leave that out")
        clips = [one if isinstance(one, tuple) else (one, sampling_rate or self.sample_rate) for one in audio]
        prompts = [self.ids(one) for one in ([text] if isinstance(text, str) else text)]
        marks = sum(ids.count(self.audio_token_id) for ids in prompts)
        if marks != len(clips):
            raise DataError(
                f"the prompts have {marks} {AUDIO_MARK} marks and {len(clips)} clips were given",
                "give one clip per mark",
            )
        if empty := [number for number, (wave, _) in enumerate(clips) if not np.size(wave)]:
            raise DataError(f"clip {empty[0]} holds no samples", "leave out its mark, or give its sound")
        longest = max(map(len, prompts))
        pad = self.start_token_id
        inputs = BatchFeature({
            "input_ids": torch.tensor([[pad] * (longest - len(ids)) + ids for ids in prompts]),
            "attention_mask": torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]),
        })
        if clips:
            inputs.update(self.feature_extractor(clips))
        return inputs

    def apply_chat_template(
        self,
        conversation: Sequence[dict[str, Any]],
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        **settings: Any,
    ) -> Any:
        """One conversation as the LLM's chat template writes it, with a mark where a message has audio; with
        ``tokenize``, what ``__call__`` makes of that and the clips. ``settings`` are variables of the template.

        A message's ``content`` is text, or a list of ``{"type": "text", "text": ...}`` and ``{"type": "audio",
        "audio": clip, path or bytes of a file}``. Raises DataError for a tokenizer without a chat template and for
        other content.
        """
        template = chat_template or self.chat_template
        if template is None:
            raise DataError("the student's LLM has no chat template", "write the prompt, or give chat_template")
        clips: list[Clip] = []
        messages = [{**message, "content": written(message["content"], clips)} for message in conversation]
        variables = {name: value for name, value in settings.items() if not name.startswith("return_")}
        prompt = self.tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt, **variables
        )
        if not tokenize:
            return prompt
        return self(str(prompt).removeprefix(self.tokenizer.decode([self.start_token_id])), clips)


def written(content: str | Sequence[dict[str, Any]], clips: list[Clip]) -> str:
    """A message's content as text with marks; its clips are added to ``clips``."""
    if isinstance(content, str):
        return content
    said = ""
    for part in content:
        kind = part.get("type")
        if kind == "text":
            said += part["text"]
        elif kind == "audio" and (sound := next((part[key] for key in ("audio", "path", "url") if key in part), None)):
            clips.append(sound if isinstance(sound, tuple) else decode(sound))
            said += AUDIO_MARK
        else:
            raise DataError(f"this part of a message is neither text nor audio: {json.dumps(part, default=str)[:80]}",
                            'give {"type": "text", "text": ...} or {"type": "audio", "audio": ...}')
    return said


AutoFeatureExtractor.register(SaladConfig, SaladFeatureExtractor, exist_ok=True)
AutoProcessor.register(SaladConfig, SaladProcessor, exist_ok=True)
