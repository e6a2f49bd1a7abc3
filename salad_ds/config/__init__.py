"""Every setting of every verb. A recipe (YAML) and dotted overrides are merged into these dataclasses, so that a
misspelt key or a value of the wrong type is an error before anything runs.

The docstring under each field is its documentation; docs/reference.md is made from it.
"""

from __future__ import annotations

from salad_ds.config.checks import AT_LEAST_ONE, CHOICES, MOST_KEPT
from salad_ds.config.data import LOADING, CorpusConfig, DataConfig, SourceConfig, StorageConfig
from salad_ds.config.evaluate import EvaluateConfig, TaskConfig
from salad_ds.config.loading import known_keys, load_recipe
from salad_ds.config.measure import MeasureConfig, MeasureSetConfig
from salad_ds.config.model import AdapterConfig, EncoderConfig, ModelConfig
from salad_ds.config.recipe import Recipe, plain
from salad_ds.config.select import SelectConfig
from salad_ds.config.stages import BOOKKEEPING, TrainConfig
from salad_ds.config.synth import AlignConfig, SynthConfig, SynthesizeConfig
from salad_ds.config.teacher import TeacherConfig
from salad_ds.config.tracking import TrackingConfig

__all__ = [
    "AT_LEAST_ONE", "BOOKKEEPING", "CHOICES", "LOADING", "MOST_KEPT",
    "AdapterConfig", "AlignConfig", "CorpusConfig", "DataConfig", "EncoderConfig", "EvaluateConfig", "MeasureConfig",
    "MeasureSetConfig", "ModelConfig", "Recipe", "SelectConfig", "SourceConfig", "StorageConfig", "SynthConfig",
    "SynthesizeConfig", "TaskConfig", "TeacherConfig", "TrackingConfig", "TrainConfig",
    "known_keys", "load_recipe", "plain",
]  # fmt: skip
