"""What a DeepSpeed config does with memory and network, read from its keys: no config is known by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hjson
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from pydantic import ValidationError

from salad_ds.errors import RecipeError

CONFIGS = Path(__file__).parents[2] / "ds_configs"


@dataclass(frozen=True)
class Zero:
    """``zero``: DeepSpeed's own settings, its defaults included. ``bytes``: of a parameter in forward and backward."""

    name: str
    zero: DeepSpeedZeroConfig
    bytes: int

    @property
    def stage(self) -> int:
        return int(self.zero.stage)

    @property
    def optimizer_at(self) -> str:
        """``gpu``, ``cpu`` or ``nvme``."""
        return place(self.zero.offload_optimizer)

    @property
    def parameters_at(self) -> str:
        return place(self.zero.offload_param)

    @property
    def hpz(self) -> int:
        """Ranks that hold one more whole copy of the parameters between them (ZeRO++, arXiv 2306.10209); 1: none."""
        return max(int(self.zero.zero_hpz_partition_size), 1)

    def on_cpu(self) -> bool:
        """Whether this is a config of machines without GPUs: it names no 16-bit training."""
        return self.bytes == 4


def place(offload: Any) -> str:
    device = "none" if offload is None else str(getattr(offload.device, "value", offload.device))
    return "gpu" if device == "none" else device


def read_zero(path: str | Path) -> Zero:
    """A DeepSpeed config (JSON with comments), as DeepSpeed reads it. Relative paths are looked up as training does.

    Raises RecipeError for a file that is missing or malformed, and for settings that DeepSpeed refuses.
    """
    found = next((p for p in (Path(path), CONFIGS.parent / path) if p.is_file()), None)
    if found is None:
        raise RecipeError(f"DeepSpeed config {path} does not exist", f"name a file of {CONFIGS.name}/")
    try:
        return of_settings(hjson.loads(found.read_text()), found.name)
    except (hjson.HjsonDecodeError, ValidationError, TypeError, AttributeError) as error:
        raise RecipeError(f"{found}: {' '.join(str(error).split())[:200]}", "mend the file") from None


def of_settings(settings: dict[str, Any], name: str) -> Zero:
    half = any((settings.get(kind) or {}).get("enabled") for kind in ("bf16", "fp16"))
    return Zero(name, DeepSpeedZeroConfig(**settings.get("zero_optimization", {})), 2 if half else 4)


def shipped() -> list[Zero]:
    """Every config of ds_configs/, whatever they are."""
    return [read_zero(path) for path in sorted(CONFIGS.glob("*.json"))]
