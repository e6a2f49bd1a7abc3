"""Whose weights they are: config, tokenizer and encoder of the student that a checkpoint belongs to, without its LLM's
weights."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from salad_ds.assets import resolve
from salad_ds.config import Recipe
from salad_ds.errors import CheckpointError
from salad_ds.export.tensors import Entry
from salad_ds.export.weights import Held, Weights, in_memory, open_weights
from salad_ds.files import read_json
from salad_ds.model.build import build_student, embedding_rms, load_llm, load_tokenizer, student_config, torch_dtype
from salad_ds.model.encoder import build_encoder
from salad_ds.model.salad import SaladConfig, SaladForConditionalGeneration

ENCODER = "encoder."


@dataclass
class Skeleton:
    """``model``: the student on the meta device, its encoder taken out; ``encoder``: the encoder's weights by their
    names in the student; ``frozen``: what its stage does not train, which no checkpoint of it holds."""

    model: SaladForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    encoder: dict[str, Held]
    frozen: dict[str, Held] = field(default_factory=dict)


def skeleton_of_stage(recipe: Recipe, stage: str, only: str = "") -> Skeleton:
    """That of a student that is being trained: of the recipe's models, or of the student that the stage began with.
    ``only``: beginning of the names of the weights that are wanted.

    Raises CheckpointError where that is not there any more.
    """
    begun = recipe.stages[stage].init_from
    if begun is not None:
        earlier = recipe.path(begun) / "model" if begun in recipe.stages else Path(begun)
        if not (earlier / "config.json").is_file():
            raise CheckpointError(f"{stage} began with the student in {earlier}, which is not there",
                                  "export where the run was trained")
        return replace(skeleton_of_student(earlier), frozen=frozen(recipe, stage, earlier, only))
    tokenizer, encoder = load_tokenizer(recipe.model), build_encoder(recipe.model.encoder)
    text = AutoConfig.from_pretrained(resolve(recipe.model.llm))
    config = student_config(recipe.model, text, encoder, tokenizer, first_rms(recipe.model.llm, text))
    weights = {f"{ENCODER}{name}": in_memory(value) for name, value in encoder.state_dict().items()}
    return Skeleton(on_meta(config, resolve(recipe.model.llm)), tokenizer, weights,
                    frozen(recipe, stage, None, only))


def frozen(recipe: Recipe, stage: str, begun: Path | None, only: str) -> dict[str, Held]:
    """The weights of parts with a learning rate of 0, as they were when the stage began: with the student ``begun``, or
    with the recipe's models, which are then held in memory."""
    rates = {"adapter.": recipe.stages[stage].lr_adapter, "llm.": recipe.stages[stage].lr_llm}
    parts = tuple(part for part, rate in rates.items() if not rate and part.startswith(only))
    if not parts:
        return {}
    if begun is not None:
        weights = open_weights(begun).parameters
    elif parts == ("llm.",):
        llm = load_llm(recipe.model.llm, torch_dtype(recipe.model.dtype), "eager")
        weights = {f"llm.{name}": in_memory(value) for name, value in llm.state_dict().items()}
    else:
        model = build_student(replace(recipe.model, attention="eager"))[0]
        weights = {name: in_memory(value) for name, value in model.state_dict().items()}
    return {name: held for name, held in weights.items() if name.startswith(parts)}


def skeleton_of_student(directory: Path) -> Skeleton:
    """That of a saved student."""
    weights = open_weights(directory).parameters
    encoder = {name: held for name, held in weights.items() if name.startswith(ENCODER)}
    config = SaladConfig.from_pretrained(directory)
    return Skeleton(on_meta(config, directory), AutoTokenizer.from_pretrained(directory), encoder)


def on_meta(config: SaladConfig, ending: str | Path) -> SaladForConditionalGeneration:
    """``ending``: the model whose generation_config.json says what ends an answer."""
    with torch.device("meta"):
        model = SaladForConditionalGeneration(config)
    model.detach_encoder()
    with contextlib.suppress(OSError):  # it has none: config.json says it
        model.llm.generation_config = GenerationConfig.from_pretrained(ending)
    return model


def first_rms(reference: str, text: PretrainedConfig) -> float:
    """``embedding_rms`` of an LLM, from its embeddings alone where they can be read alone."""
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(text)
    table = llm.get_input_embeddings()
    name = next(name for name, value in llm.named_parameters() if value is table.weight)
    if type(table) is nn.Embedding and (path := file_of(resolve(reference), name)) is not None:
        with safe_open(path, "pt") as opened:
            table.weight = nn.Parameter(opened.get_tensor(name), requires_grad=False)
        return embedding_rms(llm)
    return embedding_rms(load_llm(reference, torch.float32, "eager"))


def file_of(source: str | Path, name: str) -> str | None:
    """The safetensors file of a model that holds the tensor ``name``, None where there is none."""
    if index := cached_file(source, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False):
        shard = read_json(index)["weight_map"].get(name)
        return cached_file(source, shard) if shard else None
    path = cached_file(source, "model.safetensors", _raise_exceptions_for_missing_entries=False)
    if path is None:
        return None
    with safe_open(path, "pt") as opened:
        return path if name in opened.keys() else None  # noqa: SIM118


def entries(skeleton: Skeleton, weights: Weights, dtype: torch.dtype | None, only: str = "") -> dict[str, Entry]:
    """What a student's weight files hold, in its own order, adapter and LLM as ``dtype`` (None: as trained). ``only``:
    beginning of the names of the weights that are wanted.

    Raises CheckpointError when the checkpoint is not of this student.
    """
    target = dtype or weights.dtype
    buffers = dict(skeleton.model.named_buffers())
    everything = [name for name in skeleton.model.state_dict() if name.startswith(only)]
    trained = {name: held for name, held in weights.parameters.items()
               if name.startswith(only) and not name.startswith(ENCODER)}  # fmt: skip
    stored = {name: held for name, held in skeleton.frozen.items() if name in everything} | trained
    wanted = {name: value for name, value in skeleton.model.named_parameters() if name.startswith(only)}
    wanted |= {name: buffers[name] for name in everything if name in buffers}
    hint = "give the recipe and overrides it was trained with"
    for told, names in (("lacks", set(wanted) - set(stored)), ("has", set(stored) - set(everything))):
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"the checkpoint {told} {min(names)}{others}, unlike the student", hint)
    found = {}
    for name, value in wanted.items():
        held = stored[name]
        if tuple(value.shape) != held.shape:
            shapes = f"{held.shape} in the checkpoint, {tuple(value.shape)} in the student"
            raise CheckpointError(f"{name} is {shapes}", hint)
        found[name] = Entry(held.shape, held.dtype if name in buffers else target, held.read)
    heard = {name: held for name, held in skeleton.encoder.items() if name.startswith(only)}
    return found | {name: Entry(held.shape, held.dtype, held.read) for name, held in heard.items()}
