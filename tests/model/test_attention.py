"""Packed rows: every attention gives each sequence what it gets alone, and an impossible one is refused."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaForCausalLM
from transformers.masking_utils import flash_attention_mask

from salad_ds.errors import RecipeError
from salad_ds.model import attention as subject
from salad_ds.model.attention import BOUNDED, choose, packing, require_support

SEQUENCES = [[20, 30, 14], [64], [1, 40, 1, 1, 21]]
"""Lengths in three rows of 64 positions; single positions among them, and a row that is one sequence."""


def bounds_attention(module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, **others):
    """What a kernel that is told the bounds computes, sequence by sequence in float64; without bounds it fails."""
    assert attention_mask is None and cu_seq_lens_q is not None
    rows, heads, width, size = query.shape
    q, k, v = (x.transpose(1, 2).reshape(rows * width, -1, size).double() for x in (query, key, value))
    groups = heads // k.shape[1]
    parts = []
    for begin, end in zip(cu_seq_lens_q, cu_seq_lens_q[1:], strict=False):
        scores = torch.einsum("qhd,khd->hqk", q[begin:end], k[begin:end].repeat_interleave(groups, 1)) * scaling
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        parts.append(torch.einsum("hqk,khd->qhd", weights, v[begin:end].repeat_interleave(groups, 1)))
    return torch.cat(parts).to(query.dtype).view(rows, width, heads, size), None


@pytest.fixture(scope="module", autouse=True)
def bounds_kernel():
    """The reference above as an attention of transformers, with the mask that FlashAttention gets."""
    AttentionInterface.register("bounds", bounds_attention)
    AttentionMaskInterface.register("bounds", flash_attention_mask)


def llama(attention: str, heads: int = 4, size: int = 32) -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=heads * size,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).eval()


def hidden(model: LlamaForCausalLM, embeddings: torch.Tensor, lengths: list[list[int]]) -> torch.Tensor:
    """Hidden states [B, T, H] of rows of packed sequences, as the student asks for them."""
    position_ids = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths]).to(embeddings.device)
    apart = packing(model.config._attn_implementation, position_ids)
    return model.get_decoder()(
        inputs_embeds=embeddings, position_ids=position_ids, use_cache=False, **apart
    ).last_hidden_state


def embeddings() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((3, 64, 128))).float()


@pytest.fixture(scope="module")
def alone() -> torch.Tensor:
    """Each sequence by itself, with eager attention: [3, 64, H]."""
    model, rows = llama("eager"), []
    with torch.no_grad():
        for row, lengths in zip(embeddings(), SEQUENCES, strict=True):
            parts = torch.split(row, lengths)
            rows.append(torch.cat([hidden(model, part[None], [[len(part)]])[0] for part in parts]))
    return torch.stack(rows)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "varlen", "flex_attention", "bounds"])
def test_a_packed_sequence_gets_what_it_gets_alone(attention, alone, monkeypatch):
    """flex_attention runs uncompiled here, varlen has bounds but no kernel on a CPU: it goes the way of a mask."""
    monkeypatch.setattr(subject, "BOUNDED", ("bounds",))
    slow = torch.compiler.set_stance("force_eager") if attention == "flex_attention" else contextlib.nullcontext()
    model = llama(attention)
    with torch.no_grad(), slow:
        together = hidden(model, embeddings(), SEQUENCES)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_without_bounds_flash_attention_would_let_sequences_see_each_other(alone):
    """Why they are handed over: the mask that transformers gives it says nothing about packing in a batch of rows."""
    seen = []

    def spy(module, query, key, value, attention_mask, **others):
        seen.append((attention_mask, others.get("cu_seq_lens_q")))
        return bounds_attention(module, query, key, value, attention_mask, **others)

    AttentionInterface.register("spy", spy)
    AttentionMaskInterface.register("spy", flash_attention_mask)
    model = llama("spy")
    position_ids = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in SEQUENCES])
    with pytest.raises(AssertionError):
        model.get_decoder()(inputs_embeds=embeddings(), position_ids=position_ids, use_cache=False)
    assert seen == [(None, None)]


def test_the_bounds_are_those_of_the_sequences():
    position_ids = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in SEQUENCES])
    told = packing("flash_attention_2", position_ids)
    expected = np.cumsum([0, *[n for row in SEQUENCES for n in row]]).tolist()
    assert told["cu_seq_lens_q"].tolist() == told["cu_seq_lens_k"].tolist() == expected
    assert told["cu_seq_lens_q"].dtype == torch.int32 and told["max_length_q"] == told["max_length_k"] == 64
    assert told["attention_mask"].all() and packing("sdpa", position_ids) == {}


def test_varlen_without_bounds_is_a_prompt(alone):
    """Left-padded prompts and generation go on working: the same as sdpa."""
    ids = torch.arange(12).view(2, 6) + 1
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "attention_mask": mask}
    assert torch.equal(llama("varlen").generate(ids, **settings), llama("sdpa").generate(ids, **settings))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "attention, reason",
    [("varlen", "CUDA"), ("flash_attention_2", "flash-attn"), ("flex_attention", "no backward")],
)
def test_what_cannot_train_here_is_refused(attention, reason):
    with pytest.raises(RecipeError, match=f"model.attention is {attention}.*{reason}"):
        choose(attention, torch.float32)


def test_auto_takes_what_runs():
    assert choose("auto", torch.float32) == "sdpa" and choose("sdpa", torch.bfloat16) == "sdpa"
    assert choose("auto", torch.bfloat16) in ("sdpa", "varlen")


def test_a_model_that_cannot_be_told_is_refused():
    deaf = llama("varlen")
    require_support(deaf)
    deaf._supports_attention_backend = False
    with pytest.raises(RecipeError, match="cannot keep packed sequences apart"):
        require_support(deaf)
    capped = llama("varlen")
    capped.config.attn_logit_softcapping = 30.0
    with pytest.raises(RecipeError, match="caps its attention scores"):
        require_support(capped)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("attention", [*BOUNDED, "flex_attention", "sdpa"])
def test_on_a_gpu_packed_is_alone_forward_and_backward(attention, alone):
    """bfloat16 against float32 on the CPU; the gradient of one sequence reaches no other."""
    try:
        choose(attention, torch.bfloat16)
    except RecipeError as error:
        pytest.skip(str(error))
    model = llama(attention).to("cuda", torch.bfloat16)
    rows = embeddings().to("cuda", torch.bfloat16).requires_grad_()
    together = hidden(model, rows, SEQUENCES)
    error = (together.float().cpu() - alone).norm() / alone.norm()
    assert error < 2e-2, error
    together[0, 20:50].square().sum().backward()  # the second sequence of the first row
    touched = rows.grad.abs().sum(-1) > 0
    assert touched[0, 20:50].all() and touched.sum() == 30
