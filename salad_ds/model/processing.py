"""Text and clips → model inputs: the processor that belongs to a student."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from salad_ds.audio import resample
from salad_ds.errors import DataError
from salad_ds.model.salad import SaladConfig

AUDIO_MARK = "<|audio|>"
"""Where a clip is heard in a prompt."""

Clip = tuple[np.ndarray, int]
"""(float32 samples [n] in [-1, 1], Hz)."""


class SaladProcessor:
    """``processor("Say it again: <|audio|>", [(wave, rate)])`` → keyword arguments of ``generate`` and
    ``embed_prompt``."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: SaladConfig, sample_rate: int) -> None:
        self.tokenizer, self.config, self.sample_rate = tokenizer, config, sample_rate

    @classmethod
    def from_pretrained(cls, directory: str) -> SaladProcessor:
        """The processor of a student saved in ``directory``."""
        config = SaladConfig.from_pretrained(directory)
        return cls(AutoTokenizer.from_pretrained(directory), config, config.sampling_rate)

    def save_pretrained(self, directory: str) -> None:
        """What ``from_pretrained`` needs beside the student's own files."""
        self.tokenizer.save_pretrained(directory)
        self.config.save_pretrained(directory)

    def ids(self, text: str) -> list[int]:
        """The start token, then the text with one ``audio_token_id`` for each mark."""
        ids = [self.config.start_token_id]
        for i, part in enumerate(text.split(AUDIO_MARK)):
            if i:
                ids.append(self.config.audio_token_id)
            if part:
                ids += self.tokenizer(part, add_special_tokens=False)["input_ids"]
        return ids

    def __call__(self, text: str | Sequence[str], clips: Sequence[Clip] = ()) -> dict[str, Tensor]:
        """Prompts, left-padded [B, T], and their clips in reading order [S, samples] at the encoder's rate.

        Raises DataError when the number of clips is not that of the marks, or a clip is empty.
        """
        prompts = [self.ids(one) for one in ([text] if isinstance(text, str) else text)]
        marks = sum(ids.count(self.config.audio_token_id) for ids in prompts)
        if marks != len(clips):
            raise DataError(
                f"the prompts have {marks} {AUDIO_MARK} marks and {len(clips)} clips were given",
                "give one clip per mark",
            )
        longest = max(map(len, prompts))
        pad = self.config.start_token_id
        inputs = {
            "input_ids": torch.tensor([[pad] * (longest - len(ids)) + ids for ids in prompts]),
            "attention_mask": torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]),
        }
        if clips:
            waves = [resample(np.asarray(wave, np.float32), rate, self.sample_rate) for wave, rate in clips]
            lengths = torch.tensor([len(wave) for wave in waves])
            batch = torch.zeros(len(waves), int(lengths.max()))
            for row, wave in zip(batch, waves, strict=True):
                row[: len(wave)] = torch.from_numpy(wave)
            inputs |= {"audio": batch, "audio_lengths": lengths}
        return inputs
