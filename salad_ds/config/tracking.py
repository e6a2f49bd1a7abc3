"""What is told to MLflow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TrackingConfig:
    """MLflow."""

    enabled: bool = True
    """Whether anything is told to MLflow."""
    uri: str = ""
    """Tracking server; by default a SQLite store inside ``workdir``."""
    experiment: str = ""
    """By default the recipe's name."""
    register: str = ""
    """Name in MLflow's model registry: the student of each stage that ends becomes a version of it. Empty for none."""
    upload: bool = False
    """Copy the weights of students to MLflow's artefacts. By default a logged or registered model names the directory
    in which they lie, and can be loaded where that is mounted."""
