"""Word by word (``data.span_encoding: words``): where the sound of each word lies, and the frames that a span takes.

Every word is cut from the recording and encoded by itself, and a span is the frames of its words, one behind the other.
So nothing that is heard tells of another word, and yet the frames can be kept: they are the same wherever spans begin.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence as Listed
from dataclasses import dataclass
from itertools import accumulate

from salad_ds.data.interleave import speech_end
from salad_ds.data.word_times import Word
from salad_ds.hearing import Hearing


def word_sounds(words: Listed[Word], duration: float) -> list[tuple[float, float]]:
    """``[start, end)`` in seconds of each word: until the next one begins, as a span of this word alone."""
    starts, ends = [word.start for word in words], [word.end for word in words]
    return [(begin, speech_end(ends, starts, i + 1, duration)) for i, begin in enumerate(starts)]


@dataclass(frozen=True)
class WordFrames:
    """``samples[i]``: length of the i-th word's sound; ``edges[i]``: frames of the words before it (one more than there
    are words); ``starts``: seconds."""

    starts: list[float]
    samples: list[int]
    edges: list[int]

    @classmethod
    def of(cls, words: Listed[Word], duration: float, hearing: Hearing) -> WordFrames:
        """Raises DataError for a word that is longer than the encoder hears."""
        samples = [hearing.samples(begin, end) for begin, end in word_sounds(words, duration)]
        edges = list(accumulate((hearing.frames(n) for n in samples), initial=0))
        return cls([word.start for word in words], samples, edges)

    @property
    def frames(self) -> int:
        """Of all words together."""
        return self.edges[-1]

    def within(self, start: float, end: float) -> range:
        """The words that begin in ``[start, end)`` seconds; one without sound, which has no frames, may be missing."""
        return range(bisect_left(self.starts, start), bisect_left(self.starts, end))

    def taken(self, start: float, end: float) -> range:
        """The frames of those words."""
        words = self.within(start, end)
        return range(self.edges[words.start], self.edges[words.stop])
