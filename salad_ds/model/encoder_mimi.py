"""Mimi's encoder, the paper's choice: causal, 24 kHz in, 12.5 frames/s of 512 features out, before quantisation.

Every clip is padded with zeros to whole frames. Then no convolution pads on its right, so that, the encoder being
causal, a clip's frames depend on nothing but the clip, whatever lies behind it in the batch.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import MimiConfig
from transformers.models.mimi.configuration_mimi import MimiEncoderConfig
from transformers.models.mimi.modeling_mimi import MimiEncoderModel

from salad_ds.errors import RecipeError
from salad_ds.model.encoder_base import SpeechEncoder, config_dict, fit


class MimiSpeechEncoder(SpeechEncoder):
    """The encoder half of a Mimi checkpoint: convolutions, transformer, downsampling. ceil(n / 1920) frames."""

    def __init__(self, config: MimiConfig, name: str = "") -> None:
        super().__init__()
        if config.audio_channels != 1:
            raise RecipeError(f"the Mimi encoder {name!r} wants {config.audio_channels} channels", "take a mono one")
        self.name = name
        settings = config_dict(config)
        for key in ("model_type", "encoder_config", "decoder_config"):
            settings.pop(key, None)
        self.mimi = MimiEncoderModel(MimiEncoderConfig(**settings))
        self.stride = int(config.frame_size)
        self.sample_rate, self.frame_rate = config.sampling_rate, config.sampling_rate / self.stride
        self.hidden_size, self.causal = config.hidden_size, bool(config.use_causal_conv)
        self.freeze()

    def num_frames(self, num_samples: int) -> int:
        return -(-num_samples // self.stride)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "mimi", "name": self.name, "config": config_dict(self.mimi.config)}

    def encode(self, audio: Tensor, lengths: list[int], counts: list[int]) -> Tensor:
        audio = fit(audio, max(1, *counts) * self.stride)
        dtype = self.mimi.downsample.conv.weight.dtype
        return self.mimi(audio[:, None].to(dtype), use_streaming=False).latents.transpose(1, 2)
