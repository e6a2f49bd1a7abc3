"""What the models of a recipe are, from their configurations alone: nothing is downloaded where a table knows, and no
weight is read anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from salad_ds.assets.cache import directory_of, is_prepared
from salad_ds.assets.catalogue import find
from salad_ds.config import Recipe
from salad_ds.errors import RecipeError
from salad_ds.model.adapter import CausalAdapter
from salad_ds.model.encoder import encoder_from_dict
from salad_ds.model.encoder_base import SpeechEncoder

TABLE: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(Path(__file__).with_name("models.yaml").read_text())
PACKAGED = "packaged:"
T = TypeVar("T")


@dataclass(frozen=True)
class Shapes:
    """The modules of a recipe on the meta device. ``body``: the LLM that is trained with ``adapter``; ``encoder``: the
    frozen one; ``teacher``: the LLM that teaches."""

    body: PreTrainedModel
    adapter: CausalAdapter
    encoder: SpeechEncoder
    teacher: PreTrainedModel

    @property
    def trained(self) -> int:
        """Parameters that are trained, a tied one counted once."""
        return count(self.adapter) + count(self.body)

    @property
    def frozen(self) -> int:
        """Parameters of the encoder."""
        return count(self.encoder)


def tied(llm: PreTrainedModel) -> bool:
    return llm.get_output_embeddings().weight is llm.get_input_embeddings().weight


def head_of(llm: PreTrainedModel) -> int:
    """Parameters of the output layer."""
    return int(llm.get_output_embeddings().weight.numel())


def layers_of(llm: PreTrainedModel) -> int:
    """Parameters that every position passes: all but input embeddings and head."""
    return count(llm) - head_of(llm) - (0 if tied(llm) else int(llm.get_input_embeddings().weight.numel()))


def count(module: nn.Module) -> int:
    """Parameters of a module, a shared one counted once."""
    return sum(p.numel() for p in module.parameters())


def remembered(work: Callable[..., T]) -> Callable[..., T]:
    """``work``, done once for every set of arguments, which are told apart by how they print."""
    known: dict[str, T] = {}

    @wraps(work)
    def asked(*arguments: Any) -> T:
        key = repr(arguments)
        if key not in known:
            known[key] = work(*arguments)
        return known[key]

    return asked


@remembered
def shapes_of(recipe: Recipe) -> Shapes:
    """The models of a recipe. Raises RecipeError for one whose configuration is neither in the table nor at hand."""
    llm, other = llm_config(recipe.model.llm), llm_config(recipe.teacher.llm or recipe.model.llm)
    encoder = encoder_of(recipe)
    with torch.device("meta"):  # of all layers: one takes a millisecond here, and no memory
        body = causal_lm(llm)
        adapter = CausalAdapter(encoder.hidden_size, llm.get_text_config().hidden_size, **vars(recipe.model.adapter))
        teacher = body if other is llm else causal_lm(other)
    return Shapes(body, adapter, encoder, teacher)


def causal_lm(config: PretrainedConfig, attention: str = "sdpa") -> PreTrainedModel:
    """The LLM of a configuration, tied as it says. To be called where tensors hold no numbers."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    model.tie_weights()  # which the meta device forgets
    return model


@lru_cache(maxsize=16)
def llm_config(reference: str) -> PretrainedConfig:
    """The configuration of a causal LLM: from models.yaml, a directory, a prepared asset or the hub's cache."""
    if reference in TABLE["llms"]:
        return from_table("llms", reference)
    return from_files(reference, "LLM", "model.llm")


def encoder_of(recipe: Recipe) -> SpeechEncoder:
    """The encoder on the meta device. Raises RecipeError for a kind that does not fit the checkpoint."""
    wanted = recipe.model.encoder
    name = wanted.name
    config = (from_table("encoders", name) if name in TABLE["encoders"]
              else from_files(name, "speech encoder", "model.encoder.name"))  # fmt: skip
    kind = {"whisper": "whisper", "mimi": "mimi"}.get(config.model_type, "hf")
    if kind != wanted.kind:
        raise RecipeError(f"model.encoder.kind is {wanted.kind}, but {name} is a {config.model_type}",
                          f"set model.encoder.kind={kind}")  # fmt: skip
    described = {"kind": kind, "name": name, "config": config.to_dict(), "features": wanted.features,
                 "sample_rate": 16_000, "normalize": True}  # fmt: skip
    with torch.device("meta"):
        return encoder_from_dict(described)


def from_table(group: str, name: str) -> PretrainedConfig:
    settings = dict(TABLE[group][name])
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def from_files(reference: str, what: str, key: str) -> PretrainedConfig:
    """A config.json that is at hand: planning prepares no asset and downloads no weight."""
    place = reference
    if reference.startswith(PACKAGED):
        asset = find(reference.removeprefix(PACKAGED))
        if not is_prepared(asset):
            raise RecipeError(f"the {what} {reference} has not been prepared on this machine",
                              f"python -m salad_ds.assets {asset.name}")  # fmt: skip
        place = str(directory_of(asset))
    try:
        return AutoConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        known = ", ".join(name for group in TABLE.values() for name in group if not name.startswith(PACKAGED))
        raise RecipeError(
            f"the configuration of the {what} {reference!r} is not at hand: {' '.join(str(error).split())[:120]}",
            f"set {key} to a directory with its config.json (weights are not needed), or to one that is known "
            f"without a hub: {known}",
        ) from None
