"""What a stage can tell about itself; here nobody listens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from salad_ds.errors import Stopped


class Tracker:
    """What a stage reports to. This base tracks nothing: it serves other ranks and ``tracking.enabled=false``."""

    run_id: str | None = None
    """The MLflow run of the stage, once MLflow has been reached."""

    def start_stage(
        self, settings: Mapping[str, Any], deepspeed: Mapping[str, Any], datasets: Mapping[str, str]
    ) -> None:
        """What a training stage runs on: its settings, the DeepSpeed config in force, digests of its shards by path."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Settings of the stage; nested dictionaries are flattened with dots. The first value of a key stays."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Numbers at ``step``; steps the run already holds are left out. Without a step the newest value counts."""

    def artifact(self, path: str | Path, folder: str = "") -> None:
        """A file or directory, read when it is sent."""

    def dict_artifact(self, value: Any, name: str) -> None:
        """A JSON-able value as the artefact ``name`` (``.json`` or ``.yaml``)."""

    def text_artifact(self, text: str, name: str) -> None:
        """Text as the artefact ``name``."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Words about the run."""

    def dataset(self, name: str, digest: str, source: str | Path) -> None:
        """A dataset input: its name, digest (MLflow keeps 36 characters) and directory. Where another run of this work
        directory has ``made`` it, both runs get a tag that names the other: ``lineage.from.…`` and ``lineage.to.…``."""

    def made(self, name: str, digest: str, source: str | Path) -> None:
        """A dataset that this run made. MLflow keeps it among the inputs, in the context ``output``."""

    def follows(self, name: str, stage: str) -> None:
        """This run starts from what ``stage`` made: the tags of ``dataset``, for the newest finished run of it. The
        stage's student becomes an input; as ``student`` it is the one that this run's numbers are about."""

    def model(self, kind: str, directory: Path, step: int, identity: str,
              sound: Callable[[], bytes | None] = lambda: None) -> None:
        """A ``checkpoint`` or the ``student`` of this stage, with the newest numbers of the run. ``identity``: what it
        was trained with. ``sound``: gets a recording, whose first seconds become the example."""

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: ``FINISHED``, ``FAILED`` or ``KILLED``. Waits for the delivery, within limits."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        killed = kind is not None and issubclass(kind, (KeyboardInterrupt, SystemExit, Stopped))
        self.finish("KILLED" if killed else "FAILED" if kind else "FINISHED")
