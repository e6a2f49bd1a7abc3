import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.errors import DataError
from salad_ds.synth.normalize import plain, speakable

EXAMPLES = {
    "Mr. Smith paid $12.50 for 3 books in 1999; didn't he?":
        "Mister Smith paid twelve dollars and fifty cents for three books in nineteen ninety-nine; didn't he?",
    "It cost $3 million (about 20%) — or so.": "It cost three million dollars about twenty percent, or so.",
    "In the 1990s, e.g., 5 km at 20°C.":
        "In the nineteen nineties, for example, five kilometers at twenty degrees Celsius.",
    "On 2024-03-05 at 7:30 p.m. sharp": "On March fifth twenty twenty-four at seven thirty P M sharp",
    "Henry VIII, World War II": "Henry the eighth, World War two",
    "The U.S. is No. 1. No. Really!": "The U S is Number one. No. Really!",
    "1,250,000 or 3.14 or -5 or 007":
        "one million two hundred and fifty thousand or three point one four or minus five or zero zero seven",
    "naïve α-particles in the café": "naive alpha particles in the cafe",
    "word—word, COVID-19": "word word, COVID nineteen",
    "foo@bar.org & 10-20, 3/4 ½": "foo at bar dot org and ten to twenty, three quarters one half",
    "[see](/x/) *bold* “quoted”...": "see slash x slash bold quoted.",
    "1st 22nd": "first twenty-second",
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_readings(text):
    assert speakable(text).text == EXAMPLES[text]


def test_every_spoken_word_knows_its_original():
    spoken = speakable("About $12.50 — or 5 km.")
    assert [spoken.words[j] for j in range(len(spoken.words)) if spoken.owner[j] == 1] == \
        ["twelve", "dollars", "and", "fifty", "cents,"]
    assert 2 not in spoken.owner, "a dash is not spoken"
    assert spoken.n_words == 6


@pytest.mark.parametrize("text", ["", "   ", "--- ... !", "北京 大学", "the 北京 大学 学生"])
def test_what_cannot_be_spoken_is_refused(text):
    with pytest.raises(DataError):
        speakable(text)


@given(st.text(max_size=80) | st.text("0123456789.,-$%/: aIVXkm", max_size=40))
def test_any_text_gives_plain_words_or_a_data_error(text):
    try:
        spoken = speakable(text)
    except DataError:
        return
    assert all(re.fullmatch(r"[A-Za-z'-]*[A-Za-z][A-Za-z'-]*[,.;:!?]?", word) for word in spoken.words), spoken.words
    assert len(spoken.owner) == len(spoken.words)
    assert list(spoken.owner) == sorted(spoken.owner)
    assert spoken.n_words == len(re.findall(r"\S+", text)) > spoken.owner[-1]


def test_plain_compares_what_is_said():
    assert plain("It's 20 %, well-known!") == plain("its twenty percent well known")
    assert plain("?!") == ""
