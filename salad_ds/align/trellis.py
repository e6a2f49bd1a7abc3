"""CTC forced alignment: the most likely way of reading given tokens through the frames of an acoustic model.

The Viterbi search of Graves et al. (2006) over the tokens with optional blanks between them. torchaudio's compiled
``forced_align`` does it where it is there; beside a CPU-only torch it is not (see mend_torchaudio), and then NumPy does
the same, one frame at a time for all states: about 20 ms for 15 seconds of speech.

Shape letters: T frames, C tokens of the model, L tokens of the text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenSpan:
    """Frames ``[first, last]`` in which a token is said, and the sum of its log-probabilities over them."""

    first: int
    last: int
    log_prob: float


def token_spans(log_probs: Tensor, tokens: list[int], blank: int) -> list[TokenSpan] | None:
    """One span per token, in order; None where the frames are too few for the tokens.

    log_probs: [T, C] float, nats. tokens: ids without ``blank``.
    """
    repeats = sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))
    if not tokens or len(log_probs) < len(tokens) + repeats:
        return None
    path = compiled_path(log_probs, tokens, blank) if compiled() else viterbi(log_probs.cpu().numpy(), tokens, blank)
    spans, scores = [], log_probs.cpu().numpy()
    starts = [t for t, token in enumerate(path) if token != blank and (t == 0 or token != path[t - 1])]
    for token, first in zip(tokens, starts, strict=True):
        last = first
        while last + 1 < len(path) and path[last + 1] == token:
            last += 1
        spans.append(TokenSpan(first, last, float(scores[first:last + 1, token].sum())))
    return spans


def compiled() -> bool:
    from torchaudio import _extension

    return bool(_extension._IS_ALIGN_AVAILABLE)


def compiled_path(log_probs: Tensor, tokens: list[int], blank: int) -> list[int]:
    from torchaudio.functional import forced_align

    wanted = torch.tensor([tokens], dtype=torch.int32, device=log_probs.device)
    return forced_align(log_probs[None].float(), wanted, blank=blank)[0][0].tolist()


def viterbi(log_probs: np.ndarray, tokens: list[int], blank: int) -> list[int]:
    """The token (or blank) of each frame on the best path. [T, C] and L ids → T ids."""
    frames, states = len(log_probs), 2 * len(tokens) + 1
    labels = np.full(states, blank)
    labels[1::2] = tokens
    scores = log_probs[:, labels].astype(np.float64)  # [T, 2 L + 1]
    # A token may follow another one without a blank between them, unless it is the same.
    jump = np.zeros(states, dtype=bool)
    jump[3::2] = labels[3::2] != labels[1:-2:2]
    best = np.full(states, -np.inf)
    best[:2] = scores[0, :2]
    steps = np.zeros((frames, states), dtype=np.uint8)  # states the path came up by
    for t in range(1, frames):
        came = np.full((3, states), -np.inf)
        came[0], came[1, 1:] = best, best[:-1]
        came[2, 2:] = np.where(jump[2:], best[:-2], -np.inf)
        steps[t] = came.argmax(0)
        best = came.max(0) + scores[t]
    state = states - 1 if best[-1] >= best[-2] else states - 2
    path = [0] * frames
    for t in range(frames - 1, -1, -1):
        path[t] = int(labels[state])
        state -= int(steps[t, state])
    return path
