"""wav2vec 2.0 and its kin (HuBERT, WavLM, UniSpeech): raw waveform in, about 50 frames/s out, not causal.

Their batched forward has two traps. Checkpoints with ``feat_extract_norm: group`` (all base models) normalise every
channel over *time*, padding included, so that a clip's features would change with its neighbours: that norm is replaced
by one that counts a clip's own frames only. And per-clip normalisation of the waveform (``do_normalize`` of the feature
extractor) is done here, over the clip's own samples.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from salad_ds.errors import RecipeError
from salad_ds.hearing import Hearing
from salad_ds.model.encoder_base import SpeechEncoder, config_dict, fit

FAMILIES = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
"""Model types whose masked forward is exact: the others convolve over padding in ways that a mask cannot undo."""


class ClipNorm(nn.GroupNorm):
    """GroupNorm whose statistics are those of each clip's first ``frames[s]`` positions. x [S, C, T]."""

    frames: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.frames is None:
            return super().forward(x)
        own = (torch.arange(x.shape[2], device=x.device) < self.frames[:, None])[:, None]
        wide = x.float()
        total = self.frames.clamp(min=1)[:, None, None]
        mean = (wide * own).sum(2, keepdim=True) / total
        variance = ((wide - mean).square() * own).sum(2, keepdim=True) / total
        normed = (wide - mean) * torch.rsqrt(variance + self.eps)
        return normed.to(x.dtype) * self.weight[:, None] + self.bias[:, None]


class HFSpeechEncoder(SpeechEncoder):
    """An AutoModel that maps a waveform to ``last_hidden_state``.

    ``sample_rate`` in Hz and ``normalize`` (waveform to zero mean and unit variance) are its feature extractor's.
    Raises RecipeError for a model type outside FAMILIES.
    """

    causal = False

    def __init__(self, config: Any, sample_rate: int = 16_000, normalize: bool = True, name: str = "") -> None:
        super().__init__()
        if config.model_type not in FAMILIES or getattr(config, "add_adapter", False):
            raise RecipeError(f"the speech encoder {name!r} is a {config.model_type}"
                              + (" with an adapter" if getattr(config, "add_adapter", False) else ""),
                              f"take one of {', '.join(FAMILIES)}; mimi and whisper have kinds of their own")
        self.name, self.normalize = name, normalize
        self.model = AutoModel.from_config(config)
        self.hidden_size = config.hidden_size
        self.hearing = Hearing(sample_rate, tuple(zip(config.conv_kernel, config.conv_stride, strict=True)))
        self.isolate()
        self.freeze()

    def isolate(self) -> None:
        """Give the first convolution's norm over time the statistics of one clip at a time."""
        first = self.model.feature_extractor.conv_layers[0]
        norm = getattr(first, "layer_norm", None)
        self.norm: ClipNorm | None = None
        if isinstance(norm, nn.GroupNorm):
            own = ClipNorm(norm.num_groups, norm.num_channels, norm.eps, device=norm.weight.device)
            own.load_state_dict(norm.state_dict())
            first.layer_norm = own
            object.__setattr__(self, "norm", own)  # a second name, not a second submodule: the weights are saved once

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "hf", "name": self.name, "sample_rate": self.sample_rate, "normalize": self.normalize,
                "config": config_dict(self.model.config)}

    def encode(self, audio: Tensor, lengths: list[int], counts: list[int]) -> Tensor:
        audio = fit(audio, max(self.hearing.shortest, *lengths))
        size = torch.tensor(lengths, device=audio.device)
        own = torch.arange(audio.shape[1], device=audio.device) < size[:, None]
        if self.normalize:
            total = size.clamp(min=1)[:, None]
            mean = audio.sum(1, keepdim=True) / total
            variance = ((audio - mean).square() * own).sum(1, keepdim=True) / total
            audio = ((audio - mean) * torch.rsqrt(variance + 1e-7)) * own
        if self.norm is not None:
            kernel, stride = self.hearing.convolutions[0]
            self.norm.frames = torch.div(size - kernel, stride, rounding_mode="floor").add(1).clamp(min=0)
        dtype = self.model.feature_extractor.conv_layers[0].conv.weight.dtype
        return self.model(audio.to(dtype), attention_mask=own.long()).last_hidden_state
