"""From seconds of sound to samples, to frames of a speech encoder, to positions of the LLM: numbers only.

Planning needs to know how many positions a span fills long before any sound is decoded, in processes that hold no
model. All of it is exact integer arithmetic; the encoders promise to keep to it (model/encoder_base.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from salad_ds.errors import DataError


@dataclass(frozen=True)
class Hearing:
    """``sample_rate``: Hz of the audio an encoder takes. ``convolutions``: (kernel, stride) of the steps from samples
    to frames, none of them padded; (1, s) alone is ceil(samples / s) frames. ``max_samples``: longest clip it hears,
    None for no limit. ``stack``: neighbouring frames that the adapter makes one position of."""

    sample_rate: int
    convolutions: tuple[tuple[int, int], ...]
    max_samples: int | None = None
    stack: int = 1

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / math.prod(stride for _, stride in self.convolutions)

    @property
    def shortest(self) -> int:
        """Fewest samples that make a frame."""
        samples = 1
        for kernel, stride in reversed(self.convolutions):
            samples = (samples - 1) * stride + kernel
        return samples

    def samples(self, start: float, end: float) -> int:
        """Samples that the seconds ``[start, end)`` become."""
        return max(round((end - start) * self.sample_rate), 0)

    def frames(self, samples: int) -> int:
        """Frames of a clip of ``samples`` samples. Raises DataError for a clip beyond ``max_samples``."""
        if self.max_samples is not None and samples > self.max_samples:
            raise DataError(
                f"a clip of {samples} samples ({samples / self.sample_rate:.1f} s) is longer than the "
                f"{self.max_samples} ({self.max_samples / self.sample_rate:g} s) this encoder hears",
                "lower data.speech_words or align.max_seconds, or take an encoder without a limit (mimi)",
            )
        for kernel, stride in self.convolutions:
            samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
        return samples

    def positions(self, frames: int) -> int:
        """LLM positions that ``frames`` frames fill."""
        return -(-frames // self.stack)

    def slice(self, start: float, end: float, frames: int) -> tuple[int, int]:
        """``(first, last)`` (exclusive) of the ``frames`` frames of a recording that its seconds ``[start, end)`` take.

        Those whose middle, (f + ½) / frame_rate, lies in the span. A bound is rounded by itself alone, so spans that
        touch share no frame and leave none out between them.
        """
        first, last = (min(max(math.ceil(time * self.frame_rate - 0.5), 0), frames) for time in (start, end))
        return first, max(first, last)
