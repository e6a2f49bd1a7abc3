"""Scores of options that share a row and a prefix, against each option alone behind its whole prompt, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from salad_ds.errors import RecipeError
from salad_ds.evaluate.score import OptionScorer

VOCAB = 49152


@pytest.fixture(scope="module")
def llm(decided_llm_dir):
    return AutoModelForCausalLM.from_pretrained(decided_llm_dir).eval()


@pytest.fixture(scope="module")
def exact(llm):
    return copy.deepcopy(llm).double()


@torch.no_grad()
def naive(exact, prompt: torch.Tensor, option: list[int]) -> float:
    """Sum of log-probabilities of ``option`` after ``prompt`` [P, H]: one plain forward pass, all logits, float64."""
    table = exact.get_input_embeddings()
    row = torch.cat([prompt.double(), table(torch.tensor(option))])[None]
    log_p = exact(inputs_embeds=row, use_cache=False).logits[0].log_softmax(-1)
    return sum(float(log_p[len(prompt) - 1 + k, token]) for k, token in enumerate(option))


def check(llm, exact, prefix: list[int], prompts: list[list[int]], options: list[list[list[int]]], rel=1e-5) -> None:
    """With the prefix in every prompt and with the prefix encoded once, both against ``naive``."""
    scorer = OptionScorer(llm)
    with torch.no_grad():
        shared = scorer.table(torch.tensor(prefix)) if prefix else None
        rows = [scorer.table(torch.tensor(ids)) for ids in prompts]
        whole = [row if shared is None else torch.cat([shared, row]) for row in rows]
    expected = [[naive(exact, row, option) for option in own] for row, own in zip(whole, options, strict=True)]
    plain = scorer(whole, options)
    cached = plain if shared is None else scorer(rows, options, scorer.prefix(shared))
    for found in (plain, cached):
        for own, wanted, ids in zip(found, expected, options, strict=True):
            assert [score.tokens for score in own] == [len(option) for option in ids]
            assert [score.logprob for score in own] == pytest.approx(wanted, rel=rel)


tokens = st.integers(0, VOCAB - 1)
ids = st.lists(tokens, min_size=1, max_size=12)
items = st.lists(
    st.tuples(ids, st.lists(st.lists(tokens, min_size=1, max_size=5), min_size=1, max_size=4)), min_size=1, max_size=4
)


@settings(max_examples=12)
@given(prefix=st.lists(tokens, max_size=10), items=items)
def test_scores_are_those_of_every_option_alone(llm, exact, prefix, items):
    check(llm, exact, prefix, [prompt for prompt, _ in items], [options for _, options in items])


SHAPE = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}  # fmt: skip
LLMS = {
    "a window in all layers": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=6)),
    "a window in some layers": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=6, max_window_layers=1)),
    "capped scores and logits": lambda: Gemma2ForCausalLM(Gemma2Config(
        **SHAPE, sliding_window=6, head_dim=8, attn_logit_softcapping=1.0, final_logit_softcapping=2.0,
        attn_implementation="eager")),
    "scaled logits": lambda: GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=0.3, embedding_multiplier=3.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", LLMS)
def test_the_llms_of_others(name):
    torch.manual_seed(5)
    llm = LLMS[name]().eval()
    with torch.no_grad():
        for parameter in llm.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)  # far from uniform
    rng = torch.Generator().manual_seed(1)

    def draw(n: int) -> list[int]:
        return torch.randint(0, 300, (n,), generator=rng).tolist()

    prompts, options = [draw(n) for n in (9, 3, 1)], [[draw(4), draw(1), draw(7)], [draw(2), draw(2)], [draw(3)]]
    check(llm, copy.deepcopy(llm).double(), draw(8), prompts, options, rel=2e-5)


def test_what_lies_between_prompt_and_option_is_not_seen():
    """The same option twice has the same score, whatever stands between the two in the row."""
    torch.manual_seed(5)
    llm = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4)).eval()
    scorer = OptionScorer(llm)
    prompt = scorer.table(torch.arange(5, 11))
    (found,) = scorer([prompt], [[[11, 12], [40, 41, 42, 43, 44, 45], [11, 12]]])
    assert found[0].logprob == pytest.approx(found[2].logprob, rel=1e-6)


def test_linear_attention_is_refused():
    config = Qwen3NextConfig(**SHAPE, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
                             shared_expert_intermediate_size=16, linear_num_value_heads=2, linear_num_key_heads=2,
                             linear_key_head_dim=8, linear_value_head_dim=8)  # fmt: skip
    with pytest.raises(RecipeError, match="linear_attention"):
        OptionScorer(Qwen3NextForCausalLM(config))
