"""Records, targets and byte strings for the tests of the teacher's store."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from salad_ds.distill.targets import SparseTargets
from salad_ds.teacher.codec import Coded, RankedCodec
from salad_ds.teacher.sampled import Sampled
from salad_ds.teacher.sampling import Record, Rule
from salad_ds.teacher.topk import TopK


def key_of(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=16).digest()


def logits_of(rows: int, vocab: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def dense(targets: SparseTargets, vocab: int) -> torch.Tensor:
    """[N, V] float64 weights."""
    return torch.zeros(len(targets), vocab, dtype=torch.float64).scatter_add_(1, targets.ids, targets.weights.double())


def through_bytes(record: Record, rule: Rule, vocab: int) -> Record:
    """What a store gives back of a text."""
    codec = RankedCodec(vocab, rule)
    ranks = codec.rank([record])
    (data,) = codec.encode([record], ranks)
    return codec.decode([Coded(np.frombuffer(data, dtype=np.uint8), len(record), ranks)])


def assert_same(a: Record, b: Record) -> None:
    """Equal but for the order of tokens within a row."""
    for name in ("fields", "exact", "drawn"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for counts, names in (("exact", ("ids", "exponents", "mantissas")), ("drawn", ("drawn_ids",))):
        row = np.repeat(np.arange(len(a)), getattr(a, counts))
        orders = [np.lexsort((getattr(record, names[0]), row)) for record in (a, b)]
        for name in names:
            np.testing.assert_array_equal(getattr(a, name)[orders[0]], getattr(b, name)[orders[1]])


def any_record(rule: Rule, rng: np.random.Generator, rows: int, vocab: int) -> Record:
    """A record that ``rule`` could have made of some row, with sets of any kind."""
    counts = []
    fields = [rng.integers(0, 1 << bits, rows) for bits in rule.field_bits]
    if isinstance(rule, TopK):
        exact = np.full(rows, min(rule.k, vocab))
        exponents = np.minimum(rng.geometric(0.4, exact.sum()) - 1, np.repeat(fields[2], exact))
        drawn = np.minimum(rng.integers(max(0, rule.draws - 1), rule.draws + 1, rows), vocab - exact)
    else:
        assert isinstance(rule, Sampled)
        shares = [rng.multinomial(rule.steps, rng.dirichlet(np.full(min(vocab, 9), 0.5))) for _ in range(rows)]
        kept = [share[share >= 2] for share in shares]
        exact = np.array([len(share) for share in kept])
        steps = np.concatenate(kept)
        exponents = np.frexp(steps.astype(float))[1] - 2
        left = rule.steps - np.array([share.sum() for share in kept])
        drawn = rule._draws(left)
    table = np.stack(fields, 1)
    for row in range(rows):
        space = vocab if rng.random() < 0.5 else min(vocab, 2 * int(exact[row] + drawn[row]) + 1)
        counts.append(rng.choice(max(space, int(exact[row] + drawn[row])), exact[row] + drawn[row], replace=False))
    ids = np.concatenate([ids[:n] for ids, n in zip(counts, exact, strict=True)])
    drawn_ids = np.concatenate([ids[n:] for ids, n in zip(counts, exact, strict=True)])
    exponents = exponents.astype(np.int64)
    if isinstance(rule, TopK):
        bits = rule.mantissa_bits(exponents, np.repeat(table, exact, axis=0))
        mantissas = np.floor(rng.random(len(bits)) * np.exp2(bits)).astype(np.int64)
    else:
        mantissas = steps - (1 << (exponents + 1))
    return Record(table, exact, drawn.astype(np.int64), ids, exponents, mantissas, drawn_ids)
