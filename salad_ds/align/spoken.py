"""What a written word sounds like, in plain words: ``$12.50`` → twelve dollars and fifty cents.

A whitespace word of a text becomes 0..n spoken words (lower-case letters and apostrophes). Numbers have several
readings ("1234": one thousand two hundred …, twelve thirty-four, one two three four); the aligner tries each and keeps
the one that fits the sound best.
"""

from __future__ import annotations

import re
import unicodedata

from num2words import num2words

READINGS = ("cardinal", "pairs", "digits")
"""Ways to say a run of digits; ``pairs`` is the way of years."""

SYMBOLS = {"&": "and", "%": "percent", "+": "plus", "=": "equals", "@": "at", "#": "number", "*": "star",
           "°": "degrees", "/": "slash"}
CURRENCIES = {"$": ("dollar", "dollars", "cents"), "£": ("pound", "pounds", "pence"), "€": ("euro", "euros", "cents")}
ABBREVIATIONS = {"mr.": "mister", "mrs.": "missus", "ms.": "miz", "dr.": "doctor", "st.": "saint", "vs.": "versus",
                 "e.g.": "for example", "i.e.": "that is", "etc.": "et cetera", "no.": "number", "jr.": "junior",
                 "sr.": "senior", "prof.": "professor"}
PLAIN = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "–": "-", "—": "-", "“": '"', "”": '"', "æ": "ae", "ø": "o"})
NUMBER = re.compile(r"(?P<currency>[$£€])?(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.(?P<part>\d+))?"
                    r"(?:(?P<ending>st|nd|rd|th|s)(?![a-z]))?")
PIECE = re.compile(NUMBER.pattern + r"|(?P<word>[a-z]+(?:'[a-z]+)*)|(?P<symbol>[&%+=@#*°/])")


def ascii_form(word: str) -> str:
    """Lower case, accents dropped, typographic quotes and dashes mapped to plain ones."""
    folded = unicodedata.normalize("NFKD", word.translate(PLAIN).lower())
    return "".join(char for char in folded if not unicodedata.combining(char))


def plain_word(word: str) -> list[str]:
    """The whitespace word of any language in lower case, without what is not said; empty where nothing is left.

    Numbers stay as they are: how they are read is known for English only.
    """
    kept = "".join(char for char in unicodedata.normalize("NFC", word.translate(PLAIN).lower())
                   if unicodedata.category(char)[0] in "LMN" or char == "'").strip("'")
    return [kept] if kept else []


def has_readings(text: str) -> bool:
    """Whether some number of ``text`` can be said in more than one way."""
    return re.search(r"\d\d", text) is not None


def spoken_words(word: str, reading: str = "cardinal") -> list[str]:
    """The plain words of one whitespace word; empty for one that is not spoken ("-", "...").

    ``reading``: one of READINGS, for runs of two and more digits that carry no comma, point, currency or ending.
    """
    plain = ascii_form(word)
    if (full := plain.strip("\"'()[],;:!?")) in ABBREVIATIONS:
        return ABBREVIATIONS[full].split()
    if re.fullmatch(r"(?:[a-z]\.){2,}[,;:!?]*", plain):  # U.S.A.
        return re.findall("[a-z]", plain)
    plain = re.sub(r"(\d{1,2}):(\d\d)(?!\d)", r"\1 \2", plain)
    plain = re.sub(r"(?<=[a-z])\.(?=[a-z])", " dot ", plain)  # www.asterisk.org
    out: list[str] = []
    for match in PIECE.finditer(plain):
        if match["word"]:
            out += list("www") if match["word"] == "www" else [match["word"]]
        elif match["symbol"]:
            if len(plain) == 1 or match["symbol"] not in "/*#":
                out += SYMBOLS[match["symbol"]].split()
        else:
            out += say_number(match, reading)
    return out


def say_number(match: re.Match[str], reading: str) -> list[str]:
    digits, part, ending, currency = match["whole"], match["part"], match["ending"], match["currency"]
    whole = int(digits.replace(",", ""))
    if len(digits) > 15:
        return plain_words(" ".join(num2words(int(digit)) for digit in digits if digit != ","))
    if currency:
        one, many, small = CURRENCIES[currency]
        said = f"{num2words(whole)} {one if whole == 1 else many}"
        if part and int(part):
            said += f" and {num2words(int((part + '0')[:2]))} {small}"
        return plain_words(said)
    if part:
        return plain_words(f"{num2words(whole)} point " + " ".join(num2words(int(digit)) for digit in part))
    if ending in ("st", "nd", "rd", "th"):
        return plain_words(num2words(whole, to="ordinal"))
    if ending == "s":  # 1980s
        words = plain_words(num2words(whole, to="year"))
        words[-1] = words[-1][:-1] + "ies" if words[-1].endswith("y") else words[-1] + "s"
        return words
    if "," not in digits and len(digits) > 1:
        if reading == "digits" or digits.startswith("0"):
            return plain_words(" ".join(num2words(int(digit)) for digit in digits))
        if reading == "pairs" and 3 <= len(digits) <= 4:
            if len(digits) == 3 and whole % 100:  # 545: five forty-five, 505: five oh five
                oh = "oh " if whole % 100 < 10 else ""
                return plain_words(f"{num2words(whole // 100)} {oh}{num2words(whole % 100)}")
            if len(digits) == 4:
                return plain_words(num2words(whole, to="year"))
    return plain_words(num2words(whole))


def plain_words(said: str) -> list[str]:
    # "one thousand, two hundred and one": Americans leave the "and" out, and so do most recordings we met
    return re.findall(r"[a-z]+", said.lower().replace(" and ", " ") if " cents" not in said else said.lower())
