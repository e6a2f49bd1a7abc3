"""The script rule, on texts as corpora have them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.data.script import SCRIPTS, other_script, script_of


@pytest.mark.parametrize(("text", "language", "script"), [
    ("Привет, как дела?", "en", "CYRILLIC"), ("你好，世界", "en", "CJK"), ("きょうはいい天気", "en-US", "HIRAGANA"),
    ("hello there", "ru", "LATIN"), ("hello there", "zh", "LATIN"), ("안녕하세요", "ja", "HANGUL"),
    ("مرحبا بالعالم", "de", "ARABIC"), ("བཀྲ་ཤིས་བདེ་ལེགས", "en", "TIBETAN"),
    ("The word мир means peace.", "en", ""), ("naïve café, Über, Øre", "EN", ""), ("我用 iPhone 打电话", "zh-Hans", ""),
    ("он купил iPhone Pro Max Ultra", "ru", ""), ("ｈｅｌｌｏ", "en", ""), ("これはテストです", "ja", ""),
    ("漢字だけ", "ja_JP", ""), ("Добар дан", "sr", ""), ("Dobar dan", "sr", ""), ("1984 — 42 !?", "en", ""),
    ("", "en", ""), ("ⴰⵣⵓⵍ", "xx", ""), ("anything", "", ""), ("Ω = 3 µm, x² ≤ π, the rest is text", "en", ""),
])  # fmt: skip
def test_examples(text, language, script):
    assert other_script(text, language) == script


@given(st.text(), st.sampled_from(sorted(SCRIPTS)), st.text("abcdefghij XYZ.,'"))
def test_latin_beside_own_letters_never_tells_against_a_text(text, language, latin):
    if any(script_of(letter) in SCRIPTS[language] for letter in text) and not other_script(text, language):
        assert not other_script(text + latin, language)


@given(st.text(st.characters(exclude_categories=("L",))), st.sampled_from(sorted(SCRIPTS)))
def test_what_is_no_letter_is_not_judged(text, language):
    assert not other_script(text, language)
