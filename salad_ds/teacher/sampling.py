"""What is kept of a teacher's distribution, as numbers: the same for every rule of keeping, and before any bytes.

Two rules make records of logits and targets of records: ``topk.TopK`` and ``sampled.Sampled``. Both keep some tokens
*exactly* (to a stated rounding) and speak for all others through *draws*, so that the weighted one-hot vectors of a
record have the teacher's whole distribution as their mean. Keeping the top alone does not: the gradient pulls the
student's tail to zero (arXiv 2503.16870). Records are whole numbers already, rounded at random, so that the bytes that
follow lose nothing.

Draws are *systematic*: ticks at equal distances over the running mass of the tail, all moved by one random number. A
token's expected number of ticks is its share, whatever the others do, and no token has two of them as long as it has
less mass than lies between two ticks. So ids are never repeated in a row.

The random numbers depend on (seed, text key, row) alone, never on batch, order, rank or run.

Shape letters: N rows, V vocabulary, X exact and D drawn tokens of all rows together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from salad_ds.distill.targets import SparseTargets, Targets
from salad_ds.errors import StoreError

ENTROPY_BITS = 12
ENTROPY_STEPS = 256
"""Entropies are stored in steps of 1/256 nat, to the nearest: off by 0.002 at most, below 16 nats."""


BLOCK = 64
"""Tokens of a block of ``Tail``."""


@dataclass
class Record:
    """What is kept of N rows of a text, or of several.

    ``fields``: [N, F] int64, the rule's numbers of a row, the entropy first. ``exact``, ``drawn``: [N] int64, tokens of
    each row that are kept exactly and by drawing. Row after row, no token twice in a row and in any order:
    ``ids``, ``exponents``, ``mantissas``: [X] int64 of the exact tokens, see ``grid.numbers_of``; ``drawn_ids``: [D]
    int64.
    """

    fields: np.ndarray
    exact: np.ndarray
    drawn: np.ndarray
    ids: np.ndarray
    exponents: np.ndarray
    mantissas: np.ndarray
    drawn_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.fields)

    def rows(self, index: slice) -> Record:
        """Neighbouring rows, without copying."""
        begin, end, _ = index.indices(len(self))
        kept, drawn = (slice(counts[:begin].sum(), counts[:end].sum()) for counts in (self.exact, self.drawn))
        return Record(self.fields[index], self.exact[index], self.drawn[index], self.ids[kept], self.exponents[kept],
                      self.mantissas[kept], self.drawn_ids[drawn])

    def take(self, rows: np.ndarray) -> Record:
        """The given rows, in their order."""
        kept, drawn = places(self.exact, rows), places(self.drawn, rows)
        return Record(self.fields[rows], self.exact[rows], self.drawn[rows], self.ids[kept], self.exponents[kept],
                      self.mantissas[kept], self.drawn_ids[drawn])


def places(counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Where the members of ``rows`` lie in a list of all rows' members, of which each row has ``counts``."""
    ends, taken = np.cumsum(counts), counts[rows]
    return np.repeat((ends - counts)[rows] - (np.cumsum(taken) - taken), taken) + np.arange(taken.sum())


def nothing(rule: Rule) -> Record:
    """No rows."""
    none = np.zeros(0, dtype=np.int64)
    return Record(np.zeros((0, len(rule.field_bits)), dtype=np.int64), none, none, none, none, none, none)


def join(parts: Sequence[Record]) -> Record:
    """Records of one rule under each other; one at least."""
    if len(parts) == 1:
        return parts[0]
    return Record(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Record)))


class Rule(Protocol):
    """How much is kept of a row, and what it says to a student."""

    @property
    def draws(self) -> int:
        """The most draws of a row."""

    @property
    def uniforms(self) -> int:
        """Random numbers that a row takes."""

    @property
    def field_bits(self) -> tuple[int, ...]:
        """Widths of the columns of ``Record.fields``."""

    @property
    def tails(self) -> tuple[str, ...]:
        """The ``tail`` that ``targets`` can give."""

    def keep(self, logits: Tensor, uniforms: np.ndarray) -> Record:
        """Record of ``logits`` [N, V] (any float type, on any device) with ``uniforms`` [N, self.uniforms].

        Raises StoreError for logits that are not finite numbers (-inf has no mass and is never kept by drawing).
        """

    def mantissa_bits(self, exponents: np.ndarray, fields: np.ndarray) -> np.ndarray:
        """[X] widths of the mantissas, from [X] exponents and the fields [X, F] of their rows."""

    def expected_draws(self, fields: np.ndarray, rows: np.ndarray, exponents: np.ndarray,
                       mantissas: np.ndarray) -> np.ndarray:
        """[N] numbers of draws that follow from the rest of a record, so far as they do; ``rows``: [X], of the exact
        tokens."""

    def targets(self, record: Record, tail: str) -> Targets:
        """Targets of every row of ``record``. Raises StoreError for a record that ``keep`` cannot have made."""


def uniforms(seed: int, key: bytes, rows: int, samples: int) -> np.ndarray:
    """[rows, samples] float64 in [0, 1), a pure function of (seed, text key, row, sample).

    Philox is a counter-based generator, keyed here by a digest of seed and text key; its raw stream, unlike the methods
    built on it, is promised to stay the same in later versions of NumPy.
    """
    name = hashlib.blake2b(key, digest_size=16, key=f"salad teacher {seed}".encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(name, "little")).random_raw(rows * samples)
    return (np.asarray(raw, dtype=np.uint64) >> np.uint64(11)).astype(np.float64).reshape(rows, samples) * 2.0**-53


def distribution(logits: Tensor) -> tuple[Tensor, np.ndarray]:
    """Log-probabilities [N, V] float32 of ``logits``, and the rows' entropies as they are stored, [N] int64."""
    log_probs = logits.float().log_softmax(-1)
    probs = log_probs.exp()
    entropy = -torch.linalg.vecdot(probs, log_probs)
    if not bool(torch.isfinite(entropy).all()):  # 0 · log 0, if nothing worse
        entropy = torch.special.entr(probs).sum(-1)
    if not bool(torch.isfinite(entropy).all()):
        raise StoreError("the teacher gives logits that are not finite",
                         "check the teacher's weights, or compute it in float32")
    steps = np.rint(entropy.cpu().numpy() * ENTROPY_STEPS).astype(np.int64)
    return log_probs, np.clip(steps, 0, (1 << ENTROPY_BITS) - 1)


class Tail:
    """Mass to draw from, [N, V] float32; it need not sum to 1. ``total``: [N] float64.

    In blocks, so that a draw looks for its block and then within it, and a running sum over V is never made.
    """

    def __init__(self, mass: Tensor) -> None:
        count = -(-mass.shape[1] // BLOCK)
        short = count * BLOCK - mass.shape[1]
        self.blocks = (torch.nn.functional.pad(mass, (0, short)) if short else mass).view(len(mass), count, BLOCK)
        self.sums = self.blocks.sum(-1).double()
        self.total = self.sums.sum(-1)

    def draw(self, count: Tensor, uniform: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Systematic draws, ``count`` [N] of each row, moved by ``uniform`` [N] float64.

        Returns ids [N, most] int64, ascending, and which of them count [N, most]. A token without mass is never drawn:
        the first place whose running mass exceeds the tick has mass of its own.
        """
        running = self.sums.cumsum(-1)
        ticks = torch.arange(max(int(count.max()), 1) if len(count) else 1, device=running.device)
        points = (ticks + uniform[:, None]) / count.clamp_min(1)[:, None] * running[:, -1:]
        block = first_beyond(running, points)
        size = self.sums.gather(1, block)
        share = (points - running.gather(1, block) + size) / size
        inner = self.blocks.gather(1, block[..., None].expand(-1, -1, BLOCK)).cumsum(-1, dtype=torch.float64)
        place = first_beyond(inner, share.clamp_min(0)[..., None] * inner[..., -1:])[..., 0]
        return (block * BLOCK + place).cpu().numpy(), (ticks < count[:, None]).cpu().numpy()


def first_beyond(running: Tensor, points: Tensor) -> Tensor:
    """Places [..., P] of the first of the ascending sums [..., S] beyond each of the ``points`` [..., P], which are
    moved below the last sum."""
    last = running[..., -1:]
    points = torch.minimum(points, torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(running, points.contiguous(), right=True).clamp(max=running.shape[-1] - 1)


def sparse(record: Record, weights: np.ndarray, portion: np.ndarray, entropy: np.ndarray) -> SparseTargets:
    """[N, K] targets of a record with the ``weights`` [X] of its exact tokens and ``portion`` [N], the weight of each
    draw; K is the most tokens of a row. Exact tokens come first."""
    exact, both = record.exact[:, None], (record.exact + record.drawn)[:, None]
    column = np.arange(int(both.max(initial=1)))
    ids, padded = np.zeros((len(record), len(column)), dtype=np.int64), np.zeros((len(record), len(column)), np.float32)
    kept, drawn = column < exact, (column >= exact) & (column < both)
    ids[kept], padded[kept], ids[drawn] = record.ids, weights, record.drawn_ids
    padded[drawn] = np.repeat(portion, record.drawn)
    return SparseTargets(torch.from_numpy(ids), torch.from_numpy(padded), torch.from_numpy(entropy.astype(np.float32)))


def impossible() -> StoreError:
    return StoreError("a record of the teacher store says what no teacher can have said",
                      "verify the store: it names the damaged shard")
