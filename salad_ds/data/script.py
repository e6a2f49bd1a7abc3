"""Is a text written in the letters of its language? A transcript in another script is another recording's, or a
translation: the commonest silent fault of scraped speech.

The rule: of all letters, count those whose Unicode script the language is written in (*own*) and the others
(*foreign*); in a language that is not written in Latin letters, Latin ones count as neither once there are own ones,
for names and loan words stand in every text. A text with more foreign than own letters is in another script. Languages
that are not in the table, and texts without letters, are not judged.
"""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter

LATIN = (
    "af az bs ca ceb cs cy da de en eo es et eu fi fil fo fr fy ga gd gl ha hr ht hu id ig is it jv la lb lt lv mg mi "
    "ms mt nb nl nn no oc pl pt rm ro rw sk sl sn so sq st su sv sw tl tn tr uz vi wo xh yo zu"
)
OTHERS = {
    "CYRILLIC": "be bg kk ky mk mn ru tg tt uk", "ARABIC": "ar fa ku ps sd ug ur", "HEBREW": "he yi", "GREEK": "el",
    "DEVANAGARI": "hi mr ne sa", "BENGALI": "as bn", "GURMUKHI": "pa", "GUJARATI": "gu", "TAMIL": "ta", "TELUGU": "te",
    "KANNADA": "kn", "MALAYALAM": "ml", "SINHALA": "si", "THAI": "th", "LAO": "lo", "MYANMAR": "my", "KHMER": "km",
    "GEORGIAN": "ka", "ARMENIAN": "hy", "ETHIOPIC": "am ti", "CJK BOPOMOFO": "cmn yue zh",
    "CJK HIRAGANA KATAKANA": "ja", "HANGUL CJK": "ko", "CYRILLIC LATIN": "sr sh",
}  # fmt: skip
SCRIPTS: dict[str, frozenset[str]] = {language: frozenset(["LATIN"]) for language in LATIN.split()} | {
    language: frozenset(scripts.split()) for scripts, languages in OTHERS.items() for language in languages.split()
}
"""Language (the first part of a tag such as ``zh-Hant``) → the scripts it is written in."""
KNOWN = frozenset().union(*SCRIPTS.values()) | frozenset(
    "ORIYA TIBETAN MONGOLIAN SYRIAC THAANA TIFINAGH CHEROKEE COPTIC GOTHIC JAVANESE BALINESE NKO VAI YI OL "
    "MEETEI".split()
)


@functools.lru_cache(1 << 16)
def script_of(letter: str) -> str:
    """The script of a letter, by its Unicode name; "" for what is of none that we know."""
    words = unicodedata.name(letter, "").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ").split()
    return words[0] if words and words[0] in KNOWN else ""


def other_script(text: str, language: str) -> str:
    """The script that most foreign letters are of, where ``text`` is not in a script of ``language``; else ""."""
    own = SCRIPTS.get(language.lower().replace("_", "-").split("-")[0])
    if own is None or own == {"LATIN"} and text.isascii():
        return ""
    counts = Counter(map(script_of, filter(str.isalpha, text)))
    del counts[""]
    ours = sum(counts.pop(script, 0) for script in own)
    if ours:
        del counts["LATIN"]
    foreign = counts.most_common(1)
    return foreign[0][0] if foreign and counts.total() > ours else ""
