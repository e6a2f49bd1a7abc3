"""How fast a stage runs: positions and targets per second, seconds of speech heard per second, and the model FLOPs
utilisation (MFU), from what each step saw and how long it took.

``mfu`` is what is trained (model/flops.py), divided by what the devices of all ranks could do in the same time at the
precision of the step. A CPU's peak is measured when the stage begins (a matrix product on the threads of one rank); a
GPU's is that of its data sheet, and one that is not known has no MFU, only ``tflops``. The frozen encoder's forward is
counted apart, in ``encoder_tflops``: torch counts its operations in the stage's first micro-batch with sound, and they
are taken to grow with the seconds heard. (The plan's MFU has it in, and a live teacher's: plan/speed.py.)
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from salad_ds.data.collate import MicroBatch
from salad_ds.model.encoder import SpeechEncoder
from salad_ds.model.flops import measured_peak, shape_of
from salad_ds.plan.hardware import gpus

SEEN = ("speech_positions", "attention_pairs", "audio_seconds")
"""What the ranks sum up for it, beside positions and targets."""


class Speed:
    """``hear`` and ``seen`` for every micro-batch of a rank; ``per_second`` for a step, of all ranks' sums."""

    def __init__(self, engine: Any, ranks: int, device: torch.device) -> None:
        self.ranks, self.shape = ranks, shape_of(engine.module)
        self.peak = peak(engine, device)
        self.per_audio_second = 0.0
        """FLOPs of the encoder; 0 until it has heard something, and where frames come from a cache."""

    def hear(self, encoder: SpeechEncoder, batch: MicroBatch) -> Tensor | None:
        """``encoder.hear``; its operations are counted the first time that there is sound."""
        seconds = heard(batch, encoder.sample_rate)
        if self.per_audio_second or seconds == 0:
            return encoder.hear(batch)
        with FlopCounterMode(display=False) as counter:
            features = encoder.hear(batch)
        self.per_audio_second = counter.get_total_flops() / seconds
        return features

    @staticmethod
    def seen(batch: MicroBatch, sample_rate: int) -> list[float]:
        """SEEN of a micro-batch."""
        return [float(len(batch.speech_positions)), float(batch.pairs), heard(batch, sample_rate)]

    def per_second(self, step: dict[str, float], seconds: float) -> dict[str, float]:
        """What a step with these sums tells about speed, given how long it took. TFLOP/s are those of one device."""
        numbers = {
            "positions_per_second": step["positions"] / seconds,
            "targets_per_second": step["targets"] / seconds,
            "audio_per_second": step["audio_seconds"] / seconds,
        }
        if self.shape is not None:
            counts = (step[name] for name in ("positions", "targets", "speech_positions", "attention_pairs"))
            flops = self.shape.training(*counts)
            numbers["tflops"] = flops / seconds / self.ranks / 1e12
            if self.peak:
                numbers["mfu"] = numbers["tflops"] * 1e12 / self.peak
        if self.per_audio_second:
            numbers["encoder_tflops"] = self.per_audio_second * step["audio_seconds"] / seconds / self.ranks / 1e12
        return numbers


def heard(batch: MicroBatch, sample_rate: int) -> float:
    """Seconds of sound that the encoder gets."""
    return float(batch.audio_lengths.sum()) / sample_rate


def peak(engine: Any, device: torch.device) -> float:
    """FLOP/s of one device at the precision of the engine; 0.0 where it is not known."""
    if device.type == "cpu":
        return measured_peak()
    if not (engine.bfloat16_enabled() or engine.fp16_enabled()):
        return 0.0
    return published_peak(torch.cuda.get_device_name(device))


def published_peak(name: str) -> float:
    """Dense 16-bit FLOP/s of a GPU that calls itself ``name`` ("NVIDIA H100 80GB HBM3"), 0.0 for one that
    plan/gpus.yaml does not have. PCIe cards are slower than the modules of the same name there."""
    plain = letters(name)
    found = [gpu.flops for key, gpu in gpus().items() if letters(key) in plain and "pcie" not in plain]
    return max(found, default=0.0)


def letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
