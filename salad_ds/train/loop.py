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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from salad_ds.config import Recipe, TrainConfig, plain
from salad_ds.data.features import require_features, wanted_format
from salad_ds.data.plan import Planner, Skipped, merged
from salad_ds.data.shards import ShardSet
from salad_ds.data.stream import LaneState, Stream, StreamState
from salad_ds.environment import end_with_parent
from salad_ds.errors import CheckpointError, RecipeError, SaladError
from salad_ds.files import digest_of, read_json, sole_writer, write_json, write_text
from salad_ds.model.attention import choose, require_support
from salad_ds.model.build import build_student, load_tokenizer, require_recipe, torch_dtype
from salad_ds.model.encoder import SpeechEncoder
from salad_ds.model.salad import SaladForConditionalGeneration, load_student
from salad_ds.progress import Progress
from salad_ds.teacher.identity import teacher_identity
from salad_ds.teacher.ranks import Ranks
from salad_ds.teacher.stored import Teacher, open_teacher
from salad_ds.train import checkpoint
from salad_ds.train.engine import accumulation, deepspeed_config, start_engine
from salad_ds.train.export import export_student
from salad_ds.train.feed import Fed, Feed, Stopwatch, Work
from salad_ds.train.lockstep import in_step
from salad_ds.train.tracking import open_tracker
from salad_ds.zero import sharded_loading, start_processes

BOOKKEEPING = {"keep", "checkpoint_every", "log_every", "deepspeed", "ranks", "micro_batch"}
"""Settings of a stage that leave its result as it is: they may change between a stop and a resume."""

TEACHING = {"placement", "prefetch", "workers"}
"""Likewise of the teacher."""

PATIENCE = 60.0
"""Seconds that a job waits for one that was killed to let go of its stage."""


def stage_digest(recipe: Recipe, name: str) -> str:
    """What the result of a stage depends on: model, data, teacher, its own settings, and the shards it reads."""
    stage = {key: value for key, value in plain(recipe.stages[name]).items() if key not in BOOKKEEPING}
    loading = ("workers", "prefetch", "max_bad_share")
    data = {key: value for key, value in plain(recipe.data).items() if key not in loading}
    shards = [ShardSet.open(recipe.path(source.path)).identity() for source in recipe.stages[name].sources]
    return digest_of(
        {
            "model": plain(recipe.model),
            "llm": teacher_identity(recipe.model.llm),
            "data": data,
            "teacher": {key: value for key, value in plain(recipe.teacher).items() if key not in TEACHING},
            "said_by": teacher_identity(recipe.teacher.llm) if recipe.teacher.llm and stage["alpha"] else "",
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
    # The first rank alone reads every sidecar's head: at a hundred ranks the file system would hear of it.
    with Ranks() as together:
        digest = together.first(lambda: stage_digest(recipe, name))
        if already_done(out, digest):
            if rank == 0:
                print(f"{name}: done before, {out / 'model'}")
            return out / "model"
        if recipe.data.features == "cache":
            together.first(lambda: require_features(cached_corpora(recipe, stage)))
    with contextlib.ExitStack() as stack:
        alone = [rank != 0 or stack.enter_context(sole_writer(out, PATIENCE))]
        dist.broadcast_object_list(alone, src=0)
        if not alone[0]:
            raise CheckpointError(f"another job is training {name} in {out}", "wait for it, or end it")
        run_stage(recipe, name, config, digest, device)
    dist.barrier()
    dist.destroy_process_group()
    return out / "model"


def cached_corpora(recipe: Recipe, stage: TrainConfig) -> list[Path]:
    """Where the stage's speech lies, with its cached frames beside it."""
    return [recipe.path(source.path) for source in stage.sources if source.kind == "speech"]


def run_stage(recipe: Recipe, name: str, config: dict[str, Any], digest: str, device: torch.device) -> None:
    """From the newest checkpoint, or the beginning, to the saved student."""
    stage, out = recipe.stages[name], recipe.path(name)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    say = print if rank == 0 else _silent
    found = checkpoint.newest(out / "checkpoints", digest, say)
    if rank == 0:
        (out / "done.json").unlink(missing_ok=True)  # of another recipe: what is trained now is not that student
    teacher = open_teacher(recipe, load_tokenizer(recipe.model), device) if stage.alpha > 0 else None

    model, tokenizer = starting_point(recipe, stage, config)
    if recipe.model.gradient_checkpointing:
        model.llm.gradient_checkpointing_enable({"use_reentrant": False})
    switch_off_dropout(model)
    encoder = model.detach_encoder()
    cached = wanted_format(encoder, recipe.data)
    if cached is not None and rank == 0:
        require_features(cached_corpora(recipe, stage), cached)
    planner = Planner(stage.sources, recipe.path, recipe.data, tokenizer, model.hearing, cached)
    if cached is None or encoder.codebooks:  # else it has nothing to do: it waits on the CPU to be exported
        encoder.to(device)
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
    feed = Feed(stream, teacher, device, recipe.teacher.prefetch, recipe.teacher.workers, stage.steps - start)
    step_of = Stepper(engine, encoder, teacher, stage, ranks, device)
    with open_tracker(recipe, name) as tracker, StepLog(out / "log.jsonl", start, rank == 0) as log:
        shards = {source.path: opened.digest for source, opened in zip(stage.sources, planner.shards, strict=True)}
        tracker.start_stage(plain(stage), config, shards)
        with Progress(name, stage.steps, "step", every=5.0, done=start, quiet=rank != 0) as progress:
            for step, (record, states) in enumerate(run_steps(step_of, feed, planner.skipped), start + 1):
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


def run_steps(step_of: Stepper, feed: Feed, skipped: Skipped) -> Iterator[tuple[dict[str, float], list[LaneState]]]:
    """The optimizer steps of ``feed``: what each measured, its seconds and for how many of them it waited; and the
    stream after it."""
    with contextlib.closing(iter(feed)) as steps:
        began = time.perf_counter()
        for work in in_step(steps, skipped, step_of.device):
            record = step_of(work)
            yield record | {"seconds": time.perf_counter() - began}, work.states
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
    model.llm.set_attn_implementation(choose(recipe.model.attention, torch_dtype(recipe.model.dtype)))
    require_support(model.llm)
    return model, tokenizer


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
        self.asking = Stopwatch(self.device)

    def __call__(self, work: Work) -> dict[str, float]:
        """Forward, backward and update. Returns means over the text targets of every rank, in nats, and what else a
        step has to tell; ``data_wait`` and ``teacher_wait`` are seconds of this rank, the latter with those of a live
        teacher's work."""
        count = torch.tensor(float(work.labels), device=self.device)
        dist.all_reduce(count)
        targets = max(count.item(), 1.0)
        # DeepSpeed averages over ranks and accumulation; the sum over targets must come out divided by their number.
        scale = self.ranks * accumulation(self.stage, self.ranks) / targets
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        for fed in work.batches:
            sums += self.micro_batch(fed, scale)
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
            "padding": 1 - sums[3].item() / (self.stage.global_batch * fed.batch.input_ids.shape[1]),
            "grad_norm": float(norm) if norm is not None else float("nan"),
            "data_wait": work.data_wait,
            "teacher_wait": work.teacher_wait + self.asking.read(),
            **rates,
        }

    def micro_batch(self, fed: Fed, scale: float) -> Tensor:
        """Encoder, live teacher, model and backward, once each. Returns sums of KL, NLL, entropy and used positions."""
        batch, targets = fed.batch, fed.targets
        if self.teacher is not None and targets is None:
            with self.asking:
                targets = self.teacher.targets(fed.requests).to(self.device)
        features = self.encoder.hear(batch)
        out = self.engine(
            **batch.model_inputs(),
            features=features,
            targets=targets,
            labels=batch.labels,
            alpha=self.stage.alpha,
            temperature=self.stage.temperature,
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
