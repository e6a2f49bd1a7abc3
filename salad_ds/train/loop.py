"""One training stage: stream → encoder → teacher → engine, step by step, resumable at any step.

Lockstep: every rank runs the same number of micro-batches and calls encoder, adapter and LLM once in each; the run is
bounded by steps. The loss of a step is the mean over all text targets of its global batch, whatever rank or micro-batch
they fell into.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from salad_ds.config import Recipe, TrainConfig, plain
from salad_ds.data.collate import MicroBatch
from salad_ds.data.plan import Planner
from salad_ds.data.stream import Stream, StreamState
from salad_ds.errors import RecipeError, SaladError
from salad_ds.files import digest_of, read_json, write_json
from salad_ds.model.build import build_student
from salad_ds.model.salad import SaladForConditionalGeneration, load_student
from salad_ds.progress import Progress
from salad_ds.teacher.stored import Teacher, open_teacher
from salad_ds.train import checkpoint
from salad_ds.train.engine import accumulation, deepspeed_config, start_engine, start_processes
from salad_ds.train.export import export_student
from salad_ds.train.tracking import open_tracker

BOOKKEEPING = {"keep", "checkpoint_every", "log_every", "deepspeed", "ranks", "micro_batch"}
"""Settings of a stage that leave its result as it is: they may change between a stop and a resume."""


def stage_digest(recipe: Recipe, name: str, datasets: list[str]) -> str:
    """What the result of a stage depends on: model, data, teacher, its own settings, and the shards it reads."""
    stage = {key: value for key, value in plain(recipe.stages[name]).items() if key not in BOOKKEEPING}
    data = {key: value for key, value in plain(recipe.data).items() if key not in ("workers", "max_bad_share")}
    return digest_of(
        {
            "model": plain(recipe.model),
            "data": data,
            "teacher": plain(recipe.teacher),
            "stage": stage,
            "datasets": datasets,
        }
    )


def train(recipe: Recipe, name: str) -> Path:
    """Run stage ``name`` of the recipe under whatever launcher started this process; returns the student's directory.

    Continues from the newest complete checkpoint; a finished stage is left alone. Raises SaladError for whatever is
    wrong with the recipe, the shards, the teacher store or the checkpoints.
    """
    if name not in recipe.stages:
        raise RecipeError(f"the recipe has no stage {name!r}", f"its stages are {', '.join(recipe.stages) or 'none'}")
    stage, out = recipe.stages[name], recipe.path(name)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    rank, ranks, device = start_processes()
    say = print if rank == 0 else _silent
    config = deepspeed_config(stage.deepspeed, stage, ranks)
    model, tokenizer = starting_point(recipe, stage, config)
    encoder = model.detach_encoder().to(device)
    planner = Planner(
        stage.sources,
        recipe.path,
        recipe.data,
        tokenizer,
        model.sample_rate,
        lambda samples: model.adapter.positions(encoder.num_frames(samples)),
    )
    digests = [shards.digest for shards in planner.shards]
    digest = stage_digest(recipe, name, digests)
    if already_done(out, digest):
        say(f"{name}: done before, {out / 'model'}")
        return out / "model"
    teacher = open_teacher(recipe, tokenizer, device)
    engine = start_engine(model, stage, config)
    found = checkpoint.newest(out / "checkpoints", digest, say)
    start, state = 0, None
    if found is not None:
        path, mark = found
        checkpoint.load(engine, path, mark)
        start, state = int(mark["step"]), StreamState.from_json(mark["stream"])
        say(f"{name}: continuing after step {start} ({path})")
    stream = Stream(
        planner,
        stage.seed,
        stage.global_batch,
        stage.micro_batch,
        rank,
        ranks,
        pad_id=model.config.start_token_id,
        state=state,
    )
    with open_tracker(recipe, name) as tracker, StepLog(out / "log.jsonl", start, rank == 0) as log:
        tracker.start_stage(plain(stage), config, dict(zip((s.path for s in stage.sources), digests, strict=True)))
        with Progress(name, stage.steps, "step", every=5.0, done=start, quiet=rank != 0) as progress:
            steps, waited = iter(stream), time.perf_counter()
            for step in range(start, stage.steps):
                work = next(steps)
                data_wait = time.perf_counter() - waited
                record = optimizer_step(engine, encoder, teacher, work.batches, stage, ranks, device)
                seconds = time.perf_counter() - waited
                waited = time.perf_counter()
                record = {"step": step + 1, **record, "seconds": seconds, "data_wait": data_wait}
                if not math.isfinite(record["loss"]):
                    raise SaladError(
                        f"the loss of step {step + 1} is {record['loss']}",
                        "lower the learning rates, or look at the data of that step",
                    )
                log.write(record)
                if (step + 1) % stage.log_every == 0 or step + 1 == stage.steps:
                    tracker.metrics({k: v for k, v in record.items() if k != "step"}, step + 1)
                progress.update(1, f"loss {record['loss']:.3f}, kl {record['kl']:.3f}")
                last = step + 1 == stage.steps
                if (step + 1) % stage.checkpoint_every == 0 or last:
                    states = gather_states(work.states, ranks)
                    checkpoint.save(engine, out / "checkpoints", step + 1, digest, states, stage.keep)
        skipped = dict(planner.skipped.counts)
        if skipped:
            say(f"{name}: skipped on rank 0: {skipped}, for example {planner.skipped.examples}")
        export_student(engine, encoder, tokenizer, out / "model")
        if rank == 0:
            write_json(
                out / "done.json",
                {"schema": 1, "stage": name, "digest": digest, "steps": stage.steps, "skipped": skipped},
            )
            say(f"{name}: student in {out / 'model'}")
    dist.barrier()
    dist.destroy_process_group()
    return out / "model"


def already_done(out: Path, digest: str) -> bool:
    mark = out / "done.json"
    return mark.is_file() and (out / "model").is_dir() and read_json(mark)["digest"] == digest


def starting_point(
    recipe: Recipe, stage: TrainConfig, config: dict[str, Any]
) -> tuple[SaladForConditionalGeneration, Any]:
    """A fresh student (its LLM loaded already sharded under ZeRO-3), or the one that ``init_from`` names."""
    if stage.init_from is None:
        return build_student(recipe.model, sharded_loading(config))
    earlier = recipe.path(stage.init_from) / "model"
    return load_student(str(earlier if earlier.is_dir() else stage.init_from))


@contextlib.contextmanager
def sharded_loading(config: dict[str, Any]) -> Iterator[None]:
    """Within it, transformers loads models straight into ZeRO-3 shards."""
    from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

    if config["zero_optimization"].get("stage") != 3:
        yield
        return
    alive = HfDeepSpeedConfig(config)
    try:
        yield
    finally:
        del alive
        unset_hf_deepspeed_config()


def optimizer_step(
    engine: Any,
    encoder: nn.Module,
    teacher: Teacher,
    batches: list[MicroBatch],
    stage: TrainConfig,
    ranks: int,
    device: torch.device,
) -> dict[str, float]:
    """All micro-batches of one optimizer step. Returns the step's means over every rank, nats per text target."""
    count = torch.tensor(float(sum(len(batch.labels) for batch in batches)), device=device)
    dist.all_reduce(count)
    # DeepSpeed averages over ranks and accumulation; the sum over targets must come out divided by their number.
    scale = ranks * accumulation(stage, ranks) / max(count.item(), 1.0)
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    for batch in batches:
        features = None
        targets = teacher.targets(batch.teacher_requests()) if stage.alpha > 0 else None
        batch = batch.to(device)
        if len(batch.audio):
            with torch.no_grad():
                features = encoder(batch.audio, batch.audio_lengths)
        out = engine(
            **batch.model_inputs(),
            features=features,
            targets=None if targets is None else targets.to(device),
            labels=batch.labels,
            alpha=stage.alpha,
        )
        engine.backward(out.loss * scale)
        engine.step()
        sums += (
            torch.stack([out.kl.sum(), out.nll.sum(), out.entropy.sum(), torch.tensor(float(batch.used_positions))])
            .double()
            .to(device)
        )
    dist.all_reduce(sums)
    total = max(count.item(), 1.0)
    kl, nll, entropy = (sums[:3] / total).tolist()
    norm = engine.get_global_grad_norm()
    rates = {group["name"]: group["lr"] for group in engine.optimizer.param_groups}
    return {
        "loss": stage.alpha * kl + (1 - stage.alpha) * nll,
        "kl": kl,
        "nll": nll,
        "entropy": entropy,
        "targets": total,
        "positions": sums[3].item(),
        "lr_adapter": rates["adapter"],
        "lr_llm": rates["llm"],
        "grad_norm": float(norm) if norm is not None else float("nan"),
    }


def gather_states(states: list[Any], ranks: int) -> list[Any]:
    """The lane states of all ranks in lane order, as JSON."""
    mine = StreamState(states).as_json()
    gathered: list[Any] = [None] * ranks
    dist.all_gather_object(gathered, mine)
    return [lane for part in gathered for lane in part]


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
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "w", encoding="utf-8")
            self.file.writelines(line + "\n" for line in kept)
            self.file.flush()
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
