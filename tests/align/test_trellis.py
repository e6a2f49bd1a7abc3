"""The Viterbi search against trying every path."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.align.trellis import compiled, compiled_path, token_spans, viterbi

BLANK = 0


def collapse(path):
    return [token for token, _ in itertools.groupby(path) if token != BLANK]


@st.composite
def problems(draw):
    tokens = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    frames = draw(st.integers(len(tokens), 6))
    seed = draw(st.integers(0, 2**32 - 1))
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(4), frames)).astype(np.float32), tokens


@given(problems())
def test_the_path_is_the_best_of_all(problem):
    log_probs, tokens = problem
    paths = [p for p in itertools.product(range(4), repeat=len(log_probs)) if collapse(p) == tokens]
    if not paths:
        assert token_spans(torch.from_numpy(log_probs), tokens, BLANK) is None
        return

    def score(path):
        return float(log_probs.astype(np.float64)[np.arange(len(path)), path].sum())

    found = viterbi(log_probs, tokens, BLANK)
    assert collapse(found) == tokens
    assert score(found) == pytest.approx(max(map(score, paths)), rel=1e-9)
    spans = token_spans(torch.from_numpy(log_probs), tokens, BLANK)
    assert [found[span.first] for span in spans] == tokens
    held = [t for span in spans for t in range(span.first, span.last + 1)]
    assert held == [t for t, token in enumerate(found) if token != BLANK]
    total = sum(float(log_probs[t, found[t]]) for t in held)
    assert sum(span.log_prob for span in spans) == pytest.approx(total, rel=1e-5)


def test_repeated_tokens_need_a_blank_between_them():
    certain = np.full((4, 3), -9.0, np.float32)
    certain[[0, 1, 3], 1] = 0
    certain[2, 0] = 0
    assert viterbi(certain, [1, 1], BLANK) == [1, 1, 0, 1]
    assert token_spans(torch.from_numpy(certain[:2]), [1, 1], BLANK) is None


@pytest.mark.skipif(not compiled(), reason="torchaudio's compiled forced_align is not there (CPU-only torch)")
def test_torchaudio_finds_a_path_of_the_same_score():
    generator = np.random.default_rng(0)
    log_probs = np.log(generator.dirichlet(np.ones(9), 60)).astype(np.float32)
    tokens = generator.integers(1, 9, 12).tolist()
    ours, theirs = viterbi(log_probs, tokens, BLANK), compiled_path(torch.from_numpy(log_probs), tokens, BLANK)
    assert log_probs[np.arange(60), ours].sum() == pytest.approx(log_probs[np.arange(60), theirs].sum(), rel=1e-5)
