"""Text as it is spoken: numbers, units, abbreviations and symbols become words, word by word.

Every spoken word keeps the index of the whitespace word it came from, so that word times measured on what was said
can be carried back to the original text, and so that tokens, words and speech agree. What is left is plain: letters,
apostrophes and inner hyphens, with ``,.;:!?`` kept at the end of a word because engines pause on them. Numbers are
spelled by ``num2words``. English only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from num2words import num2words

from salad_ds.errors import DataError
from salad_ds.synth import tables
from salad_ds.text import split_words

OPENING = "\"'“”‘’«»([{<¿¡*_`~|"
CLOSING = "\"'“”‘’«»)]}>*_`~|"
PAUSES = ",.;:!?"
DASHES = ("-", "–", "—", "--", "---", "―")
UNSPEAKABLE_SHARE = 0.1
"""A text is refused when more than this share of its words hold letters or digits and yet cannot be spoken."""

NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
MONEY = re.compile(rf"(-?)([$£€¥])({NUMBER})([kmb]|bn)?", re.I)
TIME = re.compile(r"(\d{1,2}):([0-5]\d)(?:[ap]\.?m\.?)?", re.I)
DATE_ISO = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})")
DATE_US = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})")
RANGE = re.compile(r"(\d[\d,]*)[-–—](\d[\d,]*)(%?)")
FRACTION = re.compile(r"(\d{1,3})[/⁄](\d{1,3})")
ORDINAL = re.compile(r"(\d[\d,]*)(st|nd|rd|th)", re.I)
DECADE = re.compile(r"(\d{2}|\d{4})['’]?s")
QUANTITY = re.compile(rf"([-−+±~]?)({NUMBER}|\.\d+)([^\d\s,.].*)?")
INITIALS = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]?")
ROMAN = re.compile(r"(?=[IVXLC])(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
PIECE = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|[^\W\d_]+(?:['’][^\W\d_]+)*|[^\w\s]|_")


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
    words: list[str] = []
    owner: list[int] = []
    mute = 0
    for i, original in enumerate(originals):
        before = originals[i - 1] if i else ""
        after = originals[i + 1] if i + 1 < len(originals) else ""
        spoken, pause = say_word(original, before, after)
        if spoken and pause:
            spoken[-1] += pause
        elif pause and words and words[-1][-1] not in PAUSES:
            words[-1] += pause
        mute += not spoken and any(c.isalnum() for c in original)
        words += spoken
        owner += [i] * len(spoken)
    if not words:
        raise DataError("nothing in the text can be spoken", "remove the sample")
    if mute > UNSPEAKABLE_SHARE * len(originals):
        raise DataError(f"{mute} of {len(originals)} words cannot be spoken in English", "remove the sample")
    return Spoken(tuple(words), tuple(owner), len(originals))


def plain(text: str) -> str:
    """``text`` for comparing what was said with what was heard: spoken words, lower case, letters and spaces only.
    The empty string where nothing can be spoken."""
    try:
        spoken = speakable(text).text.lower()
    except DataError:
        return ""
    return " ".join(re.sub(r"[^a-z ]", "", spoken.replace("-", " ")).split())


def say_word(original: str, before: str, after: str) -> tuple[list[str], str]:
    """Spoken words of one whitespace word with its neighbours in view, and the pause (``,`` ``.`` ...) after it."""
    core = unicodedata.normalize("NFKC", re.sub("[™®©]", "", original)).replace("’", "'").lstrip(OPENING)
    tail = ""
    while core and core[-1] in CLOSING + PAUSES:
        tail = core[-1] + tail
        core = core[:-1]
    if not re.match(r"\.\d", core):
        core = core.lstrip(PAUSES)
    if not core:
        return [], "," if original in DASHES else pause_of(tail)
    if tail[:1] == "." and core + "." in tables.ABBREVIATIONS and (core not in ("No", "Nos") or after[:1].isdigit()):
        return tables.ABBREVIATIONS[core + "."].split(), pause_of(tail[1:])
    if tail[:1] == "." and after and (INITIALS.fullmatch(core) or re.fullmatch("[A-Z]", core)):
        tail = tail[1:]  # the point of an initial or of 'U.S.' ends no sentence
    if core in DASHES:
        return [], ","
    pause = pause_of(tail)
    return [plain_word for piece in read(core, before, after).split() for plain_word in latin(piece)], pause


def pause_of(tail: str) -> str:
    """The one mark that speaks for a word's closing punctuation: ``!`` and ``?`` first, else the first pause."""
    return next((c for c in tail if c in "!?"), "") or next((c for c in tail if c in PAUSES), "")


def read(core: str, before: str, after: str) -> str:
    """A word without outer punctuation as words with blanks between them."""
    neighbour = before.strip(OPENING + CLOSING + PAUSES)
    following = after.strip(OPENING + CLOSING + PAUSES)
    if core in tables.UNITS and re.fullmatch(rf"[-−+~]?{NUMBER}", neighbour):
        return tables.UNITS[core][neighbour not in ("1", "1.0")]
    if following_money(neighbour) and core.lower() in tables.MAGNITUDES:
        return f"{core} {tables.CURRENCY[following_money(neighbour)][1]}"
    if neighbour.lower() in tables.NUMBERED and re.fullmatch(ROMAN, core):
        return cardinal(str(roman(core)))
    if neighbour in tables.REGNAL and len(core) > 1 and re.fullmatch(ROMAN, core):
        return f"the {ordinal(roman(core))}"
    if INITIALS.fullmatch(core) and "." in core:
        return " ".join(core.replace(".", " ").upper().split())
    for pattern, reader in READERS:
        match = pattern.fullmatch(core)
        if match:
            return reader(match, neighbour, following)
    if core in tables.SYMBOLS:
        return tables.SYMBOLS[core]
    if re.fullmatch(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", core):
        return core
    return " ".join(read_piece(piece) for piece in PIECE.findall(core))


def read_piece(piece: str) -> str:
    if piece[0].isdigit():
        return number(piece)
    return piece if piece[0].isalpha() else tables.INNER_SYMBOLS.get(piece, tables.SYMBOLS.get(piece, ""))


def following_money(word: str) -> str:
    """The currency sign of ``$12`` and the like, else the empty string."""
    match = MONEY.fullmatch(word)
    return match[2] if match and not match[4] else ""


def cardinal(digits: str) -> str:
    """Digits (with thousands commas and a decimal point) as words; over 15 digits, or with leading zeros, singly."""
    digits = digits.replace(",", "")
    whole = digits.partition(".")[0]
    if len(whole) > 15 or (len(whole) > 1 and whole[0] == "0"):
        return " ".join(num2words(int(c)) if c.isdigit() else "point" for c in digits)
    if "." in digits:
        return num2words(int(whole or "0")) + " point " + " ".join(num2words(int(c)) for c in digits.partition(".")[2])
    return num2words(int(digits)).replace(",", "")


def number(digits: str) -> str:
    """As ``cardinal``, but four digits from 1100 to 2099 are read as a year."""
    if re.fullmatch(r"1[1-9]\d\d|20\d\d", digits):
        return num2words(int(digits), to="year")
    return cardinal(digits)


def ordinal(value: int) -> str:
    return num2words(value, to="ordinal").replace(",", "")


def roman(numeral: str) -> int:
    values = [{"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}[c] for c in numeral]
    return sum(-v if i + 1 < len(values) and values[i + 1] > v else v for i, v in enumerate(values))


def money(match: re.Match[str], before: str, after: str) -> str:
    sign, symbol, amount, scale = match.groups()
    one, many, cent, cents = tables.CURRENCY[symbol]
    minus = "minus " if sign else ""
    if scale:
        return f"{minus}{cardinal(amount)} {tables.SCALES[scale.lower()]} {many}"
    if after.lower() in tables.MAGNITUDES:  # '$3 million': the unit is said after the magnitude
        return minus + cardinal(amount)
    whole, _, part = amount.replace(",", "").partition(".")
    said = f"{minus}{cardinal(whole)} {one if whole == '1' else many}"
    if len(part) == 2 and cents:
        return said + (f" and {cardinal(str(int(part)))} {cent if int(part) == 1 else cents}" if int(part) else "")
    return f"{minus}{cardinal(amount)} {many}" if part else said


def time(match: re.Match[str], before: str, after: str) -> str:
    hour, minute = int(match[1]), int(match[2])
    half = re.search(r"([ap])\.?m", match[0], re.I)
    mark = f" {half[1].upper()} M" if half else ""
    if hour > 24:
        return f"{cardinal(match[1])} {cardinal(str(minute))}"
    if minute == 0:
        return num2words(hour) + (mark or ("" if re.match(r"[ap]\.?m", after, re.I) else " o'clock"))
    return f"{num2words(hour)} {'oh ' if minute < 10 else ''}{num2words(minute)}{mark}"


def date(year: str, month: str, day: str) -> str:
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return " ".join(cardinal(part) for part in (year, month, day))
    return f"{tables.MONTHS[int(month) - 1]} {ordinal(int(day))} {num2words(int(year), to='year')}"


def fraction(match: re.Match[str], before: str, after: str) -> str:
    above, below = int(match[1]), int(match[2])
    if above < below and below in (2, 3, 4, 5, 6, 7, 8, 9, 10):
        name = {2: "half", 4: "quarter"}.get(below) or ordinal(below)
        return f"{num2words(above)} {name}{'s' if above > 1 else ''}"
    return f"{num2words(above)} over {num2words(below)}"


def quantity(match: re.Match[str], before: str, after: str) -> str:
    """``12``, ``-3.5``, ``12%``, ``20°C``, ``5km``, ``100x``: a number with what is glued to it."""
    sign, digits, unit = match.groups()
    signs = {"": "", "+": "plus ", "±": "plus or minus ", "~": "about "}
    said = signs.get(sign, "minus ") + (cardinal("0" + digits) if digits[0] == "." else
                                        cardinal(digits) if unit or sign else number(digits))
    if not unit:
        return said
    if unit in tables.UNITS:
        return f"{said} {tables.UNITS[unit][digits not in ('1', '1.0')]}"
    return f"{said} " + " ".join(read_piece(piece) for piece in PIECE.findall(unit))


def decade(match: re.Match[str], before: str, after: str) -> str:
    said = num2words(int(match[1]), to="year") if len(match[1]) == 4 else num2words(int(match[1]))
    return said[:-1] + "ies" if said.endswith("y") else said + "s"


READERS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], str, str], str]], ...] = (
    (MONEY, money),
    (TIME, time),
    (DATE_ISO, lambda m, b, a: date(m[1], m[2], m[3])),
    (DATE_US, lambda m, b, a: date(m[3], m[1], m[2])),
    (RANGE, lambda m, b, a: f"{number(m[1])} to {number(m[2])}{' percent' if m[3] else ''}"),
    (FRACTION, fraction),
    (ORDINAL, lambda m, b, a: ordinal(int(m[1].replace(",", "")))),
    (DECADE, decade),
    (QUANTITY, quantity),
)


def latin(word: str) -> list[str]:
    """A word in plain letters: accents taken off, Greek letters named, anything else dropped. Zero or more words."""
    out = ""
    for char in word:
        name = unicodedata.name(char, "")
        if "GREEK" in name and "LETTER" in name:
            out += f" {name.split('LETTER ')[1].split()[0].lower()} "
            continue
        bare = tables.LETTERS.get(char) or unicodedata.normalize("NFKD", char)
        out += "".join(c if c.isascii() and (c.isalpha() or c in "'-") else
                       " " if c in "—–‒―" else "" for c in bare)
    return [clean for piece in out.split() if re.search("[A-Za-z]", clean := piece.strip("'-"))]
