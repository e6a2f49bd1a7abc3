"""Word times that come with a corpus: checked before they are believed, and left out where they cannot be the text's.

They become sidecars of engine ``corpus``, which ``align`` leaves alone; a shard of which no sample has any gets none,
and is aligned like any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from salad_ds.data.word_times import Word, check_words
from salad_ds.errors import DataError

ENGINE = "corpus"
OVER = 0.1
"""Seconds by which words may reach out of the sound; they are then cut at its ends."""


def given_words(rows: Any, text: str, seconds: float) -> tuple[Word, ...]:
    """``rows`` = [[start, end], ...] or [[start, end, score], ...], in seconds from the start of the sound, as words.

    A score that is missing or no probability becomes 1. DataError: ``what`` is the reason that they are counted under,
    ``mend`` the detail.
    """
    left_out = "word times left out: "
    words = []
    try:
        for start, end, *score in rows:
            sure = float(score[0]) if score and score[0] is not None else 1.0
            begin, stop = float(start), float(end)
            words.append(Word(max(begin, 0.0) if begin >= -OVER else begin,
                              min(stop, seconds) if stop <= seconds + OVER else math.inf,
                              sure if 0 <= sure <= 1 else 1.0))
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{left_out}not [start, end] or [start, end, score]", str(rows)[:60]) from None
    n_words = len(text.split())
    if len(words) != n_words:
        raise DataError(f"{left_out}not one per word", f"{len(words)} times, {n_words} words")
    try:
        check_words(words, "")
    except DataError as error:
        raise DataError(f"{left_out}not in order, or outside of the sound", error.what.removeprefix(": ")) from None
    return tuple(words)


def shifted(words: Sequence[Word], seconds: float) -> list[Word]:
    return [Word(word.start + seconds, word.end + seconds, word.score) for word in words]
