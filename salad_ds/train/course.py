"""From a place in a stage to its end: steps, and what happens beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from salad_ds.config import Recipe
from salad_ds.data.lanes import LaneState
from salad_ds.data.plan import Planner, Skipped, merged
from salad_ds.data.stream import Stream, StreamState
from salad_ds.errors import SaladError, Stopped
from salad_ds.progress import Progress
from salad_ds.train import checkpoint
from salad_ds.train.feed import Feed
from salad_ds.train.guard import MOST_ROLLBACKS, RollBack
from salad_ds.train.probes import Probes
from salad_ds.train.steps import StepLog, Stepper, run_steps
from salad_ds.train.stop import StopRequests
from salad_ds.train.together import gathered
from salad_ds.train.tracking import Tracker
from salad_ds.train.universal import for_ranks
from salad_ds.train.watchdog import Watchdog


@dataclass(frozen=True)
class Place:
    """Between two steps: how many were taken, and the stream behind them (None: its beginning)."""

    step: int
    state: StreamState | None


@dataclass
class Steps:
    """The steps of a stage from a place to its end, with what happens beside them: log, probes, checkpoints, stops."""

    recipe: Recipe
    name: str
    digest: str
    planner: Planner
    step_of: Stepper
    probes: Probes | None
    tracker: Tracker
    stop: StopRequests
    watchdog: Watchdog
    before: dict[str, Any]
    """What was skipped before a resume."""

    def __post_init__(self) -> None:
        self.stage, self.out = self.recipe.stages[self.name], self.recipe.path(self.name)
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.rollbacks = 0
        self.states: list[LaneState] = []
        """Of the stream behind the newest step, on this rank."""

    def __call__(self, at: Place) -> Place:
        """Raises Stopped behind a checkpoint when the job was told to stop, RollBack after too many bad steps."""
        stage, step, saved = self.stage, at.step, at.step
        config = self.step_of.engine.module.config
        stream = Stream(self.planner, stage.seed, stage.global_batch, stage.micro_batch, self.rank, self.ranks,
                        config.start_token_id, at.state)  # fmt: skip
        teaching = self.recipe.teacher
        feed = Feed(stream, self.step_of.teacher, self.step_of.device, teaching.prefetch, teaching.workers,
                    stage.steps - step)  # fmt: skip
        log = StepLog(self.out / "log.jsonl", step, self.rank == 0)
        curve = self.out / "probes.jsonl"
        probed = StepLog(curve, step if at.state is not None else -1,
                         self.rank == 0 and (self.probes is not None or curve.is_file()))  # fmt: skip
        progress = Progress(self.name, stage.steps, "step", every=5.0, done=step, quiet=self.rank != 0)
        with log, probed, progress:
            if at.state is None:
                self.probe(0, probed, log.seen)
            for record, states in run_steps(self.step_of, feed, self.planner.skipped, self.stop):
                step, self.states = step + 1, states
                self.watchdog.step_ended()
                log.write({"step": step, **record})
                if step % stage.log_every == 0 or step == stage.steps:
                    self.tracker.metrics(record | log.seen, step)
                progress.update(1, f"loss {record['loss']:.3f}, kl {record['kl']:.3f}")
                self.step_of.guard.require_progress()
                self.probe(step, probed, log.seen)
                due = step % stage.checkpoint_every == 0 and not self.step_of.guard.in_a_row
                if due or step == stage.steps:
                    self.save(step)
                    saved = step
        if self.stop.agreed and step < stage.steps:
            if saved < step:
                self.save(step)
            raise Stopped(f"{self.name} was told to stop, after step {step} of {stage.steps}",
                          "the same command goes on from there")
        return Place(step, None)

    def probe(self, step: int, probed: StepLog, seen: dict[str, float]) -> None:
        if self.probes is not None and (step % self.stage.probe_every == 0 or step == self.stage.steps):
            numbers = self.probes(self.step_of.engine, self.step_of.encoder) | seen
            probed.write({"step": step, **numbers})
            self.tracker.metrics({f"probe_{key}": value for key, value in numbers.items()}, step)

    def save(self, step: int) -> None:
        whole = {"stream": gather_states(self.states), "skipped": self.skipped(),
                 "guard": self.step_of.guard.state()}  # fmt: skip
        stage = self.stage
        checkpoint.save(self.step_of.engine, self.out / "checkpoints", step, self.digest, whole, stage.keep,
                        stage.keep_every)  # fmt: skip
        self.watchdog.step_ended()

    def skipped(self) -> dict[str, Any]:
        return gather_skipped(self.planner.skipped, self.before)

    def back(self, bad: RollBack) -> Place:
        """The weights of the newest checkpoint, and the data behind the bad steps. Raises SaladError where that has not
        helped, or there is no checkpoint."""
        self.rollbacks += 1
        hint = "lower the learning rates or stages.*.spike, or look at the data of these steps (log.jsonl)"
        if self.rollbacks > MOST_ROLLBACKS:
            raise SaladError(f"{self.name} went back {MOST_ROLLBACKS} times, and still {bad.why}", hint)
        found = checkpoint.newest(self.out / "checkpoints", self.digest, print if self.rank == 0 else str)
        if found is None:
            raise SaladError(f"{self.stage.bad_steps} bad steps in a row ({bad.why}) before any checkpoint", hint)
        path, mark = found
        checkpoint.load(self.step_of.engine, for_ranks(path, int(mark["ranks"])))
        self.step_of.guard.in_a_row = 0
        if self.rank == 0:
            print(f"{self.name}: {self.stage.bad_steps} bad steps in a row ({bad.why}): back to step {mark['step']}, "
                  "with the data behind them")
        return Place(int(mark["step"]), StreamState.from_json(gather_states(self.states)))


def gather_states(states: list[LaneState]) -> list[Any]:
    """The lane states of all ranks in lane order, as JSON."""
    return [lane for part in gathered(StreamState(states).as_json()) for lane in part]


def gather_skipped(skipped: Skipped, before: dict[str, Any]) -> dict[str, Any]:
    """What every rank skipped, and what was skipped ``before`` a resume, together: {reason: {"count", "examples"}}."""
    return merged([before, *gathered(skipped.table())])
