"""Attention over packed rows: no sequence of a row sees another.

A row is several sequences behind each other; ``position_ids`` begin again at 0 with each. How the attention learns of
it depends on ``model.attention``:

- ``eager``, ``sdpa``: transformers sees the position ids and builds a block mask [B, 1, T, T]. Runs everywhere.
- ``flex_attention``: the same as a sparse block mask for torch's compiled FlexAttention. CUDA; on a CPU it has no
  backward.
- ``varlen``: the FlashAttention kernel that torch itself carries, told where each sequence begins. CUDA with 16-bit
  weights. No mask, no package.
- ``flash_attention_2``: the flash-attn package, through transformers, told the same.
- ``auto``: ``varlen`` where it runs, else ``sdpa``.

FlashAttention in transformers finds packed sequences by itself in a batch of one row only: with more rows, or with
padding behind the last sequence, it would silently let sequences see each other. So the bounds are always handed to it,
with the rows of a batch laid behind each other (``packing``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available

from salad_ds.errors import RecipeError

BOUNDED = ("varlen", "flash_attention_2")
"""Kernels that are told where sequences begin."""


def choose(attention: str, dtype: torch.dtype) -> str:
    """The attention to load models with, on this machine, for weights of ``dtype``.

    Raises RecipeError for one that cannot train here.
    """
    cuda = torch.cuda.is_available()
    half = dtype in (torch.float16, torch.bfloat16)
    ampere = cuda and torch.version.hip is None and torch.cuda.get_device_capability()[0] >= 8
    if attention == "auto":
        return "varlen" if ampere and half else "sdpa"
    lacks = None
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        lacks = "the package flash-attn and a CUDA device"
    elif attention in BOUNDED and not (cuda and half):
        lacks = f"CUDA and 16-bit weights (model.dtype=bfloat16), not {'CUDA' if cuda else 'a CPU'} and {dtype}"
    elif attention == "varlen" and not ampere:
        lacks = "an NVIDIA GPU of compute capability 8.0 or newer"
    elif attention == "flex_attention" and not cuda:
        lacks = "a CUDA device: on a CPU it has no backward"
    if lacks:
        raise RecipeError(f"model.attention is {attention}, which needs {lacks}", "take model.attention=auto")
    return attention


def require_support(model: PreTrainedModel) -> None:
    """Raises RecipeError for a model whose code does not hand sequence bounds on to the kernel that needs them, or that
    caps its attention scores, which torch's kernel cannot."""
    decoder = model.get_decoder()
    attention = decoder.config._attn_implementation
    capped = getattr(decoder.config, "attn_logit_softcapping", None) is not None
    if attention in BOUNDED and not model._supports_attention_backend:
        raise RecipeError(
            f"{type(model).__name__} cannot keep packed sequences apart with model.attention={attention}",
            "take model.attention=sdpa",
        )
    if attention == "varlen" and capped:
        raise RecipeError(
            f"{type(model).__name__} caps its attention scores, which model.attention=varlen cannot",
            "take model.attention=flash_attention_2, or eager",
        )


def packing(attention: str | None, position_ids: Tensor) -> dict[str, Any]:
    """Arguments for a decoder's forward that keep the sequences of packed rows apart.

    ``position_ids`` [B, T]: 0 where a sequence begins; rows begin with one. For a kernel that is told, with the rows
    laid behind each other: bounds [sequences + 1] int32, the length of the longest, and a mask that says 'no padding',
    so that no [T, T] mask is built. Reading the longest waits for the device once per forward.
    """
    if attention not in BOUNDED:
        return {}
    begins = (position_ids.reshape(-1) == 0).nonzero()[:, 0].to(torch.int32)
    bounds = torch.cat([begins, begins.new_tensor([position_ids.numel()])])
    longest = int((bounds[1:] - bounds[:-1]).max())
    return {
        "attention_mask": torch.ones_like(position_ids),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """torch's FlashAttention over packed rows: query [B, heads, T, D], key and value [B, kv heads, T, D] to [B, T,
    heads, D]. Where no bounds are given (a prompt, a measurement's padded batch) it is ``sdpa``."""
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    from torch.nn.attention.varlen import varlen_attn

    rows, heads, width, size = query.shape
    q, k, v = (x.transpose(1, 2).reshape(rows * width, -1, size) for x in (query, key, value))
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    out = varlen_attn(
        q, k, v, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q,
        scale=scaling, window_size=window, enable_gqa=k.shape[1] != heads,
    )  # fmt: skip
    return out.view(rows, width, heads, size), None  # type: ignore[union-attr]  # a tuple with return_aux only


AttentionInterface.register("varlen", varlen_attention)
AttentionMaskInterface.register("varlen", sdpa_mask)
