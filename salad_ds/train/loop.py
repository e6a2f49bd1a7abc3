"""One training stage: stream → encoder → teacher → engine, step by step, resumable at any step.

Lockstep: every rank runs the same number of micro-batches and calls encoder, adapter and LLM once in each; the run is
bounded by steps. The loss of a step is the mean over all text targets of its global batch, whatever rank or micro-batch
they fell into.
"""

from __future__ import annotations

import contextlib
import glob
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from salad_ds.config import BOOKKEEPING, LOADING, Recipe, TrainConfig, plain
from salad_ds.data.features import require_features, wanted_format
from salad_ds.data.plan import Planner
from salad_ds.data.shards import ShardSet
from salad_ds.data.stream import StreamState
from salad_ds.environment import end_with_parent
from salad_ds.errors import CheckpointError, RecipeError
from salad_ds.files import digest_of, read_json, sole_writer, write_json
from salad_ds.model.adapter_weights import model_identity
from salad_ds.model.attention import choose, require_support
from salad_ds.model.build import build_student, load_tokenizer, require_recipe, torch_dtype
from salad_ds.model.salad import SaladForConditionalGeneration, load_student
from salad_ds.teacher.identity import teacher_identity
from salad_ds.teacher.ranks import Ranks
from salad_ds.teacher.stored import open_teacher
from salad_ds.train import checkpoint
from salad_ds.train.course import Place, Steps
from salad_ds.train.engine import deepspeed_config, start_engine
from salad_ds.train.export import export_student
from salad_ds.train.frozen import frozen_identity, frozen_parts, require_unchanged
from salad_ds.train.guard import RollBack
from salad_ds.train.probes import Probes
from salad_ds.train.saver import Saver
from salad_ds.train.steps import Stepper
from salad_ds.train.stop import StopRequests
from salad_ds.train.tracking import open_tracker
from salad_ds.train.universal import for_ranks
from salad_ds.train.watchdog import Watchdog
from salad_ds.zero import sharded_loading, start_processes

TEACHING = {"placement", "prefetch", "workers"}
"""Likewise of the teacher."""

PATIENCE = 60.0
"""Seconds that a job waits for one that was killed to let go of its stage."""


def stage_digest(recipe: Recipe, name: str) -> str:
    """What the result of a stage depends on: model, data, teacher, its own settings, and the shards it reads."""
    stage = {key: value for key, value in plain(recipe.stages[name]).items() if key not in BOOKKEEPING}
    data = {key: value for key, value in plain(recipe.data).items() if key not in LOADING}
    shards = [ShardSet.open(recipe.path(source.path)).identity() for source in recipe.stages[name].sources]
    begun = recipe.stages[name].init_from is not None
    if frozen := frozen_parts(recipe.stages[name]):  # before, gradients of theirs counted in what is clipped
        stage["frozen"] = frozen
    return digest_of(
        {
            "model": model_identity(recipe.model, fresh=not begun),
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
    if glob.escape(str(out)) != str(out):
        raise RecipeError(f"{out} has one of the characters *?[ in its name: DeepSpeed would not find the checkpoints "
                          "there again", "name workdir or the stage otherwise")  # fmt: skip
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
        frozen = together.first(lambda: frozen_identity(recipe, name))
        if recipe.data.features == "cache":
            together.first(lambda: require_features(cached_corpora(recipe, stage)))
    with contextlib.ExitStack() as stack:
        alone = [rank != 0 or stack.enter_context(sole_writer(out, PATIENCE))]
        dist.broadcast_object_list(alone, src=0)
        if not alone[0]:
            raise CheckpointError(f"another job is training {name} in {out}", "wait for it, or end it")
        # From here on: a rank that cannot load its model would leave the others waiting as well.
        watchdog = stack.enter_context(Watchdog(stage.silence_seconds, stage.hang_minutes * 60))
        run_stage(recipe, name, config, digest, frozen, device, watchdog)
    dist.barrier()
    dist.destroy_process_group()
    return out / "model"


def cached_corpora(recipe: Recipe, stage: TrainConfig) -> list[Path]:
    """Where the stage's speech lies, with its cached frames beside it."""
    return [recipe.path(source.path) for source in stage.sources if source.kind == "speech"]


def run_stage(recipe: Recipe, name: str, config: dict[str, Any], digest: str, frozen: str, device: torch.device,
              watchdog: Watchdog) -> None:
    """From the newest checkpoint, or the beginning, to the saved student. ``frozen``: see frozen_identity."""
    stage, out = recipe.stages[name], recipe.path(name)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    say = print if rank == 0 else _silent
    damaged: set[str] = set()
    found = checkpoint.newest(out / "checkpoints", digest, say, damaged)
    if found is not None:
        require_unchanged(*found, frozen)
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
    probes = Probes(recipe, stage, model, tokenizer, cached, device) if stage.probe_every else None
    at = Place(0, None)
    before: dict[str, Any] = {}
    if found is not None:
        loaded = for_ranks(found[0], int(found[1]["ranks"]))
    engine = start_engine(model, stage, config)
    if found is not None:
        checkpoint.load(engine, loaded)
        at, before = Place(int(found[1]["step"]), StreamState.from_json(found[1]["stream"])), found[1]["skipped"]
        say(f"{name}: continuing after step {at.step} ({loaded})")
    step_of = Stepper(engine, encoder, teacher, stage, ranks, device)
    rolled_back: list[dict[str, Any]] = []
    if found is not None:
        step_of.guard.restore(found[1]["guard"])
        rolled_back = found[1].get("rolled_back", [])
    saver = Saver(engine, out / "checkpoints", digest, stage.keep, stage.keep_every, stage.async_checkpoints, damaged,
                  frozen)
    with open_tracker(recipe, name) as tracker, StopRequests() as stop:
        shards = {source.path: opened.digest for source, opened in zip(stage.sources, planner.shards, strict=True)}
        tracker.start_stage(plain(stage), config, shards)
        run = Steps(recipe, name, digest, planner, step_of, probes, tracker, stop, watchdog, saver, before, rolled_back)
        while at.step < stage.steps:
            try:
                at = run(at)
            except RollBack as bad:
                at = run.back(bad)
        watchdog.steps_over()
        export_student(engine, encoder, tokenizer, out / "model")
        tracker.model("student", out / "model", stage.steps, digest, planner.a_recording)
    skipped = run.skipped()
    for reason, entry in skipped.items():
        say(f"{name}: {entry['count']} samples skipped: {reason} (for example {', '.join(entry['examples'])})")
    if (guard := step_of.guard).discarded:
        say(f"{name}: {guard.discarded} steps were discarded, the last because {guard.last}")
    if rank == 0:
        done = {"schema": 1, "stage": name, "digest": digest, "steps": stage.steps, "skipped": skipped,
                "discarded": guard.discarded, "rolled_back": run.rolled_back}  # fmt: skip
        write_json(out / "done.json", done)
        say(f"{name}: student in {out / 'model'}")


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


def switch_off_dropout(model: nn.Module) -> None:
    """The teacher has none, and a random mask would make a resumed run another one."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]  # an LLM's own, which torch cannot know


def _silent(*_: object) -> None:
    pass
