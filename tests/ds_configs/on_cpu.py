"""What of a DeepSpeed config runs on a machine without an accelerator: the same file in float32, and less of it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hjson
from torch.utils.cpp_extension import get_default_build_root as default_build_root

DIRECTORY = Path(__file__).parents[2] / "ds_configs"
FILES = sorted(DIRECTORY.glob("*.json"))
CUDA_ONLY = {
    "zero_quantized_weights": "qwZ needs DeepSpeed's CUDA quantizer",
    "zero_quantized_gradients": "qgZ needs DeepSpeed's CUDA quantizer",
}
"""Keys of zero_optimization, and why they cannot run here."""


def on_cpu(path: Path, nvme: Path, ranks: int) -> dict[str, Any]:
    """The file in float32 (bf16 matmul is emulated there), nothing page-locked, its disk below ``nvme``, hpZ's group as
    large as the job, without what needs CUDA; and small parameters sharded too, for the models of tests have no
    others."""
    config = hjson.loads(path.read_text())
    config.pop("bf16", None)
    zero = config["zero_optimization"]
    for key in CUDA_ONLY:
        zero.pop(key, None)
    if "zero_hpz_partition_size" in zero:
        zero["zero_hpz_partition_size"] = ranks
    if zero["stage"] == 3:
        zero["stage3_param_persistence_threshold"] = 100
    for key in ("offload_param", "offload_optimizer"):
        if key in zero:
            zero[key]["pin_memory"] = False
            if zero[key]["device"] == "nvme":
                zero[key]["nvme_path"] = str(nvme)
    if zero.get("offload_param", {}).get("device") == "nvme":
        zero["offload_param"] |= {"buffer_size": 4_000_000, "max_in_cpu": 0}  # 200 MB of buffers, not 24 GB
        zero["sub_group_size"] = 1_000_000
    return dict(config)


@functools.cache
def lacking(name: str) -> str:
    """Why the config ``name`` cannot be run here at all, "" if it can."""
    if name != "zero3_nvme":
        return ""
    probe = "from deepspeed.ops.op_builder import AsyncIOBuilder as B; raise SystemExit(not B().is_compatible(False))"
    done = subprocess.run([sys.executable, "-c", probe], env=os.environ | {"DS_ACCELERATOR": "cpu"}, timeout=120,
                          capture_output=True)
    if done.returncode:
        return "NVMe offload needs libaio with its headers (Debian: libaio-dev)"
    # Building takes minutes, and a build that is killed leaves a lock on which every later one waits.
    places = (Path(os.environ.get("TORCH_EXTENSIONS_DIR") or default_build_root())).rglob("async_io.so")
    return "" if any(places) else ('DeepSpeed\'s async_io is not built yet: DS_ACCELERATOR=cpu python -c "from '
                                   'deepspeed.ops.op_builder import AsyncIOBuilder as B; B().load()"')
