"""Where faults are inflicted: one work directory, always at the same place, and what it is set back to.

    ROOM/recipe.yaml, ROOM/llm        the tiny recipe with real speech and a random LLM of two layers
    ROOM/work                         the work directory that is hurt (MLflow's runs know it by its path)
    ROOM/seed, ROOM/stopped           copies of it: prepared; stopped behind step 5 of 10
    ROOM/whole                        a copy of it after a run that was left alone
    ROOM/results.jsonl                a line per fault that was inflicted
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.faults.fault import NotAsPromised, Told
from tests.faults.forked import Forked
from tests.faults.job import Job
from tests.faults.losses import STAGE, lost, rows
from tests.train.launch import command

STEPS, STOPPED = 10, 5
SETTINGS = {"steps": STEPS, "checkpoint_every": 2, "keep": 2, "warmup_steps": 2, "decay_share": 0.3}
FIRST, LAST = "step-00000002", f"step-{STEPS:08d}"


class Room:
    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.recipe, self.work = self.directory / "recipe.yaml", self.directory / "work"
        self.stage, self.checkpoints = self.work / STAGE, self.work / STAGE / "checkpoints"
        self.name, self.jobs = "room", 0
        """Of the fault that is being inflicted, and how many jobs it has started: names of the logs."""

    # ---- states of the work directory

    def kept(self, name: str, make: Callable[[], None]) -> Path:
        """The copy ``name`` of the work directory, made once: it appears whole."""
        copy = self.directory / name
        if not copy.is_dir():
            print(f"  making {copy} ...", file=sys.stderr, flush=True)
            make()
            part = self.directory / f".{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(self.work, part, symlinks=True)
            part.rename(copy)
        return copy

    def back_to(self, copy: Path) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(copy, self.work, symlinks=True)

    def seed(self) -> Path:
        """Shards, word times and teacher store: three shards of speech, two of text. MLflow has its tables already, as
        on any road with a measurement before the first stage; `mlflow-unmade` is the fault for the other case."""
        def make() -> None:
            from salad_ds.assets import resolve
            from tests.conftest import make_tiny_llm
            from tests.train.conftest import write_recipe

            shutil.rmtree(self.work, ignore_errors=True)
            llm = make_tiny_llm(self.directory / "llm", Path(resolve("packaged:smollm2-135m")))
            recipe = yaml.safe_load(write_recipe(self.recipe, llm, self.work).read_text())
            recipe["stages"][STAGE] |= SETTINGS
            recipe["tracking"] = {"enabled": True}
            recipe["corpora"][0]["samples_per_shard"], recipe["corpora"][1]["samples_per_shard"] = 5, 4
            self.recipe.write_text(yaml.safe_dump(recipe))
            for verb in ("prepare", "align", "precompute"):
                self.verb(verb)
            self.send()

        return self.kept("seed", make)

    def whole(self) -> Path:
        """The run that every other one is compared with."""
        def make() -> None:
            self.back_to(self.seed())
            self.train()

        return self.kept("whole", make)

    def stopped(self) -> Path:
        """Told to stop behind step 5: checkpoints of the steps 4 and 5."""
        def make() -> None:
            self.back_to(self.seed())
            with self.job(Forked(2, "tests.train.until", STOPPED, self.recipe)) as job:
                if job.ends() != 0:
                    raise NotAsPromised(job.said[-2000:])

        return self.kept("stopped", make)

    def begin(self) -> None:
        """A prepared work directory, and the run to compare with."""
        self.whole()
        self.back_to(self.seed())

    def begin_stopped(self) -> None:
        self.whole()
        self.back_to(self.stopped())

    # ---- jobs

    def job(self, words: list[str] | Forked) -> Job:
        self.jobs += 1
        (self.directory / "logs").mkdir(exist_ok=True)
        return Job(words, self.directory / "logs" / f"{self.name}-{self.jobs:02d}.log")

    def training(self, *settings: str, ranks: int = 2, struck: str = "", launched: bool = False) -> Job:
        """``salad-ds train``, ``launched`` by DeepSpeed's launcher or forked; ``struck``: see struck.py."""
        module = ["tests.faults.struck", struck] if struck else ["salad_ds"]
        words = [*module, "train", self.recipe, *settings]
        return self.job(command(ranks, *words) if launched else Forked(ranks, *words))

    def run(self, *settings: str) -> Job:
        """``salad-ds run``, which starts the launcher itself."""
        return self.job([sys.executable, "-m", "salad_ds", "run", str(self.recipe), "evaluate.tasks=[]", *settings])

    def train(self, *settings: str, ranks: int = 2, says: str = "") -> str:
        """Train to the end; what the job said."""
        return self.through(self.training(*settings, ranks=ranks), says)

    def verb(self, verb: str, *settings: str) -> str:
        return self.through(self.job(Forked(0, "salad_ds", verb, self.recipe, *settings)))

    @staticmethod
    def through(job: Job, says: str = "") -> str:
        with job:
            code = job.ends()
            if code:
                raise NotAsPromised(f"exit code {code}: {job.said[-1500:]}")
            job.must_say(*([says] if says else []))
            return job.said

    def send(self, *settings: str) -> None:
        """What any later verb in the work directory does first: it sends what waits for MLflow."""
        from salad_ds.config import load_recipe
        from salad_ds.train.tracking import open_tracker

        with open_tracker(load_recipe(self.recipe, settings), "measure"):
            pass

    # ---- what a job has reached

    def stepped(self, steps: int) -> Callable[[], bool]:
        """Whether so many steps stand in the log."""
        path = self.stage / "log.jsonl"
        return lambda: path.is_file() and path.read_bytes().count(b"\n") >= steps

    def saved(self, name: str = FIRST) -> Callable[[], bool]:
        return (self.checkpoints / name / "complete.json").is_file

    def unfinished(self) -> bool:
        return not (self.stage / "done.json").exists()

    # ---- the end of it

    def goes_on(self, happened: str, *settings: str, ranks: int = 2, rtol: float = 0.0) -> Told:
        """The same command again, to the end; then the comparison. The run must go on, not begin anew."""
        said = self.train(*settings, ranks=ranks, says="continuing after step")
        step = said.split("continuing after step ", 1)[1].split()[0]
        return Told(f"{happened}; the same command went on after step {step}", self.lost(rtol))

    def lost(self, rtol: float = 0.0, same_until: int | None = None) -> list[str]:
        return lost(self.whole(), self.work, rtol, same_until)

    def rows(self) -> list[dict]:  # type: ignore[type-arg]
        return rows(self.work)
