"""Whisper's encoder on clips of their own length: 16 kHz in, 50 frames/s out, not causal.

Whisper was trained on windows padded to 30 s. Padding every 4 s span to 30 s costs 7-12 times the compute and yields
frames of silence, so the positional embedding is cut to the clip instead (cosine to the padded features: 0.93). Train
and test in the same mode.

The log-mel spectrogram is computed here, batched and on the device, with the numbers of ``WhisperFeatureExtractor``
padded to 30 s: beyond a clip's end there are zeros, and the dynamic range is 80 dB below the clip's own maximum.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.audio_utils import mel_filter_bank
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from salad_ds.hearing import Hearing
from salad_ds.model.encoder_base import SpeechEncoder, config_dict, fit

RATE, WINDOW, HOP = 16_000, 400, 160
"""Hz; samples of the Fourier window; samples between mel frames."""
STRIDE = 2 * HOP
"""Samples per encoder frame: the second convolution halves the mel frames."""


class WhisperSpeechEncoder(SpeechEncoder):
    """The encoder half of a Whisper checkpoint. A clip of n samples has ceil(n / 320) frames; 30 s at most."""

    causal = False

    def __init__(self, config: WhisperConfig, name: str = "") -> None:
        super().__init__()
        self.name = name
        self.whisper = WhisperEncoder(config)
        self.hidden_size = config.d_model
        self.hearing = Hearing(RATE, ((1, STRIDE),), config.max_source_positions * STRIDE)
        self.freeze()

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "whisper", "name": self.name, "config": config_dict(self.whisper.config)}

    def encode(self, audio: Tensor, lengths: list[int], counts: list[int]) -> Tensor:
        whisper, frames = self.whisper, max(1, *counts)
        count = torch.tensor(counts, device=audio.device)
        mel = log_mel(fit(audio, frames * STRIDE), count, whisper.config.num_mel_bins)
        dtype = whisper.conv1.weight.dtype
        hidden = nn.functional.gelu(whisper.conv1(mel.to(dtype)))
        hidden = nn.functional.gelu(whisper.conv2(hidden)).transpose(1, 2)
        # Through the module, not its weight: a sharded engine gathers parameters when their module is called.
        hidden = hidden + whisper.embed_positions(torch.arange(frames, device=audio.device))
        mask = attention_mask(count, frames, dtype) if min(counts) < frames else None
        for layer in whisper.layers:
            hidden = layer(hidden, mask)
        return whisper.layer_norm(hidden)


def attention_mask(count: Tensor, frames: int, dtype: torch.dtype) -> Tensor:
    """Additive [S, 1, F, F]: no frame attends to frames past its clip's own (a clip without frames to all: no NaN)."""
    past = torch.arange(frames, device=count.device) >= count.masked_fill(count == 0, frames)[:, None]
    mask = torch.zeros(past.shape, dtype=dtype, device=count.device).masked_fill(past, torch.finfo(dtype).min)
    return mask[:, None, None, :].expand(-1, 1, frames, -1)


@lru_cache(maxsize=8)
def filters(bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mel filters [bins, WINDOW // 2 + 1] and Hann window [WINDOW], fp32.

    Not buffers of the module: casting the model to bf16, or building it on the meta device, must not touch them.
    """
    bank = mel_filter_bank(1 + WINDOW // 2, bins, 0.0, 8000.0, RATE, norm="slaney", mel_scale="slaney")
    return (torch.from_numpy(bank).to(device, torch.float32).T.contiguous(),
            torch.hann_window(WINDOW, device=device, dtype=torch.float32))


def log_mel(audio: Tensor, count: Tensor, bins: int) -> Tensor:
    """``audio`` [S, F·320] fp32, zero beyond each clip; ``count`` [S] frames of each clip → log-mel [S, bins, 2F] fp32.

    Mel frames past a clip's own 2·count are 0, which is what the next convolution pads with at the end of the longest
    clip, so that every clip ends alike.
    """
    bank, window = filters(bins, audio.device)
    frames = audio.shape[1] // HOP
    audio = nn.functional.pad(audio[:, None], (WINDOW // 2, 0), mode="reflect")[:, 0]  # as a centred STFT does
    audio = nn.functional.pad(audio, (0, WINDOW))  # zeros follow the clip
    spectrum = torch.stft(audio, WINDOW, HOP, window=window, center=False, return_complex=True)
    power = (spectrum.real.square() + spectrum.imag.square()).contiguous()
    log_spec = (bank @ power).clamp(min=1e-10).log10()
    index = torch.arange(log_spec.shape[2], device=audio.device)
    # Two more frames reach back into the clip; the reference takes its maximum over them too, within its 30 s.
    heard = (index <= 2 * count[:, None] + 1) & (index < 30 * RATE // HOP)
    peak = log_spec.masked_fill(~heard[:, None], -10.0).amax(dim=(1, 2), keepdim=True)
    log_spec = (torch.maximum(log_spec, peak - 8.0) + 4.0) / 4.0
    return log_spec[..., :frames].masked_fill((index[:frames] >= 2 * count[:, None])[:, None], 0.0)
