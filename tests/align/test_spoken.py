"""What written words sound like."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.align.pronounce import VOWELS, by_rules, pronounce, to_arpabet
from salad_ds.align.spoken import READINGS, spoken_words

PHONES = VOWELS | set("B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split())


@pytest.mark.parametrize("word, spoken", [
    ("Call-Forward", "call forward"), ("...", ""), ("—", ""), ("don’t", "don't"), ("naïve,", "naive"),
    ("Mr.", "mister"),
    ("U.S.A.", "u s a"), ("www.asterisk.org.", "w w w dot asterisk dot org"),
    ("$12.50", "twelve dollars and fifty cents"),
    ("$1", "one dollar"), ("21st", "twenty first"), ("28.8", "twenty eight point eight"),
    ("1,234", "one thousand two hundred thirty four"),
    ("1980s", "nineteen eighties"), ("5:30", "five thirty"), ("50%", "fifty percent"), ("3D", "three d"), ("*", "star"),
    ("007", "zero zero seven"), ("(e.g.,", "for example"),
])
def test_words(word, spoken):
    assert " ".join(spoken_words(word)) == spoken


@pytest.mark.parametrize("word, readings", [
    ("1234", ["one thousand two hundred thirty four", "twelve thirty four", "one two three four"]),
    ("500", ["five hundred", "five hundred", "five zero zero"]),
    ("505", ["five hundred five", "five oh five", "five zero five"]),
])
def test_numbers_have_readings(word, readings):
    assert [" ".join(spoken_words(word, reading)) for reading in READINGS] == readings


@given(st.text(max_size=30).filter(lambda t: not re.search(r"\s", t)), st.sampled_from(READINGS))
def test_anything_becomes_plain_words(word, reading):
    assert all(re.fullmatch(r"[a-z]+(?:'[a-z]+)*", spoken) for spoken in spoken_words(word, reading))


@given(st.from_regex(r"[a-z]{1,12}", fullmatch=True))
def test_every_word_has_a_pronunciation(word):
    for phones in (pronounce(word), by_rules(word)):
        assert phones and set(phones.split()) <= PHONES


def test_pronunciations():
    assert pronounce("pbx") == "P IY B IY EH K S"
    assert pronounce("unmute") == "AH N M Y UW T"
    assert to_arpabet("kəmˈɪtər") and to_arpabet("wˈɜɹd") == "W ER D"
    assert by_rules("station") == "S T AE SH AH N"
