"""One training stage: stream → encoder → teacher → engine, step by step, resumable at any step.

Lockstep: every rank runs the same number of micro-batches and calls encoder, adapter and LLM once in each; the run is
bounded by steps. The loss of a step is the mean over all text targets of its global batch, whatever rank or micro-batch
they fell into.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from salad_ds.config import Recipe, TrainConfig, plain
from salad_ds.data.collate import MicroBatch
from salad_ds.data.plan import Planner, Skipped, merged
from salad_ds.data.shards import ShardSet
from salad_ds.data.stream import LaneState, Stream, StreamState
from salad_ds.environment import end_with_parent
from salad_ds.errors import CheckpointError, RecipeError, SaladError
from salad_ds.files import digest_of, read_json, sole_writer, write_json, write_text
from salad_ds.model.build import build_student, load_tokenizer, require_recipe
from salad_ds.model.salad import SaladForConditionalGeneration, load_student
from salad_ds.progress import Progress
from salad_ds.teacher.identity import teacher_identity
from salad_ds.teacher.stored import Teacher, open_teacher
from salad_ds.train import checkpoint
from salad_ds.train.engine import accumulation, deepspeed_config, start_engine, start_processes
from salad_ds.train.export import export_student
from salad_ds.train.tracking import open_tracker

BOOKKEEPING = {"keep", "checkpoint_every", "log_every", "deepspeed", "ranks", "micro_batch"}
"""Settings of a stage that leave its result as it is: they may change between a stop and a resume."""


PATIENCE = 60.0
"""Seconds that a job waits for one that was killed to let go of its stage."""


def stage_digest(recipe: Recipe, name: str) -> str:
    """What the result of a stage depends on: model, data, teacher, its own settings, and the shards it reads."""
    stage = {key: value for key, value in plain(recipe.stages[name]).items() if key not in BOOKKEEPING}
    data = {key: value for key, value in plain(recipe.data).items() if key not in ("workers", "max_bad_share")}
    shards = [ShardSet.open(recipe.path(source.path)).identity() for source in recipe.stages[name].sources]
    return digest_of(
        {
            "model": plain(recipe.model),
            "llm": teacher_identity(recipe.model.llm),
            "data": data,
            "teacher": plain(recipe.teacher),
            "stage": stage,
            "shards": shards,
            "init_from": starting_identity(recipe, recipe.stages[name]),
        }
    )


def starting_identity(recipe: Recipe, stage: TrainConfig) -> str:
    """What the student starts from: an earlier stage is named by its own digest, so that its retraining is noticed."""
    if stage.init_from is None:
        return ""
    mark = recipe.path(stage.init_from) / "done.json"
    return str(read_json(mark)["digest"]) if mark.is_file() else stage.init_from


def train(recipe: Recipe, name: str) -> Path:
    """Run stage ``name`` of the recipe under whatever launcher started this process; returns the student's directory.

    Continues from the newest complete checkpoint; a finished stage is left alone. Raises SaladError for whatever is
    wrong with the recipe, the shards, the teacher store or the checkpoints: all of it before the model is loaded.
    """
    if name not in recipe.stages:
        raise RecipeError(f"the recipe has no stage {name!r}", f"its stages are {', '.join(recipe.stages) or 'none'}")
    stage, out = recipe.stages[name], recipe.path(name)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    end_with_parent()
    rank, ranks, device = start_processes()
    config = deepspeed_config(stage.deepspeed, stage, ranks)
    digest = stage_digest(recipe, name)
    if already_done(out, digest):
        if rank == 0:
            print(f"{name}: done before, {out / 'model'}")
        return out / "model"
    with contextlib.ExitStack() as stack:
        alone = [rank != 0 or stack.enter_context(sole_writer(out, PATIENCE))]
        dist.broadcast_object_list(alone, src=0)
        if not alone[0]:
            raise CheckpointError(f"another job is training {name} in {out}", "wait for it, or end it")
        run_stage(recipe, name, config, digest, device)
    dist.barrier()
    dist.destroy_process_group()
    return out / "model"


def run_stage(recipe: Recipe, name: str, config: dict[str, Any], digest: str, device: torch.device) -> None:
    """From the newest checkpoint, or the beginning, to the saved student."""
    stage, out = recipe.stages[name], recipe.path(name)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    say = print if rank == 0 else _silent
    found = checkpoint.newest(out / "checkpoints", digest, say)
    if rank == 0:
        (out / "done.json").unlink(missing_ok=True)  # of another recipe: what is trained now is not that student
    teacher = open_teacher(recipe, load_tokenizer(recipe.model), device)

    model, tokenizer = starting_point(recipe, stage, config)
    if recipe.model.gradient_checkpointing:
        model.llm.gradient_checkpointing_enable({"use_reentrant": False})
    switch_off_dropout(model)
    encoder = model.detach_encoder().to(device)
    planner = Planner(stage.sources, recipe.path, recipe.data, tokenizer, model.sample_rate,
                      lambda samples: model.adapter.positions(encoder.num_frames(samples)))  # fmt: skip
    engine = start_engine(model, stage, config)
    start, state, before = 0, None, {}
    if found is not None:
        path, mark = found
        checkpoint.load(engine, path, mark)
        start, state = int(mark["step"]), StreamState.from_json(mark["stream"])
        before = mark["skipped"]
        say(f"{name}: continuing after step {start} ({path})")
    stream = Stream(planner, stage.seed, stage.global_batch, stage.micro_batch, rank, ranks,
                    model.config.start_token_id, state)  # fmt: skip
    step_of = Stepper(engine, encoder, teacher, stage, ranks, device)
    with open_tracker(recipe, name) as tracker, StepLog(out / "log.jsonl", start, rank == 0) as log:
        shards = {source.path: opened.digest for source, opened in zip(stage.sources, planner.shards, strict=True)}
        tracker.start_stage(plain(stage), config, shards)
        with Progress(name, stage.steps, "step", every=5.0, done=start, quiet=rank != 0) as progress:
            for step, (record, states) in enumerate(run_steps(step_of, stream, stage.steps - start), start + 1):
                require_finite(record["loss"], step)
                log.write({"step": step, **record})
                if step % stage.log_every == 0 or step == stage.steps:
                    tracker.metrics(record, step)
                progress.update(1, f"loss {record['loss']:.3f}, kl {record['kl']:.3f}")
                if step % stage.checkpoint_every == 0 or step == stage.steps:
                    skipped = gather_skipped(planner.skipped, ranks, before)
                    whole = {"stream": gather_states(states, ranks), "skipped": skipped}
                    checkpoint.save(engine, out / "checkpoints", step, digest, whole, stage.keep)
        export_student(engine, encoder, tokenizer, out / "model")
    skipped = gather_skipped(planner.skipped, ranks, before)
    for reason, entry in skipped.items():
        say(f"{name}: {entry['count']} samples skipped: {reason} (for example {', '.join(entry['examples'])})")
    if rank == 0:
        done = {"schema": 1, "stage": name, "digest": digest, "steps": stage.steps, "skipped": skipped}
        write_json(out / "done.json", done)
        say(f"{name}: student in {out / 'model'}")


def run_steps(step_of: Stepper, stream: Stream, count: int) -> Iterator[tuple[dict[str, float], list[LaneState]]]:
    """``count`` optimizer steps: what each measured, its seconds and its wait for data; and the stream after it."""
    began = time.perf_counter()
    for work in itertools.islice(stream, count):
        waited = time.perf_counter() - began
        record = step_of(work.batches)
        yield record | {"seconds": time.perf_counter() - began, "data_wait": waited}, work.states
        began = time.perf_counter()


def require_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise SaladError(f"the loss of step {step} is {loss}", "lower the learning rates, or look at that step's data")


def already_done(out: Path, digest: str) -> bool:
    mark = out / "done.json"
    return mark.is_file() and (out / "model").is_dir() and read_json(mark)["digest"] == digest


def starting_point(
    recipe: Recipe, stage: TrainConfig, config: dict[str, Any]
) -> tuple[SaladForConditionalGeneration, Any]:
    """A fresh student (its LLM loaded already sharded under ZeRO-3), or the one that ``init_from`` names."""
    if stage.init_from is None:
        return build_student(recipe.model, sharded_loading(config))
    earlier = recipe.path(stage.init_from) / "model" if stage.init_from in recipe.stages else Path(stage.init_from)
    if not earlier.is_dir():
        raise CheckpointError(f"there is no student in {earlier} to start from", "train the stage it comes from")
    model, tokenizer = load_student(str(earlier))
    require_recipe(model, tokenizer, recipe.model)
    model.llm.set_attn_implementation(recipe.model.attention)
    return model, tokenizer


@contextlib.contextmanager
def sharded_loading(config: dict[str, Any]) -> Iterator[None]:
    """Within it, transformers loads models straight into ZeRO-3 shards."""
    from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

    if config.get("zero_optimization", {}).get("stage") != 3:
        yield
        return
    alive = HfDeepSpeedConfig(config)
    try:
        yield
    finally:
        del alive
        unset_hf_deepspeed_config()


@dataclass
class Stepper:
    """One optimizer step of one rank. Every rank calls it equally often, with equally many micro-batches."""

    engine: Any
    encoder: nn.Module
    teacher: Teacher
    stage: TrainConfig
    ranks: int
    device: torch.device

    def __call__(self, batches: list[MicroBatch]) -> dict[str, float]:
        """Forward, backward and update. Returns means over the text targets of every rank, in nats, and what else a
        step has to tell."""
        count = torch.tensor(float(sum(len(batch.labels) for batch in batches)), device=self.device)
        dist.all_reduce(count)
        targets = max(count.item(), 1.0)
        # DeepSpeed averages over ranks and accumulation; the sum over targets must come out divided by their number.
        scale = self.ranks * accumulation(self.stage, self.ranks) / targets
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        for batch in batches:
            sums += self.micro_batch(batch, scale)
        dist.all_reduce(sums)
        kl, nll, entropy = (sums[:3] / targets).tolist()
        norm = self.engine.get_global_grad_norm()
        rates = {f"lr_{group['name']}": group["lr"] for group in self.engine.optimizer.param_groups}
        return {
            "loss": self.stage.alpha * kl + (1 - self.stage.alpha) * nll,
            "kl": kl,
            "nll": nll,
            "entropy": entropy,
            "targets": targets,
            "positions": sums[3].item(),
            "grad_norm": float(norm) if norm is not None else float("nan"),
            **rates,
        }

    def micro_batch(self, batch: MicroBatch, scale: float) -> Tensor:
        """Encoder, teacher, model and backward, once each. Returns sums of KL, NLL, entropy and used positions."""
        wanted = self.teacher.targets(batch.teacher_requests()) if self.stage.alpha > 0 else None
        lengths = batch.audio_lengths  # the encoder wants them on the CPU
        batch = batch.to(self.device)
        features = self.encoder(batch.audio, lengths) if len(batch.audio) else None
        out = self.engine(
            **batch.model_inputs(),
            features=features,
            targets=None if wanted is None else wanted.to(self.device),
            labels=batch.labels,
            alpha=self.stage.alpha,
        )
        self.engine.backward(out.loss * scale)
        self.engine.step()
        used = torch.tensor(float(batch.used_positions), device=self.device)
        return torch.stack([out.kl.sum().double(), out.nll.sum().double(), out.entropy.sum().double(), used.double()])


def gather_states(states: list[Any], ranks: int) -> list[Any]:
    """The lane states of all ranks in lane order, as JSON."""
    mine = StreamState(states).as_json()
    gathered: list[Any] = [None] * ranks
    dist.all_gather_object(gathered, mine)
    return [lane for part in gathered for lane in part]


def gather_skipped(skipped: Skipped, ranks: int, before: dict[str, Any]) -> dict[str, Any]:
    """What every rank skipped, and what was skipped ``before`` a resume, together: {reason: {"count", "examples"}}."""
    gathered: list[Any] = [None] * ranks
    dist.all_gather_object(gathered, skipped.table())
    return merged([before, *gathered])


def switch_off_dropout(model: nn.Module) -> None:
    """The teacher has none, and a random mask would make a resumed run another one."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


class StepLog:
    """``log.jsonl``: one line per step. Steps after ``start`` are dropped on opening: they will be run again."""

    def __init__(self, path: Path, start: int, active: bool) -> None:
        self.path, self.start, self.active = path, start, active

    def __enter__(self) -> StepLog:
        if self.active:
            kept = []
            if self.path.is_file():
                for line in self.path.read_text().splitlines():
                    with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed run may be cut
                        if json.loads(line)["step"] <= self.start:
                            kept.append(line)
            write_text(self.path, "".join(line + "\n" for line in kept))
            self.file = open(self.path, "a", encoding="utf-8")
        return self

    def write(self, record: dict[str, float]) -> None:
        if self.active:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()

    def __exit__(self, *_: object) -> None:
        if self.active:
            self.file.close()


def _silent(*_: object) -> None:
    pass
