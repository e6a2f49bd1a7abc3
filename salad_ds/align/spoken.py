"""What a written text sounds like to an aligner: plain words, several ways where it has numbers.

The words are those of synth/normalize.py, in lower case and without hyphens: what a pronunciation dictionary has. A
number that was read by a person may have been said in other ways than the usual one ("1234": one thousand two hundred
…, twelve thirty-four, one two three four); the aligner tries each and keeps the one that fits the sound best.
"""

from __future__ import annotations

import re
import unicodedata

from salad_ds.synth.normalize import without_and
from salad_ds.synth.reading import read, readings

SPOKEN = 2
"""Raised when spoken_words gives other words than before: sidecars made with another one are made again."""
READINGS = ("usual", "cardinal", "pairs", "digits")
"""Ways to say a run of digits; ``usual``: as its context asks for; ``pairs`` is the way of years."""

PLAIN = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "–": "-", "—": "-", "“": '"', "”": '"'})
RUN = re.compile(r"(?<![\w.,:/$£€¥'’–—-])\d{2,}(?![\w:/%'’–—-]|[.,]\d)")
"""Digits without comma, point, currency or ending."""


def plain_word(word: str) -> list[str]:
    """The whitespace word of any language in lower case, without what is not said; empty where nothing is left.

    Numbers stay as they are: how they are read is known for English only.
    """
    kept = "".join(char for char in unicodedata.normalize("NFC", word.translate(PLAIN).lower())
                   if unicodedata.category(char)[0] in "LMN" or char == "'").strip("'")
    return [kept] if kept else []


def has_readings(text: str) -> bool:
    """Whether some number of ``text`` can be said in more than one way."""
    return RUN.search(text) is not None


def spoken_words(words: list[str], reading: str = "usual") -> list[list[str]]:
    """The plain words of each whitespace word of a text; empty for one that is not spoken ("-", "...").

    ``reading``: one of READINGS, for runs of two and more digits that carry no comma, point, currency or ending.
    """
    if reading != "usual":
        words = [RUN.sub(lambda run: say_run(run[0], reading), word).replace(" ", "-") for word in words]
    return [without_and(" ".join(said).lower().replace("-", " ").split()) for said in readings(words)[0]]


def say_run(digits: str, reading: str) -> str:
    """Words of a run of digits: one thousand two hundred …, twelve thirty-four, one two three four."""
    if reading == "digits" or digits[0] == "0" or len(digits) > 15:
        return " ".join(word for digit in digits for word in read(digit))
    if reading == "pairs" and len(digits) in (3, 4):
        head, tail = digits[:-2], digits[-2:]
        if tail == "00" and (len(head) == 1 or head[1] == "0"):
            return " ".join(read(f"{int(digits):,}"))  # five hundred, two thousand
        rest = ["hundred"] if tail == "00" else ["oh", *read(tail[1])] if tail[0] == "0" else read(tail)
        return " ".join([*read(head), *rest])
    return " ".join(read(f"{int(digits):,}"))
