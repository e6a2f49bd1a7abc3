"""From a place in a stage to its end: steps, and what happens beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from salad_ds.config import Recipe
from salad_ds.data.lanes import LaneState
from salad_ds.data.plan import Planner, Skipped, merged
from salad_ds.data.stream import Stream, StreamState
from salad_ds.errors import CheckpointError, SaladError, Stopped
from salad_ds.progress import Progress
from salad_ds.train import checkpoint
from salad_ds.train.feed import Feed
from salad_ds.train.guard import MOST_ROLLBACKS, RollBack
from salad_ds.train.probes import Probes
from salad_ds.train.rolled_back import FILE, keep_rows
from salad_ds.train.saver import Saver
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
    saver: Saver
    before: dict[str, Any]
    """What was skipped before a resume."""
    rolled_back: list[dict[str, Any]]
    """Every time that the stage went back: ``from`` and ``to`` which step, and ``why``."""

    def __post_init__(self) -> None:
        self.stage, self.out = self.recipe.stages[self.name], self.recipe.path(self.name)
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.states: list[LaneState] = []
        """Of the stream behind the newest step, on this rank."""
        self.held: list[tuple[int, dict[str, float]]] = []
        """Records of the bad steps in a row: the stage may yet go back behind them."""

    def __call__(self, at: Place) -> Place:
        """Raises Stopped behind a checkpoint when the job was told to stop, RollBack after too many bad steps; and,
        behind a checkpoint as well, what all ranks stop for between two steps."""
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
        try:
            with log, probed, progress:
                if at.state is None:
                    self.probe(0, probed, log.seen)
                steps = run_steps(self.step_of, feed, self.planner.skipped, self.stop, self.saver.require)
                for record, states in steps:
                    step, self.states = step + 1, states
                    self.watchdog.step_ended()
                    log.write({"step": step, **record})
                    self.track(step, record | log.seen)
                    progress.update(1, f"loss {record['loss']:.3f}, kl {record['kl']:.3f}")
                    self.step_of.guard.require_progress(step)
                    self.probe(step, probed, log.seen)
                    due = step % stage.checkpoint_every == 0 and not self.step_of.guard.in_a_row
                    if due or step == stage.steps:
                        self.save(step)
                        saved = step
        except Exception:
            if self.stop.agreed and saved < step:  # all ranks are here, and their weights are sound
                self.save_what_there_is(step)
            raise
        self.send_held()
        if self.stop.agreed and step < stage.steps:
            if saved < step:
                self.save(step)
            self.saver.wait()
            raise Stopped(f"{self.name} was told to stop, after step {step} of {stage.steps}",
                          "the same command goes on from there")
        self.saver.wait()
        return Place(step, None)

    def track(self, step: int, numbers: dict[str, float]) -> None:
        """Send what a step told to MLflow, which cannot forget: of bad steps in a row only once they have ended
        otherwise than by going back."""
        if step % self.stage.log_every == 0 or step == self.stage.steps:
            self.held.append((step, numbers))
        if not self.step_of.guard.in_a_row:
            self.send_held()

    def send_held(self) -> None:
        for step, numbers in self.held:
            self.tracker.metrics(numbers, step)
        self.held.clear()

    def probe(self, step: int, probed: StepLog, seen: dict[str, float]) -> None:
        if self.probes is not None and (step % self.stage.probe_every == 0 or step == self.stage.steps):
            numbers = self.probes(self.step_of.engine, self.step_of.encoder) | seen
            probed.write({"step": step, **numbers})
            self.tracker.metrics({f"probe_{key}": value for key, value in numbers.items()}, step)

    def save(self, step: int) -> None:
        self.saver(step, self.beside())
        self.tracker.model("checkpoint", self.saver.directory / checkpoint.name_of(step), step, self.digest)
        self.watchdog.step_ended()

    def save_what_there_is(self, step: int) -> None:
        """Before all ranks end for another reason: if there is no room for a checkpoint, that remains the reason."""
        self.send_held()
        self.saver.forget()
        try:
            self.save(step)
            self.saver.wait()
        except CheckpointError as error:
            if self.rank == 0:
                print(f"{self.name}: {error}")

    def beside(self) -> dict[str, Any]:
        """What a checkpoint's mark says of the stage, beside the weights. A collective."""
        return {"stream": gather_states(self.states), "skipped": self.skipped(), "guard": self.step_of.guard.state(),
                "rolled_back": self.rolled_back}  # fmt: skip

    def skipped(self) -> dict[str, Any]:
        return gather_skipped(self.planner.skipped, self.before)

    def back(self, bad: RollBack) -> Place:
        """The weights of the newest checkpoint, and the data behind the bad steps; its mark says so from now on, and
        the steps that are given up lie in ``rolled-back.jsonl``.

        Raises SaladError where that has not helped, or there is no checkpoint."""
        hint = "lower the learning rates or stages.*.spike, or look at the data of these steps (log.jsonl)"
        self.saver.wait()
        found = checkpoint.newest(self.out / "checkpoints", self.digest, print if self.rank == 0 else str,
                                  self.saver.damaged)  # fmt: skip
        if found is None:
            raise SaladError(f"{self.stage.bad_steps} bad steps in a row ({bad.why}) before any checkpoint", hint)
        path, mark = found
        if sum(one["to"] == mark["step"] for one in self.rolled_back) == MOST_ROLLBACKS:
            checkpoint.amend(path, mark["untried"])  # other data have not helped: who starts again misses none
            raise SaladError(f"{self.name} went back {MOST_ROLLBACKS} times, and still {bad.why}", hint)
        checkpoint.load(self.step_of.engine, for_ranks(path, int(mark["ranks"])))
        self.step_of.guard.in_a_row = 0
        self.held.clear()
        to = int(mark["step"])
        if self.rank == 0:
            keep_rows(self.out, len(self.rolled_back) + 1, to)
            print(f"{self.name}: {self.stage.bad_steps} bad steps in a row ({bad.why}): back to step {to}, "
                  "with the data behind them")
            self.tracker.artifact(self.out / FILE)
            words = f"step {bad.step} to {to}: {bad.why}"
            self.tracker.tags({f"rolled_back.{len(self.rolled_back) + 1}": words})
        self.rolled_back.append({"from": bad.step, "to": to, "why": bad.why})
        told = self.beside()
        untried = mark.get("untried") or {key: mark.get(key, []) for key in told}
        checkpoint.amend(path, {**told, "untried": untried})  # killed now, it goes on behind the bad steps as well
        return Place(to, StreamState.from_json(told["stream"]))


def gather_states(states: list[LaneState]) -> list[Any]:
    """The lane states of all ranks in lane order, as JSON."""
    return [lane for part in gathered(StreamState(states).as_json()) for lane in part]


def gather_skipped(skipped: Skipped, before: dict[str, Any]) -> dict[str, Any]:
    """What every rank skipped, and what was skipped ``before`` a resume, together: {reason: {"count", "examples"}}."""
    return merged([before, *gathered(skipped.table())])
