"""Scores of options that share a row, against each option in a row of its own."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.measure.choices import score_options


@pytest.fixture(scope="module")
def model(student):
    return student[0]


@pytest.fixture(scope="module")
def exact(model):
    return copy.deepcopy(model).double()


def embedded(model, ids: list[int]) -> torch.Tensor:
    return model.get_input_embeddings()(torch.tensor(ids)).detach()


@torch.no_grad()
def naive(exact, prompt: torch.Tensor, option: list[int]) -> float:
    """Mean log-probability of ``option`` after ``prompt``: one plain forward pass, all logits, float64."""
    row = torch.cat([prompt.double(), embedded(exact, option)])[None]
    log_p = exact.llm(inputs_embeds=row).logits[0].log_softmax(-1)
    return sum(float(log_p[len(prompt) - 1 + k, token]) for k, token in enumerate(option)) / len(option)


tokens = st.integers(0, 49151)
option_lists = st.lists(st.lists(tokens, min_size=1, max_size=5), min_size=1, max_size=4)
items = st.lists(st.tuples(st.lists(tokens, min_size=1, max_size=12), option_lists), min_size=1, max_size=4)


@settings(max_examples=12, deadline=None)
@given(items=items)
def test_scores_are_those_of_every_option_alone(model, exact, items):
    prompts = [embedded(model, prompt) for prompt, _ in items]
    found = score_options(model, prompts, [options for _, options in items])
    assert [len(row) for row in found] == [len(options) for _, options in items]
    for prompt, (_, options), row in zip(prompts, items, found, strict=True):
        assert row == pytest.approx([naive(exact, prompt, option) for option in options], rel=1e-5)


def test_neighbours_padding_and_order_change_nothing(model):
    prompts = [embedded(model, list(range(5, 5 + n))) for n in (3, 20, 1)]
    options = [[[11, 12], [13]], [[40, 41, 42, 43, 44, 45], [46]], [[50], [51], [52, 53]]]
    together = score_options(model, prompts, options)
    for i in range(3):
        assert score_options(model, prompts[i : i + 1], options[i : i + 1])[0] == pytest.approx(together[i], rel=1e-5)
    turned = score_options(model, prompts, [row[::-1] for row in options])
    assert [row[::-1] for row in turned] == [pytest.approx(row, rel=1e-5) for row in together]
    twice = score_options(model, prompts[:1], [[[11, 12], [11, 12], [13]]])[0]
    assert twice[0] == pytest.approx(twice[1], rel=1e-6) and twice[::2] == pytest.approx(together[0], rel=1e-5)


def test_speech_in_a_prompt_is_scored_like_anything_else(model, exact):
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(1, 16000, generator=generator) * 0.1
    with torch.no_grad():
        speech = model.speech_embeddings(audio, torch.tensor([16000]))[0]
    prompt = torch.cat([embedded(model, [0, 8, 9]), speech, embedded(model, [30, 31])])
    options = [[100, 200], [300]]
    found = score_options(model, [prompt], [options])[0]
    assert found == pytest.approx([naive(exact, prompt, option) for option in options], rel=1e-5)
    assert abs(found[0] - found[1]) > 1e-3
