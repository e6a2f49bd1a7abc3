"""What one rank says of itself before the first step: plain values, to be compared with those of the other ranks.

Nothing is loaded or made. What a host's ranks share (shards, store, models, disk) its first rank looks at; at a
thousand ranks the file system would hear of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import salad_ds
from salad_ds.cluster.network import own_address, towards
from salad_ds.config import Recipe, plain
from salad_ds.data.shards import ShardSet
from salad_ds.doctor import version
from salad_ds.errors import DataError, SaladError
from salad_ds.files import digest_of

PACKAGES = ("salad_ds", "deepspeed", "transformers", "tokenizers", "safetensors", "numpy", "webdataset")
VARIABLES = ("NCCL_", "TORCH_NCCL_", "GLOO_", "UCX_", "HF_", "SALAD_DS_", "DS_ACCELERATOR", "PYTORCH_", "CUDA_LAUNCH",
             "OMP_NUM_THREADS", "TORCH_")
"""Beginnings of the names of environment variables that change what a rank does."""
NOT_COMPARED = ("TORCHELASTIC", "TORCH_NCCL_ASYNC", "SALAD_DS_STOPPED", "SALAD_DS_PARENT", "HF_HUB_DISABLE_PROGRESS")
"""Of those, what a launcher or salad_ds itself sets."""


def facts_of(recipe: Recipe, stages: list[str], leads: bool) -> dict[str, Any]:
    """``leads``: whether this rank is its host's first, which also looks at what they share."""
    said: dict[str, Any] = {
        "code": tree_digest(Path(salad_ds.__file__).parent),
        "at": str(Path(salad_ds.__file__).parent),
        "versions": versions(),
        "recipe": flat(plain(recipe)),
        "deepspeed": {name: deepspeed_of(recipe, name) for name in stages},
        "variables": {name: value for name, value in sorted(os.environ.items())
                      if name.startswith(VARIABLES) and not name.startswith(NOT_COMPARED)},
        "device": device_of(),
        "size": os.environ["WORLD_SIZE"],
    }
    if leads:
        said |= {
            "files": files_of(Path(salad_ds.__file__).parent),
            "shards": {path: shards_of(recipe, path) for path in sources_of(recipe, stages)},
            "store": store_of(recipe, stages),
            "models": {name: model_of(name) for name in models_of(recipe)},
            "disk": disk_of(recipe),
            "network": network(),
        }
    return said


def versions() -> dict[str, str]:
    nccl = torch.cuda.nccl.version() if torch.cuda.is_available() else ()
    return {"python": platform.python_version(), "torch": torch.__version__, "CUDA": torch.version.cuda or "none",
            "NCCL": ".".join(map(str, nccl)) or "none",
            **{name: version(name) or "not installed" for name in PACKAGES}}


def files_of(package: Path) -> dict[str, str]:
    """Short digest of each source file."""
    found = sorted(path for pattern in ("*.py", "*.yaml") for path in package.rglob(pattern))
    return {path.relative_to(package).as_posix(): hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()
            for path in found}


def tree_digest(package: Path) -> str:
    return digest_of(files_of(package))[:12]


def flat(value: Any, name: str = "") -> dict[str, str]:
    """``{"stages.stage1.steps": "6"}``: lists stay one value."""
    if isinstance(value, dict):
        return {key: text for part, inner in value.items()
                for key, text in flat(inner, f"{name}.{part}" if name else str(part)).items()}
    return {name: json.dumps(value, default=str)}


def deepspeed_of(recipe: Recipe, stage: str) -> str:
    """Digest of the DeepSpeed config, as training on these ranks would have it; or what is wrong with it."""
    from salad_ds.train.engine import deepspeed_config

    settings = recipe.stages[stage]
    return told(lambda: digest_of(deepspeed_config(settings.deepspeed, settings, int(os.environ["WORLD_SIZE"])))[:12])


def told(look: Callable[[], str]) -> str:
    """What ``look`` finds; behind "!" what is wrong, in a line."""
    try:
        return look()
    except SaladError as error:
        return f"!{error.what}"
    except OSError as error:
        return f"!{error}"


def device_of() -> dict[str, str]:
    """This rank's GPU, as it will be taken; {} on a CPU."""
    if not torch.cuda.is_available():
        return {}
    from salad_ds.launched import gpu

    card = torch.cuda.get_device_properties(gpu())
    return {"GPU": f"{card.name}, {card.total_memory / 2**30:.0f} GiB", "id": str(getattr(card, "uuid", "")),
            "driver": driver()}


def driver() -> str:
    with contextlib.suppress(OSError):
        first = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
        return next((word for word in first.split() if word[0].isdigit() and "." in word), "unknown")
    return "unknown"


def sources_of(recipe: Recipe, stages: list[str]) -> list[str]:
    return sorted({source.path for name in stages for source in recipe.stages[name].sources})


def shards_of(recipe: Recipe, path: str) -> str:
    """Digest and number of what the manifest names; "" where nothing is there yet."""
    place = recipe.path(path)
    if isinstance(place, Path) and not place.is_dir():
        return ""
    if isinstance(place, Path) and not (place / "manifest.json").is_file():
        return f"!{place} has no manifest"

    def look() -> str:
        shards = ShardSet.open(place)
        for number in {0, len(shards.shards) - 1} if isinstance(place, Path) else ():
            tar, wanted = place / shards.rows.names[number], shards.rows.bytes[number]
            if tar.is_file() and 0 <= wanted != tar.stat().st_size:
                raise DataError(f"{tar} has {tar.stat().st_size} bytes, not {wanted}")
        return f"{shards.digest[:12]}, {len(shards)} samples in {len(shards.shards)} shards"

    return told(look)


def store_of(recipe: Recipe, stages: list[str]) -> str | None:
    """Settings and files of the teacher store; "" where there is none yet, None where none is wanted."""
    if recipe.teacher.mode != "store" or not any(recipe.stages[name].alpha > 0 for name in stages):
        return None
    place = recipe.path(recipe.teacher.store)
    if not (place / "store.json").is_file():
        return ""

    def look() -> str:
        files = sorted((path.name, path.stat().st_size) for path in place.glob("*.safetensors"))
        total = sum(size for _, size in files)
        settings = (place / "store.json").read_text(encoding="utf-8")
        return f"{digest_of([settings, files])[:12]}, {len(files)} files, {total / 1e6:.0f} MB"

    return told(look)


def models_of(recipe: Recipe) -> list[str]:
    named = (recipe.model.llm, recipe.model.encoder.name, recipe.teacher.llm)
    return sorted({str(name) for name in named if name})


def model_of(name: str) -> str:
    """Configuration and weight files of a model that lies on this host; "" for one that would be downloaded first."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from salad_ds.assets import resolve
    from salad_ds.teacher.identity import NOT_THE_MODEL, weight_files

    def look() -> str:
        place = Path(resolve(name, "model")).expanduser()
        if not place.is_dir():
            try:
                cached = try_to_load_from_cache(name, "config.json")
            except HFValidationError:
                raise DataError(f"{name} is neither a directory nor a hub name") from None
            if not isinstance(cached, str):
                return ""
            place = Path(cached).parent
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        body = {key: value for key, value in config.items() if key not in NOT_THE_MODEL}
        weights = [(path.name, path.stat().st_size) for path in weight_files(place)]
        return f"{digest_of([body, weights])[:12]}"

    return told(look)


def disk_of(recipe: Recipe) -> dict[str, float]:
    """Free bytes where the job writes. ``ours``: whether the work directory can be written."""
    work = recipe.path(".").absolute()
    at = next(place for place in (work, *work.parents) if place.exists())
    found: dict[str, float] = {"work": shutil.disk_usage(at).free, "ours": float(os.access(at, os.W_OK))}
    if Path("/dev/shm").is_dir():
        found["shm"] = shutil.disk_usage("/dev/shm").free
    return found


def network() -> dict[str, str]:
    """The interface towards rank 0, and what gloo and NCCL were told."""
    way = towards(os.environ["MASTER_ADDR"])
    return {"interface": way.name if way else "", "address": way.address if way else "", "own": own_address(),
            "gloo": os.environ.get("GLOO_SOCKET_IFNAME", ""), "nccl": os.environ.get("NCCL_SOCKET_IFNAME", ""),
            "interfaces": ",".join(name for _, name in socket.if_nameindex())}
