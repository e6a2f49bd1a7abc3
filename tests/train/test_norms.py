"""The norms by part, of gradients that no rank holds whole, are those of one plain process; and what a step says of its
work is what the batch holds."""

from __future__ import annotations

import json
import math

import pytest
import torch

from salad_ds.config import TrainConfig
from salad_ds.model.flops import numel, shape_of
from salad_ds.train.engine import freeze
from tests.train.launch import forked
from tests.train.parity import ROWS, batches, plain, rows_of, student

pytestmark = [pytest.mark.slow, pytest.mark.assets, pytest.mark.timeout(1800)]

ZERO = {
    "zero3": {"stage": 3},
    "zero3-host": {"stage": 3, "offload_optimizer": {"device": "cpu", "pin_memory": False}},
    "zero2": {"stage": 2},
    "zero1": {"stage": 1},
}


@pytest.fixture(scope="module")
def records(tiny_untied_llm_dir, tmp_path_factory):
    """By configuration: what the first step of two ranks tells."""
    room = tmp_path_factory.mktemp("norms")
    for name, settings in ZERO.items():
        config = {"zero_optimization": settings, "zero_force_ds_cpu_optimizer": False, "steps_per_print": 10**9}
        (room / f"{name}.json").write_text(json.dumps(config))
    forked(2, "tests.train.norms_job", tiny_untied_llm_dir, room / "records.json",
           *[room / f"{name}.json" for name in ZERO], log=room / "log", timeout=540)  # fmt: skip
    found = json.loads((room / "records.json").read_text())
    return {name: found[str(room / f"{name}.json")] for name in ZERO}


@pytest.fixture(scope="module")
def expected(tiny_untied_llm_dir):
    """Norms by part, in float64, from a plain process."""
    _, gradients, _ = plain(str(tiny_untied_llm_dir), 1, 0.75)
    squares = {"adapter": 0.0, "embeddings": 0.0, "llm": 0.0, "head": 0.0}
    for name, gradient in gradients.items():
        part = ("adapter" if name.startswith("adapter.") else "embeddings" if "embed_tokens" in name
                else "head" if "lm_head" in name else "llm")  # fmt: skip
        squares[part] += float(gradient.double().square().sum())
    return {part: math.sqrt(square) for part, square in squares.items()}


@pytest.mark.parametrize("zero", ZERO)
def test_shares_of_gradients_have_the_norms_of_the_whole(zero, records, expected):
    record = records[zero]
    found = {part: record[f"grad_norm_{part}"] for part in expected}
    assert min(expected.values()) > 0 and found == pytest.approx(expected, rel=1e-5)
    assert math.hypot(*found.values()) == pytest.approx(record["grad_norm"], rel=1e-5)
    assert record["loss_scale"] == 1.0


def test_a_tied_table_is_one_part(tiny_llm_dir):
    from salad_ds.train.norms import parts_of

    model = student(str(tiny_llm_dir))
    model.detach_encoder()
    assert set(parts_of(model).values()) == {"adapter", "embeddings", "llm"}


def test_a_step_counts_what_it_saw(records, tiny_untied_llm_dir):
    """Positions, speech, pairs and seconds of all ranks together; rates are these over the time."""
    model = student(str(tiny_untied_llm_dir))
    encoder = model.encoder
    sequences = [sequence for row in rows_of(model, encoder, 0) for sequence in row]
    record = records["zero3"]
    assert record["positions"] == sum(sequence.positions for sequence in sequences)
    assert record["attention_pairs"] == sum(n * (n + 1) / 2 for n in (sequence.positions for sequence in sequences))
    assert record["speech_positions"] == sum(p.positions for s in sequences for p in s.pieces if p.speech)
    heard = sum(len(batch.audio[i][: batch.audio_lengths[i]]) for batch in batches(rows_of(model, encoder, 0), ROWS)
                for i in range(len(batch.audio))) / 16000  # fmt: skip
    assert record["audio_seconds"] == pytest.approx(heard + 0.05)  # a row without speech hears the dummy clip
    assert record["positions_per_second"] == record["positions"] / 2 and record["mfu"] > 0


def test_a_gpu_is_known_by_the_name_it_gives_itself():
    from salad_ds.train.speed import published_peak

    assert published_peak("NVIDIA H100 80GB HBM3") == 989e12 and published_peak("NVIDIA A100-SXM4-40GB") == 312e12
    assert published_peak("NVIDIA H100 PCIe") == published_peak("Tesla T4") == 0.0


def test_flops_are_those_that_torch_counts(tiny_untied_llm_dir):
    """Of a text of 40 tokens, against torch's counter on the LLM's own forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    model = student(str(tiny_untied_llm_dir))
    model.llm.set_attn_implementation("eager")
    shape = shape_of(model)
    length = 40
    with FlopCounterMode(display=False) as counter:
        model.llm(torch.randint(5, 49000, (1, length)), use_cache=False).logits.sum().backward()
    # torch counts the whole square of attention, of which a causal model needs the lower half; and no gradient of the
    # first layer's inputs is left out, for they come from a table that is trained
    ours = shape.training(length, length, 0, length * length)
    assert ours == pytest.approx(counter.get_total_flops(), rel=1e-3)
    assert shape.training(length, length, 10, 0) - shape.training(length, length, 0, 0) == 6 * shape.adapter * 10
    assert shape.head == 49152 * 32
    assert shape.adapter == sum(numel(p) for n, p in model.adapter.named_parameters() if n.endswith("weight")
                                and p.dim() == 2)  # fmt: skip


def test_a_frozen_llm_needs_two_passes_of_its_products(tiny_untied_llm_dir):
    """By torch's counter: forward, and the gradient of what came in, which is what the adapter learns from."""
    from torch.utils.flop_counter import FlopCounterMode

    model = student(str(tiny_untied_llm_dir))
    model.llm.set_attn_implementation("eager")
    freeze(model, TrainConfig(sources=[], lr_llm=0.0))
    shape, length = shape_of(model), 40
    heard = torch.randn(1, length, 32, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model.llm(inputs_embeds=heard, use_cache=False).logits.sum().backward()
    assert shape.training(length, length, 0, length * length) == pytest.approx(counter.get_total_flops(), rel=1e-3)
    assert shape.training(0, 0, 10, 0) == 6 * shape.adapter * 10
    freeze(model, TrainConfig(sources=[], lr_adapter=0.0))
    assert shape_of(model).training(0, 0, 10, 0) == 2 * shape.adapter * 10
