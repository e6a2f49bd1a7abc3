"""The process environment, set before torch and its friends are imported. What the user has set is left alone."""

from __future__ import annotations

import os
import warnings
from pathlib import Path


def prepare_environment() -> None:
    """How this process and its children should behave on a machine without an accelerator."""
    if any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists() or Path("/dev/kfd").exists():
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed says what it found, each time, unless it is told
    # OpenMP threads spin while they wait; with more processes than cores that cost a factor of up to 20 here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def hush() -> None:
    """Silence third-party chatter that says nothing to a user: what remains on the screen should be worth reading."""
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",  # it warns after every fork; loaders work in threads here
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\..*")
