"""The student: a text LLM, a frozen speech encoder and the adapter between them."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class EncoderConfig:
    """The frozen speech encoder."""

    kind: str = "mimi"
    """``mimi``, ``whisper`` or ``hf`` (any AutoModel that maps a waveform to ``last_hidden_state``)."""
    name: str = "kyutai/mimi"
    """Hub name, directory, or ``packaged:<asset>``."""
    features: str = "latents"
    """``latents``: what the encoder puts out. ``codes`` (mimi): the same after quantisation, rebuilt from the codes of
    all codebooks: another, poorer feature, whose cache is 23 times smaller than that of float16 latents."""


@dataclass
class AdapterConfig:
    """The causal transformer between encoder and LLM (SALAD, arXiv 2510.13632, 'The model'), by default the paper's."""

    layers: int = 12
    """Transformer layers."""
    width: int = 960
    """Of its hidden states."""
    mlp: int = 2560
    """Width within its MLP blocks."""
    heads: int = 15
    """Query heads; a divisor of ``width``."""
    kv_heads: int = 5
    """Key and value heads (grouped-query attention); a divisor of ``heads``."""
    stack: int = 1
    """Encoder frames concatenated into one adapter position; 4 brings Whisper's 50 frames/s to Mimi's 12.5."""


@dataclass
class ModelConfig:
    llm: str = MISSING
    """The text LLM that is taught to hear: hub name, directory, or ``packaged:<asset>``."""
    tokenizer: str | None = None
    """Its tokenizer; by default that of ``llm``."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    adapter_weights: str | None = None
    """An adapter that was trained before, for a fresh student to start from: ``published:NAME`` (salad_ds/adapters), a
    saved student's directory, or one of ``salad-ds export --adapter``. Its sizes must be those of ``adapter``. By
    default random numbers."""
    dtype: str = "float32"
    """``float32`` or ``bfloat16``. On CPU always float32: bfloat16 is 20-100 times slower there."""
    attention: str = "auto"
    """How the LLM keeps the sequences of a packed row apart (model/attention.py): ``sdpa`` and ``eager`` with a mask;
    ``varlen`` with the FlashAttention inside torch (CUDA, bfloat16); ``flash_attention_2`` with the flash-attn package;
    ``flex_attention`` (CUDA). ``auto``: ``varlen`` where it runs, else ``sdpa``."""
    gradient_checkpointing: bool = False
    """Recompute the LLM's activations in backward."""
    seed: int = 0
    """Initialises the adapter."""
