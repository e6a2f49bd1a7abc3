"""How a word that is not in the aligner's dictionary is pronounced, in ARPAbet.

In this order: abbreviations without a vowel are spelled; hibari's grapheme-to-phoneme model (misaki's lexicon and a
small network) where ``hibari-tts`` is installed; letter-to-sound rules of a few lines otherwise. The last are crude:
they keep the utterance alignable, since one roughly pronounced word hardly moves its neighbours.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

VOWELS = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())

# misaki's alphabet, as hibari and Kokoro use it, to ARPAbet
PHONES = {
    "A": "EY", "I": "AY", "O": "OW", "W": "AW", "Y": "OY", "Q": "OW", "ɑ": "AA", "ɒ": "AA", "æ": "AE", "a": "AE",
    "ə": "AH", "ᵊ": "AH", "ʌ": "AH", "ɔ": "AO", "ɛ": "EH", "ɜ": "ER", "ɪ": "IH", "i": "IY", "ʊ": "UH", "u": "UW",
    "ᵻ": "IH", "b": "B", "ʧ": "CH", "d": "D", "ð": "DH", "f": "F", "ɡ": "G", "h": "HH", "ʤ": "JH", "k": "K", "l": "L",
    "m": "M", "n": "N", "ŋ": "NG", "p": "P", "ɹ": "R", "s": "S", "ʃ": "SH", "t": "T", "T": "T", "ɾ": "T", "θ": "TH",
    "v": "V", "w": "W", "j": "Y", "z": "Z", "ʒ": "ZH", "ʔ": "T",
}

LETTERS = {
    "a": "EY", "b": "B IY", "c": "S IY", "d": "D IY", "e": "IY", "f": "EH F", "g": "JH IY", "h": "EY CH", "i": "AY",
    "j": "JH EY", "k": "K EY", "l": "EH L", "m": "EH M", "n": "EH N", "o": "OW", "p": "P IY", "q": "K Y UW",
    "r": "AA R", "s": "EH S", "t": "T IY", "u": "Y UW", "v": "V IY", "w": "D AH B AH L Y UW", "x": "EH K S",
    "y": "W AY", "z": "Z IY",
}

RULES = {
    "tion": "SH AH N", "sion": "ZH AH N", "ough": "AO", "igh": "AY", "tch": "CH", "ch": "CH", "sh": "SH", "th": "TH",
    "ph": "F", "wh": "W", "ck": "K", "ng": "NG", "qu": "K W", "ee": "IY", "ea": "IY", "oo": "UW", "ou": "AW",
    "ow": "OW", "oi": "OY", "oy": "OY", "ai": "EY", "ay": "EY", "au": "AO", "aw": "AO", "er": "ER", "ir": "ER",
    "ur": "ER", "a": "AE", "b": "B", "c": "K", "d": "D", "e": "EH", "f": "F", "g": "G", "h": "HH", "i": "IH",
    "j": "JH", "k": "K", "l": "L", "m": "M", "n": "N", "o": "AA", "p": "P", "q": "K", "r": "R", "s": "S", "t": "T",
    "u": "AH", "v": "V", "w": "W", "x": "K S", "y": "IY", "z": "Z",
}


def to_arpabet(phonemes: str) -> str:
    """misaki phonemes → ARPAbet, stress marks dropped; ``ə``/``ɜ`` before ``ɹ`` become ER."""
    out: list[str] = []
    for char in phonemes:
        phone = PHONES.get(char)
        if phone is None:
            continue
        if phone == "R" and out and out[-1] in ("ER", "AH"):
            out[-1] = "ER"
        else:
            out.append(phone)
    return " ".join(out)


def spell(word: str) -> str:
    return " ".join(LETTERS[letter] for letter in word if letter in LETTERS)


def by_rules(word: str) -> str:
    """Letter-to-sound rules: longest match first, doubled letters once, a final silent e dropped."""
    word = re.sub(r"([^aeiou'])\1", r"\1", word.replace("'", ""))
    if re.search(r"[aeiou][^aeiou]+e$", word) and len(word) > 3:
        word = word[:-1]
    out, place = [], 0
    while place < len(word):
        for size in (4, 3, 2, 1):
            piece = word[place:place + size]
            if len(piece) == size and piece in RULES:
                out.append(RULES[piece])
                break
        else:
            size = 1
        place += size
    return " ".join(out)


@functools.cache
def network() -> Callable[[str], str] | None:
    """hibari's grapheme-to-phoneme model, or None where it is not installed. Loading takes half a second."""
    try:
        from hibari.g2p import G2P
    except ImportError:
        return None
    return G2P()


def pronounce(word: str) -> str:
    """ARPAbet phones of a lower-case word of letters and apostrophes, separated by spaces; "" if it has no letters."""
    letters = word.replace("'", "")
    if letters and not re.search("[aeiouy]", letters):
        return spell(letters)
    g2p = network()
    phones = to_arpabet(g2p(word)) if g2p is not None else ""
    return phones if set(phones.split()) & VOWELS else by_rules(word)
