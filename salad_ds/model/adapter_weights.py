"""Where a fresh student's adapter begins: with random numbers, or with an adapter that was trained before
(``model.adapter_weights``).

An adapter lies in a directory with ``config.json`` (a student's) and safetensors in which its weights are called
``adapter.*``: a saved student is one, ``salad-ds export --adapter`` writes a small one, and those in
``salad_ds/adapters`` come with this package, as ``published:NAME``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from salad_ds.config import ModelConfig, plain
from salad_ds.errors import RecipeError
from salad_ds.files import read_json

if TYPE_CHECKING:
    from salad_ds.model.salad import SaladForConditionalGeneration

PUBLISHED = "published:"
SHELF = Path(__file__).parents[1] / "adapters"
PREFIX = "adapter."
PARTS = {"adapter", "encoder", "text_config"}
"""What config.json tells of a student."""
GAIN = "scale_out.weight"
"""Of the adapter's output, [LLM width]."""
KEY = "model.adapter_weights"


def find_adapter(reference: str) -> Path:
    """The directory that ``reference`` names. Raises RecipeError where there is no adapter."""
    own = reference.startswith(PUBLISHED)
    directory = SHELF / reference.removeprefix(PUBLISHED) if own else Path(reference).expanduser()
    told = described(directory)
    if all(isinstance(told.get(part), dict) for part in PARTS) and sorted(directory.glob("*.safetensors")):
        return directory
    known = ["a saved student", "a directory of salad-ds export --adapter",
             *(PUBLISHED + path.parent.name for path in sorted(SHELF.glob("*/config.json")))]  # fmt: skip
    raise RecipeError(f"{KEY} is {reference}, where no adapter lies", f"give {', '.join(known[:-1])} or {known[-1]}")


def described(directory: Path) -> dict[str, Any]:
    """Its config.json; empty where there is none, or it is no student's."""
    told = read_json(directory / "config.json") if (directory / "config.json").is_file() else {}
    return told if isinstance(told, dict) else {}


def read_adapter(directory: Path) -> dict[str, Tensor]:
    """The adapter's weights by their names in it, as they were saved. Raises RecipeError where they cannot be read."""
    found: dict[str, Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as opened:
                names = [name for name in opened.keys() if name.startswith(PREFIX)]  # noqa: SIM118
                found |= {name.removeprefix(PREFIX): opened.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:
            raise RecipeError(f"{KEY}: {path} cannot be read ({error})", "copy it anew") from None
    if not found:
        raise RecipeError(f"{KEY}: {directory} holds no weights of an adapter", "give a saved student's directory")
    return found


def adapter_identity(reference: str) -> str:
    """SHA-256 of the weights that ``reference`` names."""
    digest = hashlib.sha256()
    for name, value in sorted(read_adapter(find_adapter(reference)).items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        digest.update(value.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def model_identity(config: ModelConfig, fresh: bool = True) -> dict[str, Any]:
    """What a student of ``config`` is, and, where it is ``fresh``, the adapter's weights that it starts from, by what
    they are and not where they lie. Raises RecipeError where these are not of its kind."""
    found: dict[str, Any] = plain(config)
    if (reference := found.pop("adapter_weights")) and fresh:
        require_kind(config, reference)
        found["adapter_weights"] = adapter_identity(reference)
    return found


def require_kind(config: ModelConfig, reference: str) -> None:
    """Refuse an adapter of other sizes or for other frames than the recipe's: a RecipeError that names what to set."""
    told = described(find_adapter(reference))
    own = vars(config.adapter)
    pairs = {f"model.adapter.{key}": (own.get(key), value) for key, value in told["adapter"].items()
             if key != "output_rms"}  # fmt: skip
    for key, default in (("kind", None), ("name", None), ("features", "latents")):
        pairs[f"model.encoder.{key}"] = (getattr(config.encoder, key), told["encoder"].get(key, default))
    other = {key: (mine, its) for key, (mine, its) in pairs.items() if mine != its}
    if other:
        raise RecipeError(
            f"{KEY} {reference} is an adapter of another kind: "
            + ", ".join(f"{key} is {mine}, not {its}" for key, (mine, its) in other.items()),
            "set " + " ".join(f"{key}={its}" for key, (_, its) in other.items()),
        )


def begin_with(model: SaladForConditionalGeneration, config: ModelConfig) -> None:
    """Put the weights that ``config`` names into the adapter of ``model``, in its dtype.

    Those of another LLM of the same width are taken: a finetuned LLM's embeddings are nearly its own. Raises
    RecipeError where they do not fit.
    """
    assert config.adapter_weights is not None
    require_kind(config, config.adapter_weights)
    directory = find_adapter(config.adapter_weights)
    weights, width = read_adapter(directory), len(model.adapter.scale_out.weight)
    wide = len(weights.get(GAIN, model.adapter.scale_out.weight))  # an LLM's config may call its width anything
    if wide != width:
        raise RecipeError(f"{KEY} {config.adapter_weights} is for an LLM of width {wide}; {config.llm}'s is {width}",
                          "take the LLM that it was trained with, or another adapter")
    try:
        model.adapter.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(f"{KEY} {config.adapter_weights} is damaged: {reason}", "copy it anew") from None
