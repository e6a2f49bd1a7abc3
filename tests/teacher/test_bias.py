"""On a real teacher: how far is the gradient of what we keep from the gradient of the whole distribution?

Top k alone against top k with draws, at the same bytes per token. Run with ``-s`` to see the figures.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from salad_ds.distill.targets import SparseTargets
from salad_ds.teacher.codec import FixedWidthCodec
from salad_ds.teacher.forward import load_teacher
from salad_ds.teacher.sampling import summarise, uniforms
from salad_ds.text import start_token, text_key, tokenize


def gradient(weights: Tensor, student: Tensor) -> Tensor:
    """d/dlogits of -sum(weights * log_softmax(logits)), [N, V]."""
    return student * weights.sum(1, keepdim=True) - weights


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Degrees between rows (or between two vectors)."""
    return torch.rad2deg(torch.acos(torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1)))


def dense(targets: SparseTargets, vocab: int) -> Tensor:
    return torch.zeros(len(targets), vocab, dtype=torch.float64).scatter_add_(1, targets.ids, targets.weights.double())


def same_bytes(vocab: int, top_k: int, samples: int) -> int:
    """The k that takes as many bytes without draws."""
    k = top_k
    while FixedWidthCodec(vocab, k + 1, 0).row_bytes <= FixedWidthCodec(vocab, top_k, samples).row_bytes:
        k += 1
    return k


@pytest.mark.assets
def test_gradient_angle_on_a_real_teacher(smollm2_dir, tokenizer, sentences, capsys) -> None:
    """The student here is the same LLM with the first words of its context missing: a mild misalignment."""
    teacher = load_teacher(str(smollm2_dir), "cpu")
    ids = tokenize(tokenizer, " ".join(sentences[:4]), start_token(tokenizer)).ids
    missing = 12
    logits = teacher.logits(teacher.rows([ids])[0])[missing:].double()
    student = teacher.logits(teacher.rows([(ids[0], *ids[1 + missing:])])[0]).double().softmax(-1)
    full = logits.softmax(-1)
    truth, vocab, rows = gradient(full, student), logits.shape[1], len(full)
    lines, measured = [], {}
    for top_k, samples in ((12, 16), (50, 32), (128, 32), (128, 64)):
        alone = same_bytes(vocab, top_k, samples)
        kept = {}
        for name, k, m in (("top", alone, 0), ("top + draws", top_k, samples)):
            draws = uniforms(0, text_key(ids), rows, m)
            weights = dense(summarise(logits, k, draws).targets(), vocab)
            found = gradient(weights, student)
            kl = (weights * student.clamp_min(1e-300).log()).sum(1) - (full * student.log()).sum(1)
            kept[name] = (float(angle(found, truth).mean()), float(angle(found.sum(0), truth.sum(0))), float(kl.mean()))
            lines.append(f"{FixedWidthCodec(vocab, k, m).row_bytes:4d} B/token  k={k:3d} m={m:2d}  angle per token "
                         f"{kept[name][0]:5.2f}°, of the batch {kept[name][1]:5.2f}°, "
                         f"KL off by {-kept[name][2]:+.3f} nats")
        measured[top_k, samples] = kept
    with capsys.disabled():
        tails = 1 - full.topk(128).values.sum(1)
        print(f"\n{rows} positions, V = {vocab}, mass outside the top 128: mean {tails.mean():.4f}, "
              f"most {tails.max():.3f}", *lines, sep="\n")
    for kept in measured.values():
        assert kept["top + draws"][1] < kept["top"][1]  # what an optimizer step sees
        assert abs(kept["top + draws"][2]) < abs(kept["top"][2])
