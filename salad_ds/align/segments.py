"""What every aligner has in common: the ways to read a text aloud, and the way from spoken to written words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from salad_ds.align.spoken import READINGS, has_readings, plain_word, spoken_words
from salad_ds.data.word_times import Word
from salad_ds.errors import DataError
from salad_ds.text import split_words

PAUSE = 0.3  # a longer silence does not belong to the word before it
TAIL = 0.1  # seconds given to a word before a pause: aligners end words early


@dataclass(frozen=True)
class Segment:
    """A spoken word: seconds ``[start, end)``, the ``frames`` that were scored and the sum of their log-scores."""

    start: float
    end: float
    frames: int
    log_score: float


def is_english(language: str) -> bool:
    return language.lower().startswith("en")


def align_text(text: str, duration: float, find: Callable[[list[str]], list[Segment] | None],
               language: str = "en") -> list[Word]:
    """One Word per whitespace word of ``text``, of the reading ("1999": nineteen ninety-nine) that fits best.

    ``find``: plain spoken words → their segments in order, or None where they are not found. Raises DataError whose
    ``what`` is the reason why there are no times.
    """
    written = [text[begin:end] for begin, end in split_words(text)]
    best: tuple[float, list[list[str]], list[Segment]] | None = None
    english = is_english(language)
    for reading in READINGS if english and has_readings(text) else READINGS[:1]:
        spoken = spoken_words(written, reading) if english else [plain_word(word) for word in written]
        words = [word for group in spoken for word in group]
        if not words:
            raise DataError("nothing is spoken", "remove the sample")
        if best is not None and spoken == best[1]:
            continue
        segments = find(words)
        if segments is None:
            continue
        score = sum(segment.log_score for segment in segments) / max(sum(segment.frames for segment in segments), 1)
        if best is None or score > best[0]:
            best = (score, spoken, segments)
    if best is None:
        raise DataError("text and sound do not align", "check the transcript")
    return to_words(best[1], best[2], duration)


def to_words(spoken: list[list[str]], segments: list[Segment], duration: float) -> list[Word]:
    """Segments of spoken words → one Word per written word, within ``[0, duration]`` seconds.

    ``spoken``: the plain words of each written word; ``segments``: one for each of them, in order. A word ends where
    the next one starts unless a pause lies between (every aligner's word ends are poor). A written word that is not
    spoken ("-") lies where the word before it ends, with no length and the score 1. A score is the geometric mean over
    the frames.
    """
    groups, place = [], 0
    for group in spoken:
        groups.append(segments[place:place + len(group)])
        place += len(group)
    words: list[Word] = []
    last = 0.0
    for number, mine in enumerate(groups):
        if not mine:
            words.append(Word(last, last, 1.0))
            continue
        following = next((group[0].start for group in groups[number + 1:] if group), math.inf)
        end = following if following - mine[-1].end <= PAUSE else mine[-1].end + TAIL
        start = min(max(mine[0].start, last), duration)
        end = min(max(end, start), duration)
        score = math.exp(sum(s.log_score for s in mine) / max(sum(s.frames for s in mine), 1))
        words.append(Word(start, end, min(max(score, 0.0), 1.0)))
        last = end
    return words
