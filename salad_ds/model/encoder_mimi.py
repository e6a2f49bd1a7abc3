"""Mimi's encoder, the paper's choice: causal, 24 kHz in, 12.5 frames/s of 512 features out.

Every clip is padded with zeros to whole frames. Then no convolution pads on its right, so that, the encoder being
causal, a clip's frames depend on nothing but the clip, whatever lies behind it in the batch.

There are two kinds of features. ``latents``: the encoder's output before quantisation. ``codes``: the same after it,
rebuilt from the codes of all codebooks as the decoder would get them; another feature, a little poorer, that a cache
keeps in half a kilobyte per second of speech (44 bytes per frame, where latents take 1 or 2 kB).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import MimiConfig
from transformers.models.mimi.configuration_mimi import MimiEncoderConfig
from transformers.models.mimi.modeling_mimi import (
    MimiEncoderModel,
    MimiEuclideanCodebook,
    MimiSplitResidualVectorQuantizer,
)

from salad_ds.errors import RecipeError
from salad_ds.hearing import Hearing
from salad_ds.model.encoder_base import SpeechEncoder, config_dict, fit


class MimiSpeechEncoder(SpeechEncoder):
    """The encoder half of a Mimi checkpoint: convolutions, transformer, downsampling, and for ``codes`` the quantiser.
    ceil(n / 1920) frames."""

    def __init__(self, config: MimiConfig, name: str = "", features: str = "latents") -> None:
        super().__init__()
        if config.audio_channels != 1:
            raise RecipeError(f"the Mimi encoder {name!r} wants {config.audio_channels} channels", "take a mono one")
        self.name, self.features = name, features
        settings = config_dict(config)
        for key in ("model_type", "encoder_config", "decoder_config"):
            settings.pop(key, None)
        self.mimi = MimiEncoderModel(MimiEncoderConfig(**settings))
        self.quantizer: MimiSplitResidualVectorQuantizer | None = None
        if features == "codes":
            self.quantizer = MimiSplitResidualVectorQuantizer(config)
            self.codebooks, self.code_bits = config.num_quantizers, (config.codebook_size - 1).bit_length()
        self.stride = int(config.frame_size)
        self.hearing = Hearing(config.sampling_rate, ((1, self.stride),))
        self.hidden_size, self.causal = config.hidden_size, bool(config.use_causal_conv)
        self.freeze()

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "mimi", "name": self.name, "features": self.features, "config": config_dict(self.mimi.config)}

    def encode(self, audio: Tensor, lengths: list[int], counts: list[int]) -> Tensor:
        audio = fit(audio, max(1, *counts) * self.stride)
        dtype = self.mimi.downsample.conv.weight.dtype
        return self.mimi(audio[:, None].to(dtype), use_streaming=False).latents.transpose(1, 2)

    @torch.no_grad()
    def continued(self, audio: Tensor, past: Any) -> tuple[Tensor, Any]:
        weight = self.mimi.downsample.conv.weight
        keys, inputs = past or (None, None)
        out = self.mimi(audio[:, None].to(weight), past_key_values=keys, padding_cache=inputs, use_streaming=True)
        features = out.latents.transpose(1, 2)
        if self.quantizer is not None:
            features = self.restore(self.quantizer.encode(out.latents).permute(1, 2, 0))
        return features, (out.past_key_values, out.padding_cache)

    @torch.no_grad()
    def frames(self, audio: Tensor, lengths: Tensor | Sequence[int]) -> Tensor:
        """Latents [S, F, H], or codes [S, F, codebooks] int16, -1 past a clip's own frames."""
        latents = super().frames(audio, lengths)
        if self.quantizer is None:
            return latents
        codes = self.quantizer.encode(latents.transpose(1, 2)).permute(1, 2, 0).to(torch.int16)
        count = torch.tensor([self.num_frames(int(n)) for n in lengths], device=codes.device)
        past = torch.arange(codes.shape[1], device=codes.device) >= count[:, None]
        return codes.masked_fill(past[..., None], -1)

    @torch.no_grad()
    def restore(self, frames: Tensor) -> Tensor:
        if self.quantizer is None:
            return super().restore(frames)
        features = self.quantizer.decode(frames.clamp(min=0).long().transpose(1, 2)).transpose(1, 2)
        return features.masked_fill(frames[..., :1] < 0, 0.0)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> MimiSpeechEncoder:
        """Moved or cast: the codebooks' vectors, which transformers computes once and keeps, are computed anew."""
        super()._apply(fn, recurse)
        for module in self.modules():
            if isinstance(module, MimiEuclideanCodebook):
                module._embed = None
        return self
