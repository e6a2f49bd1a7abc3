"""Interleaving: which words of an utterance the student reads and which it hears.

SALAD (arXiv 2510.13632), 'The sequences'. Text spans of 10-30 words and speech spans of 5-15 words take turns; the
first one is drawn by a fair coin. All of it is a pure function of the utterance and of a random generator that the
caller seeds.
"""

from __future__ import annotations

from collections.abc import Sequence as Listed
from dataclasses import dataclass

import numpy as np

from salad_ds.text import TokenizedText


@dataclass(frozen=True)
class Span:
    """Words ``[first, last)`` of an utterance, read or heard."""

    speech: bool
    first: int
    last: int


@dataclass(frozen=True)
class Piece:
    """A span as the model meets it: token ids ``[first, last)`` of the text, as tokens or as ``positions`` speech
    positions cut from ``[start, end)`` seconds of the recording."""

    speech: bool
    first: int
    last: int
    positions: int
    start: float = 0.0
    end: float = 0.0


def interleave(
    n_words: int,
    rng: np.random.Generator,
    text_words: Listed[int],
    speech_words: Listed[int],
    can_cut: Listed[bool] | None = None,
) -> list[Span]:
    """Cut ``n_words`` words into alternating text and speech spans that cover them all, in order.

    Lengths are uniform over the closed ranges ``text_words`` and ``speech_words``; the last span takes what is left.
    ``can_cut[i]`` says whether a span may begin at word i; a span that would end elsewhere is stretched to the next
    cut.
    """
    spans: list[Span] = []
    speech = bool(rng.integers(2))
    at = 0
    while at < n_words:
        low, high = speech_words if speech else text_words
        end = min(at + int(rng.integers(low, high + 1)), n_words)
        while can_cut is not None and end < n_words and not can_cut[end]:
            end += 1
        spans.append(Span(speech, at, end))
        at, speech = end, not speech
    return spans


def cuts_of(text: TokenizedText) -> list[bool]:
    """For each word, whether its first token is its own: only there tokens and sound can be cut at the same place."""
    return [text.word_starts[i] < text.word_starts[i + 1] for i in range(text.n_words)]


def speech_end(
    word_ends: Listed[float], word_starts: Listed[float], last: int, duration: float, tail: float = 0.3
) -> float:
    """Where the sound of words up to ``last`` (exclusive) stops, in seconds.

    Aligners place word starts well and word ends badly, so a span lasts until the next word begins, but no longer than
    ``tail`` seconds after its own last word: a pause is not part of it.
    """
    limit = word_starts[last] if last < len(word_starts) else duration
    return min(limit, word_ends[last - 1] + tail)


def fit(pieces: list[Piece], context: int) -> list[Piece]:
    """As many of the first ``pieces`` as fill at most ``context`` positions: a text piece is shortened, a speech piece
    left out."""
    kept, room = [], context
    for piece in pieces:
        if piece.positions > room:
            if not piece.speech and room > 0:
                kept.append(Piece(False, piece.first, piece.first + room, room))
            break
        kept.append(piece)
        room -= piece.positions
    return kept
