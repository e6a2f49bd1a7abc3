"""Runs in real MLflow stores, written by the real tracker as the stages write them, from known parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from salad_ds.config import DataConfig, MeasureConfig, ModelConfig, Recipe, SourceConfig, TrackingConfig, TrainConfig
from salad_ds.train.tracking import open_tracker

QUANTITIES = ("misalignment", "misalignment_wrong_speech", "misalignment_silence", "forgetting", "distillation")
"""Spelt out: what the stores of the past hold must stay readable."""


class Dead(KeyboardInterrupt):
    """How a run is killed in here."""


class Work:
    """One work directory. Each method is a stage; ``end``: how it ends, ``killed`` leaves what was logged before."""

    def __init__(self, directory: Path, uri: str = "", name: str = "", speech: str = "speech-1", llm: str = "some/llm",
                 measure_items: int = 64, **stage: object) -> None:
        sources = [SourceConfig(kind="speech", path="speech/a"), SourceConfig(kind="text", path="text/b", weight=0.5)]
        training = TrainConfig(sources=sources, **({"steps": 100, "alpha": 0.9} | stage))  # type: ignore[arg-type]
        self.recipe = Recipe(name=name or directory.name, workdir=str(directory), model=ModelConfig(llm=llm),
                             data=DataConfig(text_words=[4, 9]), stages={"stage1": training},
                             measure=MeasureConfig(speech="speech/held", items=measure_items),
                             tracking=TrackingConfig(uri=uri, experiment="laws"))  # fmt: skip
        self.speech = speech

    def _stage(self, name: str, log: Callable, killed: bool) -> None:
        try:
            with open_tracker(self.recipe, name) as tracker:
                log(tracker)
                if killed:
                    raise Dead
        except Dead:
            pass

    def train(self, seen: float, probes: Mapping[int, tuple[float, float, float]] | None = None,
              killed: bool = False) -> Work:
        """``seen``: text targets in all; ``probes``: {step: (text targets until then, M, its standard error)}."""

        def log(tracker) -> None:
            stage = self.recipe.stages["stage1"]
            tracker.start_stage({"steps": stage.steps}, {}, {"speech/a": "a" * 32})
            for step, (targets, m, error) in (probes or {}).items():
                counts = {"targets_seen": targets, "positions_seen": 3 * targets}
                told = {"misalignment": m, "misalignment_se": error, "items": 16.0, "forgetting": 0.01, **counts}
                tracker.metrics({f"probe_{key}": value for key, value in told.items()}, step)
                if step:
                    tracker.metrics({"loss": 1.0, **counts}, step)
            if not probes:
                tracker.metrics({"loss": 1.0, "targets_seen": seen, "positions_seen": 3 * seen}, stage.steps)

        self._stage("stage1", log, killed)
        return self

    def measure(self, m: float, f: float, error: float = 0.004, checkpoint: str = "stage1", student: str = "",
                killed: bool = False) -> Work:
        def log(tracker) -> None:
            self._introduce(tracker, checkpoint, student)
            tracker.dataset("speech/held", self.speech, "/nowhere")
            values = dict(zip(QUANTITIES, (m, 1.2 * m, 1.3 * m, f, m + f), strict=True))
            errors = {f"{name}_se": error for name in values}
            tracker.metrics({**values, **errors, "items": 62, "tokens": 4100, "passed_over": 2})

        self._stage(f"measure-{checkpoint}", log, killed)
        return self

    def evaluate(self, tasks: Mapping[str, tuple[float, float]], checkpoint: str = "stage1", student: str = "",
                 killed: bool = False, questions: str = "q") -> Work:
        """``tasks``: {name: (accuracy of text, of speech)}; a killed one has said what it would ask."""

        def log(tracker) -> None:
            self._introduce(tracker, checkpoint, student)
            for task in tasks:
                tracker.dataset(f"evaluate.{task}", f"{questions}-{task}", "/nowhere")
                tracker.metrics({f"evaluate.{task}.of": 400})
            if not killed:
                for task, (text, speech) in tasks.items():
                    tracker.metrics({f"evaluate.{task}.{name}": value for name, value in
                                     {"text_accuracy": text, "speech_accuracy": speech, "items": 390}.items()})

        self._stage(f"evaluate-{checkpoint}", log, killed)
        return self

    def _introduce(self, tracker, checkpoint: str, student: str) -> None:
        tracker.tags({"salad.student": student or f"{self.recipe.workdir}/{checkpoint}"})
        tracker.follows("student", checkpoint)


@pytest.fixture(scope="session")
def work() -> type[Work]:
    return Work
