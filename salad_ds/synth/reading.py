"""How English words are read aloud, each in its context: the grammars of ``damga``, and the way back to the words.

``damga`` (Apache-2; OpenFst grammars in its wheel, nothing to compile) reads numbers, dates, times, money, measures,
fractions, ranges, telephone numbers, addresses, Roman numerals and common abbreviations. It is asked about *islands*:
the words that are not plain, with CONTEXT neighbours. Which of its words came from which of ours is found by comparing
what it makes of the island with what it makes of each word alone; tables.py holds what it leaves.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import TYPE_CHECKING

from salad_ds.synth import tables
from salad_ds.synth.sharing import islands, shared

if TYPE_CHECKING:
    from damga import TextNormalizer

OPENING = "\"'“”‘’«»([{<¿¡*_`~|"
CLOSING = "\"'“”‘’«»)]}>*_`~|"
PAUSES = ",.;:!?"
WIDEST = 80
"""Characters of a word that is not plain: nobody reads a longer one aloud, and the grammars take the square of it."""

NUMBER = r"(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)"
AMOUNT = re.compile(rf"[-−+~]?{NUMBER}(?:[-–/]{NUMBER})?|\d*[½¼¾⅓⅔⅛]")
QUANTITY = re.compile(rf"([-−+±~]?{NUMBER})([^\d\s,.].*)")
DATE_US = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})")
FEET = re.compile(r"(\d+)['’′](\d+)(?:[\"”″]|'')?")
MONEY_RANGE = re.compile(r"([$£€¥])(\d[\d,.]*)[-–—]\1?(\d[\d,.]*\w*)")
MIXED = re.compile(r"(\d+)(?:-(\d/\d\d?)|([½¼¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]))")
INITIALS = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]?")
ROMAN = re.compile(r"(?=[IVXLC])(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
LETTER = r"[^\W\d_¹²³⁰-₉¼-¾⅐-↉①-⓿]"  # what re takes for one and is none
WORD = re.compile(rf"{LETTER}+(?:['-]{LETTER}+)*")
PLAIN = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
PIECE = re.compile(rf"\d+(?:,\d{{3}})+(?:\.\d+)?|\d+(?:\.\d+)?|{WORD.pattern}|[^\w\s]|\w")


@functools.cache
def library() -> TextNormalizer:
    from damga import TextNormalizer  # 60 ms, and most texts do without

    return TextNormalizer(lang="en")


def readings(words: list[str]) -> tuple[list[list[str]], list[bool]]:
    """Spoken words of each whitespace word of a text: ASCII letters, apostrophes and inner hyphens only; and whether
    it is mute, that is to say, holds letters or digits and yet has no reading.

    A word may be left without spoken words because its neighbour has them ("$3 million") or because there is nothing to
    say ("-").
    """
    before, after = ["", *words[:-1]], [*words[1:], ""]
    ready = list(map(prepare, words, before, after))
    hard = list(map(is_hard, ready, before))
    alone = [read(one) if asked else tuple(latin(one)) for one, asked in zip(ready, hard, strict=True)]
    said = [list(one) for one in alone]
    for begin, end in islands(hard):
        together = read(" ".join(map(bounded, ready[begin:end], words[begin:end], after[begin:end])))
        said[begin:end] = shared(alone[begin:end], together, hard[begin:end])
    return said, [not one and any(c.isalnum() for c in word) for one, word in zip(alone, words, strict=True)]


def bare(word: str) -> str:
    """The word without what does not sound, with plain quotation marks and compatible characters ('ﬁ' → 'fi')."""
    kept = "".join(c if unicodedata.decomposition(c).startswith(("<fraction>", "<super>")) else
                   unicodedata.normalize("NFKC", c) for c in re.sub("[™®©\ufeff]", "", word))
    return kept.replace("’", "'").replace("‘", "'").replace("μ", "µ")


def split_tail(word: str) -> tuple[str, str]:
    """``bare`` word without outer marks, and the marks that followed it."""
    core = word if re.match(r"'\d0s|[<~][\d.,]+%?[.,;:!?]*$", word) else word.lstrip(OPENING)
    feet = FEET.match(core)
    stripped = feet[0] if feet and not core[feet.end():].strip(CLOSING + PAUSES) else core.rstrip(CLOSING + PAUSES)
    tail = core[len(stripped):]
    return (stripped if re.match(r"\.\d", stripped) else stripped.lstrip(PAUSES)), tail


def prepare(word: str, before: str, after: str) -> str:
    """One word as the library shall see it: a few words in the place of what it does not know, no outer marks but
    pauses. The empty string where nothing is to be said."""
    word = bare(word)
    core, tail = split_tail(word)
    if not core:
        return tables.SYMBOLS.get(word, "")
    if len(core) > WIDEST and not PLAIN.fullmatch(core):
        return ""
    pause = "".join(c for c in tail if c in PAUSES)
    neighbour = split_tail(bare(before))[0]
    if tail[:1] == "." and core + "." in tables.ABBREVIATIONS:
        return tables.ABBREVIATIONS[core + "."] + pause[1:]
    if core in tables.SHORT and tail[:1] != "." and (core != "St" or after[:1].isupper()):
        return tables.SHORT[core] + pause
    if INITIALS.fullmatch(core) and core + tail[:1] not in ("e.g.", "i.e.", "a.m.", "p.m."):
        return " ".join(core.upper().replace(".", " ").split()) + pause[tail[:1] == ".":]
    if core.lower() in ("a.m", "p.m") and not re.fullmatch(r"[\d:.]+", neighbour):
        return f"{core[0]} M".upper() + pause[tail[:1] == ".":]
    if core in tables.UNITS and AMOUNT.fullmatch(neighbour):
        return tables.UNITS[core][neighbour not in ("1", "1.0")] + pause
    if core.lower() == "no" and tail[:1] == "." and after[:1].isdigit():
        return "number"
    return rewritten(core) + pause


def bounded(ready: str, word: str, after: str) -> str:
    """A prepared word with a comma where a bracket parts it from the next: 'World War II (May 1942)' is of no 2nd of
    May."""
    parted = re.search(r"[A-Za-z.][)\]}>]", word) or re.match(r"[(\[{<][A-Za-z]", after)
    return f"{ready}," if ready and parted and ready[-1] not in PAUSES else ready


def rewritten(core: str) -> str:
    """A word in the forms that the library reads rightly."""
    if core in tables.SYMBOLS:
        return tables.SYMBOLS[core]
    if match := DATE_US.fullmatch(core):
        if 1 <= int(match[1]) <= 12 and 1 <= int(match[2]) <= 31:
            return f"{match[3]}-{int(match[1]):02d}-{int(match[2]):02d}"
    if re.fullmatch(r"[-−]\d+/\d+", core):
        return f"minus {core[1:]}"
    if re.fullmatch(r"[\d,]+(?:ST|ND|RD|TH)", core):
        return core.lower()
    if match := FEET.fullmatch(core):
        return f"{match[1]} feet {match[2]}"
    if match := MONEY_RANGE.fullmatch(core):
        return f"{match[1]}{match[2]} to {match[1]}{match[3]}"
    if match := MIXED.fullmatch(core):
        return f"{match[1]} {match[2] or fraction(match[3])}"
    if match := QUANTITY.fullmatch(core):
        if match[2] in tables.UNITS and match[2] != "s":  # 1980s
            return f"{match[1]} {tables.UNITS[match[2]][match[1] not in ('1', '1.0')]}"
    return core


def fraction(sign: str) -> str:
    """'½' → '1/2'."""
    return unicodedata.normalize("NFKC", sign).replace("⁄", "/")


def is_hard(ready: str, before: str) -> bool:
    """Whether the library has to look at a prepared word: it is not letters only, an abbreviation, or a numeral."""
    core = ready.rstrip(PAUSES)
    if not core:
        return False
    if all(WORD.fullmatch(part) for part in core.split()):
        if " " in core or len(core) > 5:
            return False
        if ready[len(core):len(core) + 1] == "." or core in ("Mr", "Mrs", "Ms", "vs"):
            if read(core + ".") != tuple(latin(core)):
                return True
        return ROMAN.fullmatch(core) is not None and (len(core) > 1 or before[:1].isupper() and before != "I")
    return any(c.isalnum() or c in tables.SYMBOLS for c in core)


@functools.lru_cache(1 << 16)
def read(text: str) -> tuple[str, ...]:
    """Spoken words of a prepared text."""
    said = re.sub(r"\b([ap]) m\b", lambda match: match[0].upper(), library().normalize(text))
    return tuple(word for token in said.split() for piece in finished(token) for word in latin(piece))


def finished(token: str) -> list[str]:
    """A token of the library's, with words in the place of the digits and symbols that it left."""
    core = split_tail(token)[0]
    if not core or PLAIN.fullmatch(core):
        return [core]
    return [word for piece in PIECE.findall(core.replace("’", "'")) for word in piece_words(piece)]


def piece_words(piece: str) -> list[str]:
    if piece[0].isalpha():
        return [piece]
    if (piece.isnumeric() or piece[0].isdigit()) and piece not in tables.SYMBOLS:
        said = re.findall("[A-Za-z]+", library().normalize(fraction(piece)))
        return said or [word for digit in piece if digit.isdigit()
                        for word in re.findall("[a-z]+", library().normalize(str(int(digit))))]
    return tables.INNER_SYMBOLS.get(piece, tables.SYMBOLS.get(piece, "")).split()


def latin(text: str) -> list[str]:
    """Words in plain letters: accents taken off, Greek letters named, anything else dropped."""
    out = ""
    for char in text:
        if char.isascii():
            out += char if char.isalpha() or char in "'- " else ""
            continue
        name = unicodedata.name(char, "")
        if "GREEK" in name and "LETTER" in name:
            letter = name.split("LETTER ")[1].split()[0].lower()
            out += f" {'lambda' if letter == 'lamda' else letter} "
            continue
        letters = tables.LETTERS.get(char) or unicodedata.normalize("NFKD", char)
        out += "".join(c if c.isascii() and (c.isalpha() or c in "'-") else
                       " " if c in "—–‒―" else "" for c in letters)
    return [clean for piece in out.split() if re.search("[A-Za-z]", clean := piece.strip("'-"))]
