"""The optimizer steps of a stage: what a rank does in each, and the log of what they told."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from salad_ds.config import TrainConfig
from salad_ds.data.lanes import LaneState
from salad_ds.data.plan import Skipped
from salad_ds.files import write_text
from salad_ds.model.encoder import SpeechEncoder
from salad_ds.teacher.stored import Teacher
from salad_ds.train.engine import accumulation
from salad_ds.train.feed import Fed, Feed, Stopwatch, Work
from salad_ds.train.guard import Guard
from salad_ds.train.lockstep import in_step
from salad_ds.train.norms import PartNorms
from salad_ds.train.speed import SEEN as SEEN_BY_SPEED
from salad_ds.train.speed import Speed
from salad_ds.train.stop import StopRequests

SEEN = ("targets", "positions")
"""What a step says of the data that it trained on."""


def run_steps(step_of: Stepper, feed: Feed, skipped: Skipped, stop: StopRequests, require: Callable[[], None],
              ) -> Iterator[tuple[dict[str, float], list[LaneState]]]:
    """The optimizer steps of ``feed``: what each measured, its seconds and for how many of them it waited; and the
    stream after it. What ``require`` raises before a step ends the stage as a fault of the data does."""
    with contextlib.closing(iter(feed)) as steps:
        began = time.perf_counter()
        for work in in_step(steps, skipped, step_of.device, stop, require):
            record = step_of(work)
            seconds = time.perf_counter() - began
            yield record | {"seconds": seconds} | step_of.speed.per_second(record, seconds), work.states
            began = time.perf_counter()


@dataclass
class Stepper:
    """One optimizer step of one rank. Every rank calls it equally often, with equally many micro-batches."""

    engine: Any
    encoder: SpeechEncoder
    teacher: Teacher | None
    stage: TrainConfig
    ranks: int
    device: torch.device

    def __post_init__(self) -> None:
        self.guard = Guard(self.stage.spike, self.stage.bad_steps)
        self.asking = Stopwatch(self.device)
        self.norms, self.speed = PartNorms(self.engine), Speed(self.engine, self.ranks, self.device)

    def __call__(self, work: Work) -> dict[str, float]:
        """Forward, backward and update. Returns means over the text targets of every rank, in nats, and what else a
        step has to tell; ``data_wait`` and ``teacher_wait`` are seconds of this rank, the latter with those of a live
        teacher's work."""
        count = torch.tensor(float(work.labels), device=self.device)
        dist.all_reduce(count)
        targets = max(count.item(), 1.0)
        # DeepSpeed averages over ranks and accumulation; the sum over targets must come out divided by their number.
        scale = self.ranks * accumulation(self.stage, self.ranks) / targets
        sums = torch.zeros(4 + len(SEEN_BY_SPEED), dtype=torch.float64, device=self.device)
        whole = accumulation(self.stage, self.ranks)
        for number, fed in enumerate(work.batches, 1):
            loss, told = self.forward(fed)
            sums += told
            if number < whole:
                self.update(loss * scale)
        dist.all_reduce(sums)
        kl, nll, entropy = (sums[:3] / targets).tolist()
        mean = self.stage.alpha * kl + (1 - self.stage.alpha) * nll
        # A gradient that is not a number is what makes DeepSpeed discard the step, on all ranks alike.
        takes = self.guard.takes(mean)
        self.update(loss * (scale if takes else float("nan")), last=True)
        taken = self.guard.saw(self.engine.was_step_applied())
        if not taken:
            self.engine.lr_scheduler.step()  # DeepSpeed leaves it where it is, see guard.py
        width = fed.batch.input_ids.shape[1]
        norm = self.engine.get_global_grad_norm()
        rates = {f"lr_{group['name']}": group["lr"] for group in self.engine.optimizer.param_groups}
        return {
            "loss": mean,
            "kl": kl,
            "nll": nll,
            "entropy": entropy,
            "targets": targets,
            "positions": sums[3].item(),
            "padding": 1 - sums[3].item() / (self.stage.global_batch * width),
            "grad_norm": float(norm) if norm is not None and taken else float("nan"),
            **(self.norms.read() if taken else {}),
            "loss_scale": float(getattr(self.engine.optimizer, "loss_scale", 1.0)),
            **dict(zip(SEEN_BY_SPEED, sums[4:].tolist(), strict=True)),
            "discarded": float(not taken),
            "data_wait": work.data_wait,
            "teacher_wait": work.teacher_wait + self.asking.read(),
            **rates,
        }

    def forward(self, fed: Fed) -> tuple[Tensor, Tensor]:
        """Encoder, live teacher and model, once each. Returns the loss, and sums: KL, NLL, entropy, positions, and what
        ``speed`` wants."""
        batch, targets = fed.batch, fed.targets
        if self.teacher is not None and targets is None:
            with self.asking:
                targets = self.teacher.targets(fed.requests).to(self.device)
        features = self.speed.hear(self.encoder, batch)
        out = self.engine(
            **batch.model_inputs(),
            features=features,
            targets=targets,
            labels=batch.labels,
            alpha=self.stage.alpha,
            temperature=self.stage.temperature,
        )
        counts = [batch.used_positions, *self.speed.seen(batch, self.encoder.sample_rate)]
        told = torch.stack([out.kl.sum(), out.nll.sum(), out.entropy.sum()]).double().detach()
        return out.loss, torch.cat([told, torch.tensor(counts, dtype=torch.float64, device=self.device)])

    def update(self, loss: Tensor, last: bool = False) -> None:
        """Backward; and, behind the ``last`` micro-batch of a step, the optimizer."""
        self.engine.backward(loss)
        if last:
            self.norms.take()
        self.engine.step()


class StepLog:
    """``log.jsonl``, ``probes.jsonl``: a line per step. Those after ``start`` go on opening: they come again."""

    def __init__(self, path: Path, start: int, active: bool) -> None:
        self.path, self.start, self.active = path, start, active
        self.seen = {f"{name}_seen": 0.0 for name in SEEN}
        """What the steps in the log that were not discarded have trained on, in all."""

    def __enter__(self) -> StepLog:
        if self.active:
            kept = []
            if self.path.is_file():
                for line in self.path.read_text().splitlines():
                    with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed run may be cut
                        if (record := json.loads(line))["step"] <= self.start:
                            kept.append(line)
                            self.count(record)
            write_text(self.path, "".join(line + "\n" for line in kept))
            self.file = open(self.path, "a", encoding="utf-8")
        return self

    def write(self, record: dict[str, float]) -> None:
        if self.active:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
            self.count(record)

    def count(self, record: dict[str, float]) -> None:
        if not record.get("discarded"):
            self.seen = {f"{name}_seen": self.seen[f"{name}_seen"] + record.get(name, 0.0) for name in SEEN}

    def __exit__(self, *_: object) -> None:
        if self.active:
            self.file.close()
