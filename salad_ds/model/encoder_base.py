"""What every speech encoder is to the rest of the house: frozen, batched, with exact frame arithmetic.

Shape letters: S clips (speech spans), F frames, H features per frame.

Two properties are promised and tested for every encoder:
- **A clip's features are its own.** They do not depend on the other clips of the batch or on their lengths (beyond
  rounding), because a span is batched with other neighbours at every epoch, and with none in a measurement.
- **One call of every submodule per forward**, whatever the lengths: under a sharded engine all ranks stay in step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from salad_ds.errors import DataError


class SpeechEncoder(nn.Module):
    """A frozen encoder: waveform → features. It is always in eval mode, never trained, and keeps no graph.

    ``sample_rate``: Hz of the audio it takes. ``frame_rate``: frames per second. ``hidden_size``: H. ``causal``:
    whether frame ``f`` depends only on audio before its end. ``max_samples``: longest clip, None for no limit.
    """

    sample_rate: int
    frame_rate: float
    hidden_size: int
    causal: bool
    max_samples: int | None = None

    def num_frames(self, num_samples: int) -> int:
        """Frames that ``num_samples`` samples become: exact, and pure arithmetic. DataError beyond ``max_samples``."""
        raise NotImplementedError

    def encode(self, audio: Tensor, lengths: list[int], counts: list[int]) -> Tensor:
        """``audio`` [S, samples] fp32, zero beyond each clip's length → [S, at least max(counts), H]."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """All that ``encoder_from_dict`` needs to build this architecture again, as JSON-able values."""
        raise NotImplementedError

    def freeze(self) -> SpeechEncoder:
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> SpeechEncoder:
        """Stays in eval mode: ``model.train()`` on a model that contains a frozen encoder must not wake its dropout."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, audio: Tensor, lengths: Tensor | Sequence[int]) -> Tensor:
        """``audio`` [S, samples] fp32 in [-1, 1] at ``sample_rate``, ``lengths`` [S] samples of each clip → [S, F, H].

        F is the largest ``num_frames`` of the batch; frames past a clip's own are zeros. What ``audio`` holds beyond a
        clip's length is ignored. The result has the dtype of the encoder's weights. Keep ``lengths`` on the CPU:
        reading it from a GPU waits for the GPU. Raises DataError for lengths that do not fit the audio, or beyond
        ``max_samples``.
        """
        sizes = [int(n) for n in (lengths.tolist() if isinstance(lengths, Tensor) else lengths)]
        if audio.dim() != 2 or len(sizes) != audio.shape[0] or not all(0 <= n <= audio.shape[1] for n in sizes):
            raise DataError(f"audio of shape {tuple(audio.shape)} cannot hold clips of {sizes} samples",
                            "give audio [clips, samples] and the length of each clip")
        counts = [self.num_frames(n) for n in sizes]
        device = next(self.parameters()).device
        audio = audio.to(device, torch.float32)
        size = torch.tensor(sizes, device=device)
        audio = audio.masked_fill(torch.arange(audio.shape[1], device=device) >= size[:, None], 0.0)
        features = self.encode(audio, sizes, counts)[:, :max(counts, default=0)]
        count = torch.tensor(counts, device=device)
        past = torch.arange(features.shape[1], device=device) >= count[:, None]
        return features.masked_fill(past[..., None], 0.0)

    def too_long(self, num_samples: int) -> DataError:
        assert self.max_samples is not None
        return DataError(f"a clip of {num_samples} samples ({num_samples / self.sample_rate:.1f} s) is longer than the "
                         f"{self.max_samples} ({self.max_samples / self.sample_rate:g} s) this encoder hears",
                         "lower data.speech_words or align.max_seconds, or take an encoder without a limit (mimi)")


def fit(audio: Tensor, samples: int) -> Tensor:
    """``audio`` [S, any] cut or padded with zeros on the right to [S, samples]."""
    if audio.shape[1] >= samples:
        return audio[:, :samples]
    return nn.functional.pad(audio, (0, samples - audio.shape[1]))


def config_dict(config: Any) -> dict[str, Any]:
    """A Hugging Face config as JSON-able values, without what names the place it came from."""
    import json

    values = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in values.items()
            if key not in ("_name_or_path", "transformers_version", "architectures", "dtype")}
