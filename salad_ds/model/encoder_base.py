"""What every speech encoder is to the rest of the house: frozen, batched, with exact frame arithmetic.

Shape letters: S clips (speech spans), F frames, H features per frame, W values per frame as a cache keeps it.

Two properties are promised and tested for every encoder:
- **A clip's features are its own.** They do not depend on the other clips of the batch or on their lengths (beyond
  rounding), because a span is batched with other neighbours at every epoch, and with none in a measurement.
- **One call of every submodule per forward**, whatever the lengths: under a sharded engine all ranks stay in step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from salad_ds.errors import DataError
from salad_ds.files import digest_of
from salad_ds.hearing import Hearing

if TYPE_CHECKING:
    from salad_ds.data.collate import MicroBatch

ARITHMETIC = 1
"""Part of every encoder's identity: raised when what an encoder computes changes, so that older caches are refused."""


class SpeechEncoder(nn.Module):
    """A frozen encoder: waveform → features. It is always in eval mode, never trained, and keeps no graph.

    ``hearing``: its frame arithmetic. ``hidden_size``: H. ``causal``: whether frame ``f`` depends only on audio before
    its end. ``codebooks``, ``code_bits``: of an encoder whose features are rebuilt from codes (what a cache then keeps:
    W = codebooks, each below 2 ** code_bits); 0 where the features are what the network puts out (W = H).
    """

    hearing: Hearing
    hidden_size: int
    causal: bool
    codebooks: int = 0
    code_bits: int = 0

    @property
    def sample_rate(self) -> int:
        """Hz of the audio it takes."""
        return self.hearing.sample_rate

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.hearing.frame_rate

    @property
    def max_samples(self) -> int | None:
        """Longest clip it hears, None for no limit."""
        return self.hearing.max_samples

    def num_frames(self, num_samples: int) -> int:
        """Frames that ``num_samples`` samples become: exact, and pure arithmetic. DataError beyond ``max_samples``."""
        return self.hearing.frames(num_samples)

    def encode(self, audio: Tensor, lengths: list[int], counts: list[int]) -> Tensor:
        """``audio`` [S, samples] fp32, zero beyond each clip's length → [S, at least max(counts), H]."""
        raise NotImplementedError

    @torch.no_grad()
    def continued(self, audio: Tensor, past: Any) -> tuple[Tensor, Any]:
        """Features [1, F, H] of whole frames ``audio`` [1, F · samples per frame] that follow those that ``past``
        stands for (None: the clip begins), and the past of the next ones. Causal encoders only."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """All that ``encoder_from_dict`` needs to build this architecture again, as JSON-able values."""
        raise NotImplementedError

    def identity(self) -> str:
        """A readable and unmistakable name, from the bytes of the weights: two encoders that could give different
        features never share it. Reads every weight (a second per 500 MB or so)."""
        described = {key: value for key, value in self.to_dict().items() if key != "name"}
        weights = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            weights.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            weights.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        digest = digest_of([ARITHMETIC, described, weights.hexdigest()])
        return f"{described['kind']}-{self.hidden_size}-{digest[:12]}"

    def freeze(self) -> SpeechEncoder:
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> SpeechEncoder:
        """Stays in eval mode: ``model.train()`` on a model that contains a frozen encoder must not wake its dropout."""
        return super().train(False)

    def forward(self, audio: Tensor, lengths: Tensor | Sequence[int]) -> Tensor:
        """Features [S, F, H] of clips, as ``frames`` takes them; frames past a clip's own are zeros. They have the
        dtype of the encoder's weights."""
        return self.restore(self.frames(audio, lengths))

    @torch.no_grad()
    def hear(self, batch: MicroBatch) -> Tensor | None:
        """Features [S, F, H] of the speech spans of a micro-batch, None where it has none.

        From the cached frames, where the batch brings them: then nothing is encoded. Otherwise each clip is encoded,
        and where spans are slices of a recording, or of words, each takes its frames.
        """
        if batch.features is not None:
            return self.restore(batch.features)
        if not len(batch.audio):
            return None
        features = self(batch.audio, batch.audio_lengths)
        if batch.slices is None or batch.clips is None:
            return features
        taken = features[batch.clips if batch.clips.dim() > 1 else batch.clips[:, None], batch.slices.clamp(min=0)]
        return taken.masked_fill((batch.slices < 0)[..., None], 0.0)

    def restore(self, frames: Tensor) -> Tensor:
        """Features [S, F, H] from [S, F, W] frames as a cache keeps them; padding (zeros, or codes of -1) becomes
        zeros."""
        return frames.float() if frames.dtype == torch.float16 else frames

    @torch.no_grad()
    def frames(self, audio: Tensor, lengths: Tensor | Sequence[int]) -> Tensor:
        """What a cache keeps of clips. ``audio`` [S, samples] fp32 in [-1, 1] at ``sample_rate``, ``lengths`` [S]
        samples of each clip → [S, F, W].

        F is the largest ``num_frames`` of the batch; frames past a clip's own are zeros. What ``audio`` holds beyond a
        clip's length is ignored. Keep ``lengths`` on the CPU: reading it from a GPU waits for the GPU. Raises DataError
        for lengths that do not fit the audio, or beyond ``max_samples``.
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
