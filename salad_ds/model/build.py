"""A fresh student from a recipe: the LLM and the encoder as they were trained, an adapter that knows nothing yet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from salad_ds import onednn
from salad_ds.assets import resolve
from salad_ds.config import ModelConfig
from salad_ds.errors import CheckpointError, RecipeError
from salad_ds.model.adapter_weights import begin_with
from salad_ds.model.attention import choose, require_support
from salad_ds.model.encoder import SpeechEncoder, build_encoder
from salad_ds.model.salad import SaladConfig, SaladForConditionalGeneration
from salad_ds.text import start_token, tokenizer_identity


def torch_dtype(name: str) -> torch.dtype:
    """The recipe's dtype where an accelerator runs it; float32 on CPU."""
    return torch.float32 if not torch.cuda.is_available() else getattr(torch, name)


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of the recipe's LLM. Raises RecipeError naming the model when it cannot be loaded."""
    return _load(AutoTokenizer.from_pretrained, config.tokenizer or config.llm, "tokenizer")


def load_llm(reference: str, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """Any causal LLM of transformers. Raises RecipeError naming the model when it cannot be loaded."""
    onednn.use()
    return _load(AutoModelForCausalLM.from_pretrained, reference, "LLM", dtype=dtype, attn_implementation=attention)


def _load(loader: Any, reference: str, what: str, **settings: Any) -> Any:
    try:
        return loader(str(resolve(reference)), **settings)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{what} {reference!r} cannot be loaded: {' '.join(str(error).split())[:300]}",
            "give a hub name, a directory, or packaged:<asset> (see python -m salad_ds.assets)",
        ) from None


def build_student(
    config: ModelConfig, loading: contextlib.AbstractContextManager[None] | None = None
) -> tuple[SaladForConditionalGeneration, PreTrainedTokenizerBase]:
    """LLM and encoder pretrained, adapter freshly initialised from ``config.seed`` or ``config.adapter_weights``.

    ``loading``: a context for loading the LLM alone, such as one that shards it on arrival. Raises RecipeError for
    what cannot be loaded.
    """
    tokenizer = load_tokenizer(config)
    dtype = torch_dtype(config.dtype)
    attention = choose(config.attention, dtype)
    with loading or contextlib.nullcontext():
        llm = load_llm(config.llm, dtype, attention)
    require_support(llm)
    encoder = build_encoder(config.encoder)
    settings = student_config(config, llm.config, encoder, tokenizer, embedding_rms(llm))
    settings._attn_implementation = attention
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = SaladForConditionalGeneration(settings, llm=llm, encoder=encoder)
    for parameter in model.adapter.parameters():  # parameters only: rotary frequencies stay float32
        parameter.data = parameter.data.to(dtype)
    if config.adapter_weights:
        begin_with(model, config)
    return model, tokenizer


def student_config(
    config: ModelConfig, text: PretrainedConfig, encoder: SpeechEncoder, tokenizer: PreTrainedTokenizerBase, rms: float
) -> SaladConfig:
    """The config of the student that a recipe describes. ``text``: its LLM's; ``rms``: of its LLM's embeddings."""
    text.name_or_path = config.llm  # as the recipe names it: config.json shall not tell where it lay on this machine
    return SaladConfig(
        text_config=text,
        encoder=encoder.to_dict(),
        start_token_id=start_token(tokenizer),
        sampling_rate=encoder.sample_rate,
        adapter={
            "layers": config.adapter.layers,
            "width": config.adapter.width,
            "mlp": config.adapter.mlp,
            "heads": config.adapter.heads,
            "kv_heads": config.adapter.kv_heads,
            "stack": config.adapter.stack,
            "output_rms": rms,
        },
    )


LLM_SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")


def require_recipe(
    model: SaladForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, config: ModelConfig
) -> None:
    """Refuse a saved student that is not of this recipe: its ids, frames or widths would mean something else.

    Raises CheckpointError naming what differs.
    """
    text = AutoConfig.from_pretrained(str(resolve(config.llm)))
    own, adapter = model.config, vars(config.adapter)
    pairs = {
        "tokenizer": (tokenizer_identity(tokenizer), tokenizer_identity(load_tokenizer(config))),
        "LLM": tuple([getattr(c, key) for key in LLM_SHAPE] for c in (own.text_config, text)),
        "encoder": (own.encoder["name"], config.encoder.name),
        "kind of features": (own.encoder.get("features", "latents"), config.encoder.features),
        "adapter": ({key: own.adapter[key] for key in adapter}, adapter),
    }
    for what, (found, wanted) in pairs.items():
        if found != wanted:
            raise CheckpointError(
                f"the student is from another recipe: its {what} is {found}, the recipe's {wanted}",
                "give a student of this recipe, or the recipe of this student",
            )


def embedding_rms(llm: PreTrainedModel) -> float:
    """Root mean square of the LLM's token embeddings as its layers see them."""
    table = llm.get_input_embeddings()
    with gathered(table.weight), torch.no_grad():
        ids = torch.arange(0, table.weight.shape[0], max(table.weight.shape[0] // 4096, 1), device=table.weight.device)
        return float(table(ids).float().square().mean().sqrt())


@contextlib.contextmanager
def gathered(parameter: torch.nn.Parameter) -> Iterator[None]:
    """The whole parameter, where ZeRO-3 has sharded it."""
    if hasattr(parameter, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            yield
    else:
        yield
