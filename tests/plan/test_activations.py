"""What is counted on fake tensors is what real ones take."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, Qwen2Config

from salad_ds.model.adapter import CausalAdapter
from salad_ds.plan.activations import Held, Work, activation_bytes, drop_gradient, forward, measured
from salad_ds.plan.shapes import causal_lm
from tests.bench.memory_job import risen

ADAPTER = {"layers": 1, "width": 32, "mlp": 48, "heads": 4, "kv_heads": 2, "stack": 4}
WORK = Work(rows=2, width=128, spans=6, frames=32, spoken=40, targets=100, kept=16, live_width=0, checkpointing=False,
            masked=True, dtype=torch.float32, cuda=False)  # fmt: skip


def config(layers: int = 5, kind: type = LlamaConfig) -> LlamaConfig:
    return kind(vocab_size=2048, hidden_size=128, intermediate_size=384, num_hidden_layers=layers,
                num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)  # fmt: skip


def really(work: Work, layers: int) -> int:
    """Peak bytes of the same with numbers, as torch's profiler tells of them."""
    llm, adapter = causal_lm(config(layers)).train(), CausalAdapter(64, 128, **ADAPTER)
    if work.checkpointing:
        llm.gradient_checkpointing_enable({"use_reentrant": False})
    for parameter in nn.ModuleList([llm, adapter]).parameters():
        parameter.register_post_accumulate_grad_hook(drop_gradient)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as prof:
        forward(llm, adapter, 64, work, lambda _: None).backward()
    return risen(prof)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_fake_tensors_count_what_real_ones_take(checkpointing):
    work = replace(WORK, checkpointing=checkpointing)
    fake = max(measured(config(3), 3, ADAPTER, 64, work).values())
    assert fake == pytest.approx(really(work, 3), rel=0.03)


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])
def test_two_layers_tell_of_all(kind):
    for checkpointing in (False, True):
        work = replace(WORK, checkpointing=checkpointing)
        whole = measured(config(6, kind), 6, ADAPTER, 64, work)
        told = activation_bytes(config(6, kind), ADAPTER, 64, work)
        assert {name: told[name] for name in whole} == pytest.approx(whole, rel=0.02)


def test_activations_follow_rows_dtype_and_checkpointing():
    peak = lambda **changes: max(activation_bytes(config(), ADAPTER, 64, replace(WORK, **changes)).values())  # noqa: E731
    one = peak()
    assert 1.6 * one < peak(rows=4, spans=12, spoken=80, targets=200) < 2.1 * one
    assert peak(dtype=torch.bfloat16) < 0.75 * one
    assert peak(checkpointing=True) < 0.6 * one
    assert peak(masked=False) < one  # a mask in every layer


def test_held_counts_storages_once_and_until_they_are_freed():
    with Held() as held:
        a = torch.empty(1000)
        view = a[10:]
        assert held.now == 4000
        held.begin("next")
        b = torch.empty(500)
        del b
        assert held.now == 4000 and held.peaks == {"forward": 4000, "next": 6000}
        del a
        assert held.now == 4000
        del view
        assert held.now == 0 and held.peak == 6000
