"""Who the teacher is: a name that two different models never share, taken from the bytes of the model itself.

A teacher store is only worth something to the student of the very model that filled it, so the name is a digest over
the configuration and the weight files. Hashing 14 GB takes a minute: the digest of a file is remembered by its path,
size and time of change, so each file is read once.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from salad_ds.assets import home, resolve
from salad_ds.errors import AssetError, DataError
from salad_ds.files import digest_of, read_json, sha256_file, write_json

NOT_THE_MODEL = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_cache")
"""Keys of config.json that saving the same model again may change."""

HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]


def model_directory(reference: str | Path) -> Path:
    """The directory of a model named by a directory, ``packaged:<asset>`` or a hub name (downloaded if need be).

    Raises AssetError where there is none.
    """
    found = Path(resolve(str(reference), "model")).expanduser()
    if found.is_dir():
        return found
    try:
        return Path(snapshot_download(str(reference), allow_patterns=HUB_FILES))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AssetError(f"{reference} is neither a model directory nor a hub model we can reach ({reason})",
                         "give a directory, a hub name, or packaged:<asset>") from None


def teacher_identity(path_or_name: str | Path) -> str:
    """A readable and unmistakable name of a model, such as ``LlamaForCausalLM-576x30-0a1b2c3d4e5f``.

    Architecture, hidden width x layers, then 12 hex characters of a digest over config.json (without the keys that
    merely record how it was saved) and the SHA-256 of every weight file. The same weights split into other files are
    another identity. Raises AssetError for a directory without config.json or weights.
    """
    directory = model_directory(path_or_name)
    try:
        config = read_json(directory / "config.json")
    except DataError as error:
        raise AssetError(f"{directory} is not a model: {error.what}", "give a saved Hugging Face model") from None
    weights = weight_files(directory)
    if not weights:
        raise AssetError(f"{directory} has no weight files", "give a directory with *.safetensors")
    body = {key: value for key, value in config.items() if key not in NOT_THE_MODEL}
    digest = digest_of({"config": body, "weights": {file.name: remembered_sha256(file) for file in weights}})
    return f"{readable(config)}-{digest[:12]}"


def weight_files(directory: Path) -> list[Path]:
    """The weights in ``directory``, sorted by name: safetensors, or PyTorch files where there are none."""
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        if found := sorted(directory.glob(pattern)):
            return found
    return []


def readable(config: dict[str, Any]) -> str:
    inner = config.get("text_config", config)
    name = (config.get("architectures") or [config.get("model_type", "model")])[0]
    return f"{name}-{inner.get('hidden_size', 0)}x{inner.get('num_hidden_layers', 0)}"


def remembered_sha256(file: Path) -> str:
    """SHA-256 of ``file``, read once per (path, size, modification time)."""
    real = file.resolve()
    state = real.stat()
    name = digest_of([str(real), state.st_size, state.st_mtime_ns])
    memory = home() / "digests" / f"{name}.json"
    with contextlib.suppress(DataError, KeyError, TypeError):
        return str(read_json(memory)["sha256"])
    digest = sha256_file(real)
    with contextlib.suppress(OSError):  # a read-only cache costs time, not the run
        write_json(memory, {"sha256": digest, "file": os.fspath(real)})
    return digest
