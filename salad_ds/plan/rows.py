"""What a row of positions holds, on average: words that are read, speech that is heard, targets of the loss.

Two figures are of English, not of a recipe: how fast people speak and into how many tokens a word falls. Everything
else is the recipe's arithmetic (data/interleave.py): spans of text and of speech take turns, their lengths drawn evenly
between the two bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

from salad_ds.config import Recipe, TrainConfig
from salad_ds.hearing import Hearing

WORDS_PER_SECOND = 2.7
"""Of read and conversational English (150 to 170 words per minute)."""
TOKENS_PER_WORD = 1.3
"""Of byte-level BPE with a vocabulary of 50,000 to 150,000, on English."""


@dataclass(frozen=True)
class Rows:
    """Means per position of a stage's rows, all sources together, but ``span_seconds`` and ``frames_per_span``."""

    spoken: float
    """Positions that are speech."""
    read: float
    """Positions that are text tokens: also targets of the loss (one fewer per sequence)."""
    recorded: float
    """Seconds of recordings that are read for it, heard or not."""
    heard: float
    """Seconds that are encoded."""
    teacher: float
    """Tokens that a live teacher reads: all words of a sample, spoken or not."""
    speech_share: float
    """Positions of samples with speech."""
    span_seconds: float
    longest_span: float
    """Seconds."""
    frames_per_span: float


def rows_of(recipe: Recipe, stage: TrainConfig, hearing: Hearing) -> Rows:
    """See Rows. ``hearing`` is the encoder's, with the adapter's stack."""
    speech = sum(source.weight for source in stage.sources if source.kind == "speech")
    share = speech / sum(source.weight for source in stage.sources)
    text_words, speech_words = (sum(bounds) / 2 for bounds in (recipe.data.text_words, recipe.data.speech_words))
    spoken_words = speech_words / (text_words + speech_words)
    rate = hearing.frame_rate / hearing.stack
    # Of one second of a recording:
    spoken, read = spoken_words * rate, (1 - spoken_words) * WORDS_PER_SECOND * TOKENS_PER_WORD
    positions = spoken + read
    span = speech_words / WORDS_PER_SECOND
    return Rows(
        spoken=share * spoken / positions,
        read=share * read / positions + 1 - share,
        recorded=share / positions,
        heard=share * (spoken_words if recipe.data.span_encoding == "separate" else 1.0) / positions,
        teacher=share * WORDS_PER_SECOND * TOKENS_PER_WORD / positions + 1 - share,
        speech_share=share,
        span_seconds=span,
        longest_span=recipe.data.speech_words[1] / WORDS_PER_SECOND,
        frames_per_span=span * hearing.frame_rate,
    )
