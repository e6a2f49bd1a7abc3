"""From one row of logits to what the store keeps: the exact top, and draws from the tail with the tail's true mass.

Keeping only the top k tokens biases the gradient: the tail's mass is missing where the student should have it.
Drawing m tokens from the tail, each with weight tail mass / m, has the whole distribution as its mean, whatever m is
(arXiv 2503.16870 shows it for sampling alone; here the top stays exact, so that only the tail is noisy).

The draws are *stratified*: the j-th falls into the j-th of m equal slices of the tail's mass (in id order). Each
token's expected weight is that of m independent draws with replacement, every linear statistic has a variance no
larger, and the drawn ids come out sorted, which the codec likes.

The random numbers depend on (seed, text key, row) alone, never on batch, order, rank or run.

Shape letters: N rows, V vocabulary, k kept exactly, m drawn.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from salad_ds.distill.targets import SparseTargets
from salad_ds.errors import StoreError


@dataclass
class Record:
    """What is kept of N rows of one text.

    ``top_ids``: [N, k] int64, ascending. ``top_log_probs``: [N, k] float32, nats, in the order of ``top_ids``.
    ``tail``: [N] float32, the mass outside the top. ``entropy``: [N] float32, nats, of the whole distribution.
    ``drawn_ids``: [N, m] int64, ascending, from the tail with replacement (0 where the tail is empty).
    """

    top_ids: np.ndarray
    top_log_probs: np.ndarray
    tail: np.ndarray
    entropy: np.ndarray
    drawn_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.top_ids)

    def rows(self, index: slice) -> Record:
        return Record(*(getattr(self, field.name)[index] for field in fields(self)))

    def targets(self) -> SparseTargets:
        """The record as targets: K = k + m, the top first.

        Top and tail are scaled together to the sum 1, which takes away the common part of the codec's rounding. Without
        draws (m = 0) the tail is dropped: the weights sum to 1 - tail and the target is biased.
        """
        top = np.exp(self.top_log_probs)
        total = top.sum(1) + self.tail
        top /= total[:, None]
        drawn = np.broadcast_to((self.tail / total / max(self.drawn_ids.shape[1], 1))[:, None], self.drawn_ids.shape)
        return SparseTargets(torch.from_numpy(np.concatenate([self.top_ids, self.drawn_ids], 1)),
                             torch.from_numpy(np.concatenate([top, drawn], 1).astype(np.float32)),
                             torch.from_numpy(self.entropy.astype(np.float32)))


def join(parts: list[Record]) -> Record:
    """Records of the same k and m under each other."""
    if len(parts) == 1:
        return parts[0]
    return Record(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Record)))


def uniforms(seed: int, key: bytes, rows: int, samples: int) -> np.ndarray:
    """[rows, samples] float64 in [0, 1), a pure function of (seed, text key, row, draw).

    Philox is a counter-based generator, keyed here by a digest of seed and text key; its raw stream, unlike the methods
    built on it, is promised to stay the same in later versions of NumPy.
    """
    name = hashlib.blake2b(key, digest_size=16, key=f"salad teacher {seed}".encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(name, "little")).random_raw(rows * samples)
    return (np.asarray(raw, dtype=np.uint64) >> np.uint64(11)).astype(np.float64).reshape(rows, samples) * 2.0**-53


def summarise(logits: Tensor, top_k: int, draws: np.ndarray) -> Record:
    """Record of ``logits`` [N, V] (any float type): softmax and top in float32, sums over V in float64.

    ``draws`` [N, m] from ``uniforms``. Raises StoreError for logits that are not finite numbers.
    """
    log_probs = logits.float().log_softmax(-1)
    probs = log_probs.exp()
    entropy = torch.special.entr(probs).sum(-1, dtype=torch.float64)
    if not bool(torch.isfinite(entropy).all()):
        raise StoreError("the teacher gives logits that are not finite",
                         "check the teacher's weights, or compute it in float32")
    top_ids = log_probs.topk(min(top_k, logits.shape[1]), dim=-1, sorted=False).indices.sort(-1).values
    top = log_probs.gather(-1, top_ids)
    rest = probs.scatter(-1, top_ids, 0.0)
    if draws.shape[1]:
        cumulative = rest.cumsum(-1, dtype=torch.float64)
        tail = cumulative[:, -1]
        drawn = draw(cumulative, torch.from_numpy(draws).to(cumulative.device))
        drawn = torch.where(tail[:, None] > 0, drawn, 0)
    else:
        tail = rest.sum(-1, dtype=torch.float64)
        drawn = top_ids[:, :0]
    return Record(top_ids.cpu().numpy(), top.cpu().numpy(), tail.clamp(0, 1).float().cpu().numpy(),
                  entropy.float().cpu().numpy(), drawn.cpu().numpy())


def draw(cumulative: Tensor, uniform: Tensor) -> Tensor:
    """Stratified inverse sampling: running mass [N, V] float64 and uniforms [N, m] → ids [N, m], ascending.

    A token without mass is never drawn: the first index whose running mass exceeds the point has mass of its own.
    """
    strata = torch.arange(uniform.shape[1], device=uniform.device)
    total = cumulative[:, -1:]
    points = (strata + uniform) / uniform.shape[1] * total
    points = torch.minimum(points, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cumulative.contiguous(), points.contiguous(), right=True)
    return found.clamp(max=cumulative.shape[1] - 1)
