"""What written words sound like."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.align.pronounce import VOWELS, by_rules, pronounce, to_arpabet
from salad_ds.align.spoken import READINGS, has_readings, plain_word, spoken_words
from salad_ds.synth.normalize import speakable

PHONES = VOWELS | set("B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split())


@pytest.mark.parametrize("word, spoken", [
    ("Call-Forward", "call forward"), ("...", ""), ("—", ""), ("don’t", "don't"), ("naïve,", "naive"),
    ("Mr.", "mister"),
    ("U.S.A.", "u s a"), ("www.asterisk.org.", "w w w dot asterisk dot org"),
    ("$12.50", "twelve dollars fifty cents"),
    ("$1", "one dollar"), ("21st", "twenty first"), ("28.8", "twenty eight point eight"),
    ("1,234", "one thousand two hundred thirty four"),
    ("1980s", "nineteen eighties"), ("5:30", "five thirty"), ("50%", "fifty percent"), ("3D", "three d"),
    ("007", "zero zero seven"), ("(e.g.,", "for example"),
])
def test_words(word, spoken):
    assert " ".join(spoken_words([word])[0]) == spoken


def test_words_are_read_in_their_text():
    assert spoken_words("In 1984 5 km cost $3 million".split()) == [
        ["in"], ["nineteen", "eighty", "four"], ["five"], ["kilometers"], ["cost"], ["three"], ["million", "dollars"]]


@pytest.mark.parametrize("word, readings", [
    ("1234", ["twelve thirty four", "one thousand two hundred thirty four", "twelve thirty four",
              "one two three four"]),
    ("500", ["five hundred", "five hundred", "five hundred", "five zero zero"]),
    ("505", ["five hundred five", "five hundred five", "five oh five", "five zero five"]),
    ("1905.", ["nineteen oh five", "one thousand nine hundred five", "nineteen oh five", "one nine zero five"]),
    ("1900", ["nineteen hundred", "one thousand nine hundred", "nineteen hundred", "one nine zero zero"]),
    ("2000", ["two thousand", "two thousand", "two thousand", "two zero zero zero"]),
    ("12", ["twelve", "twelve", "twelve", "one two"]),
    ("(90210)", ["ninety thousand two hundred ten"] * 3 + ["nine zero two one zero"]),
])
def test_numbers_have_readings(word, readings):
    assert has_readings(word)
    assert [" ".join(spoken_words([word], reading)[0]) for reading in READINGS] == readings


@pytest.mark.parametrize("text", ["1,234", "$12", "12.50", "21st", "5", "12:30", "no number"])
def test_what_is_read_in_one_way(text):
    assert not has_readings(text)


@given(st.lists(st.text(max_size=20).filter(lambda t: re.fullmatch(r"\S+", t)), max_size=6), st.sampled_from(READINGS))
def test_anything_becomes_plain_words(words, reading):
    spoken = spoken_words(words, reading)
    assert len(spoken) == len(words)
    assert all(re.fullmatch(r"[a-z]+(?:'+[a-z]+)*", one) for group in spoken for one in group)


@pytest.mark.parametrize("text", ["Mr. Lee paid $12.50 on 03/05/2024.", "It is 5 km at 20°C, e.g. in 1984."])
def test_an_engine_says_what_an_aligner_expects(text):
    said = re.sub("[,.;:!?]", "", speakable(text).text.lower()).replace("-", " ").split()
    assert [word for group in spoken_words(text.split()) for word in group] == said


def test_other_languages_keep_their_letters():
    assert plain_word("»Straße,") == ["straße"]
    assert plain_word("…") == []


@given(st.from_regex(r"[a-z]{1,12}", fullmatch=True))
def test_every_word_has_a_pronunciation(word):
    for phones in (pronounce(word), by_rules(word)):
        assert phones and set(phones.split()) <= PHONES


def test_pronunciations():
    assert pronounce("pbx") == "P IY B IY EH K S"
    assert pronounce("unmute") == "AH N M Y UW T"
    assert to_arpabet("kəmˈɪtər") and to_arpabet("wˈɜɹd") == "W ER D"
    assert by_rules("station") == "S T AE SH AH N"
