"""Text as it is spoken: numbers, units, abbreviations and symbols become words, word by word.

Every spoken word keeps the index of the whitespace word it came from, so that word times measured on what was said
can be carried back to the original text, and so that tokens, words and speech agree. What is left is plain: letters,
apostrophes and inner hyphens, with ``,.;:!?`` kept at the end of a word because engines pause on them. English only;
the readings are those of reading.py. A text of plain words stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from salad_ds.errors import DataError
from salad_ds.synth.reading import INITIALS, PAUSES, ROMAN, bare, latin, read, readings, split_tail
from salad_ds.synth.tables import ABBREVIATIONS
from salad_ds.text import split_words

DASHES = ("-", "–", "—", "--", "---", "―")
UNSPEAKABLE_SHARE = 0.1
"""A text is refused when more than this share of its words hold letters or digits and yet cannot be spoken."""
ROUNDS = 4
"""What is spoken is read again until it stays as it is, this often at most."""
COUNTS = frozenset(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety first second third fourth fifth sixth "
    "seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth "
    "nineteenth twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth".split())
GREAT = frozenset(("hundred", "thousand", "million", "billion", "trillion"))


@dataclass(frozen=True)
class Spoken:
    """``words``: what an engine is given, one entry per spoken word, punctuation attached; ``owner[j]``: index of the
    original word that spoken word j belongs to, never decreasing; ``n_words``: original words."""

    words: tuple[str, ...]
    owner: tuple[int, ...]
    n_words: int

    @property
    def text(self) -> str:
        return " ".join(self.words)


def speakable(text: str) -> Spoken:
    """``text`` as it is spoken. Raises DataError where nothing, or too little of it, can be spoken."""
    originals = [text[start:end] for start, end in split_words(text)]
    words, owner, mute = spoken_once(originals)
    if not words:
        raise DataError("nothing in the text can be spoken", "remove the sample")
    if mute > UNSPEAKABLE_SHARE * len(originals):
        raise DataError(f"{mute} of {len(originals)} words cannot be spoken in English", "remove the sample")
    before, rounds = originals, 1
    while words != before and rounds < ROUNDS:  # '(5)Fig.' → 'five Fig.' → 'five Figure'
        again, of, _ = spoken_once(words)
        before, words, owner, rounds = words, again, [owner[j] for j in of], rounds + 1
    return Spoken(tuple(words), tuple(owner), len(originals))


def spoken_once(originals: list[str]) -> tuple[list[str], list[int], int]:
    """Spoken words with their pauses, the original that each belongs to, and how many originals are mute."""
    said, mute = readings(originals)
    words: list[str] = []
    owner: list[int] = []
    for i, original in enumerate(originals):
        words += said[i]
        owner += [i] * len(said[i])
        pause = pause_after(original, originals[i + 1] if i + 1 < len(originals) else "", said[i])
        if pause and words and words[-1][-1] not in PAUSES:
            words[-1] += pause
    return words, owner, sum(mute)


def plain(text: str) -> str:
    """``text`` for comparing what was said with what was heard: spoken words, lower case, letters and spaces only,
    letters that are said one by one joined, the 'and' of numbers left out. The empty string where nothing can be
    spoken."""
    try:
        spoken = speakable(text).text.lower()
    except DataError:
        return ""
    words = re.sub(r"[^a-z ]", "", spoken.replace("-", " ")).split()
    return re.sub(r"\b(?:[a-z] )+[a-z]\b", lambda match: match[0].replace(" ", ""), " ".join(without_and(words)))


def without_and(words: list[str]) -> list[str]:
    """Plain words, with 'two hundred and five' as 'two hundred five': said either way, written '205'."""
    return [word for i, word in enumerate(words)
            if not (word == "and" and i and words[i - 1] in GREAT and words[i + 1:i + 2]
                    and words[i + 1] in COUNTS)]


def pause_after(original: str, after: str, said: list[str]) -> str:
    """The one mark that speaks for a word's closing punctuation: ``!`` and ``?`` first, else the first pause."""
    if original in DASHES:
        return ","
    core, tail = split_tail(bare(original))
    if core and tail[:1] == "." and point_is_written_only(core, after, said):
        tail = tail[1:]
    return next((c for c in tail if c in "!?"), "") or next((c for c in tail if c in PAUSES), "")


def point_is_written_only(core: str, after: str, said: list[str]) -> bool:
    """Whether the point after ``core`` belongs to an abbreviation: 'Dr.', 'U.S.', '5 ft. tall', 'No. 1'."""
    if core + "." in ABBREVIATIONS:
        return True
    if INITIALS.fullmatch(core) or re.fullmatch("[A-Z]", core):
        return bool(after) or core in ("e.g", "i.e")
    if not core.isalpha() or ROMAN.fullmatch(core) or [word.lower() for word in said] == [
            word.lower() for word in latin(core)]:
        return False
    if list(read(core + ".")) != latin(core):
        return core != "etc" or bool(after) and not after[:1].isupper()
    return bool(after) and not after[:1].isupper()
