"""The recipe: every section, and where its files lie."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING

from salad_ds.config.data import CorpusConfig, DataConfig, StorageConfig
from salad_ds.config.evaluate import EvaluateConfig
from salad_ds.config.measure import MeasureConfig
from salad_ds.config.model import ModelConfig
from salad_ds.config.select import SelectConfig
from salad_ds.config.stages import TrainConfig
from salad_ds.config.synth import AlignConfig, SynthConfig, SynthesizeConfig
from salad_ds.config.teacher import TeacherConfig
from salad_ds.config.tracking import TrackingConfig


@dataclass
class Recipe:
    name: str = MISSING
    """Of the experiment, in reports and in MLflow."""
    workdir: str = MISSING
    """Everything a recipe makes lies below this directory."""
    model: ModelConfig = field(default_factory=ModelConfig)
    corpora: list[CorpusConfig] = field(default_factory=list)
    synthesize: SynthesizeConfig = field(default_factory=SynthesizeConfig)
    synth: SynthConfig = field(default_factory=SynthConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    data: DataConfig = field(default_factory=DataConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    stages: dict[str, TrainConfig] = field(default_factory=dict)
    """The training stages by name: ``stage1``, ``stage2``."""
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    threads: int = 0
    """CPU threads per process for torch; 0 leaves torch's choice."""

    def path(self, relative: str | Path) -> Path:
        """``relative`` below ``workdir`` (an absolute path stays). A URL, which only a directory of shards may be,
        stays the string that it is."""
        if "://" in str(relative):
            return cast(Path, str(relative))
        return Path(self.workdir).expanduser() / Path(relative).expanduser()


def plain(value: Any) -> Any:
    """A settings object as plain dictionaries and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
