from hypothesis import given
from hypothesis import strategies as st

from salad_ds.synth.normalize import Spoken
from salad_ds.synth.phonemes import alphabet, chunks, phonemes_of_words, reader

WORD = st.text("abc", min_size=1, max_size=8)


@given(st.lists(st.tuples(WORD, st.sampled_from(["", "", "", ",", ".", "?"])), min_size=1, max_size=40),
       st.integers(1, 30))
def test_pieces_hold_every_word_in_order_end_with_sentences_and_fit_the_model(entries, limit):
    words = tuple(word + pause for word, pause in entries)
    pieces = list(chunks(Spoken(words, tuple(range(len(words))), len(words)), list(words), limit))
    assert [of_word for piece in pieces for of_word in piece] == [word[:limit] for word in words]
    assert all(len(" ".join(piece)) <= limit for piece in pieces)
    at = 0
    for piece in pieces:
        ends = [word[-1] in ".?" for word in words[at:at + len(piece)]]
        assert not any(ends[:-1]), "a sentence end ends a piece"
        at += len(piece)


def test_every_spoken_word_has_phonemes_of_the_alphabet():
    words = ("well-known", "people", "don't", "read", "the", "U.S.", "news,", "Xyzzqw!")
    found = phonemes_of_words(reader(False), Spoken(words, tuple(range(len(words))), len(words)))
    assert len(found) == len(words) and all(any(char in alphabet() for char in of_word) for of_word in found)
    british = phonemes_of_words(reader(True), Spoken(("the", "bath"), (0, 1), 2))
    assert british != phonemes_of_words(reader(False), Spoken(("the", "bath"), (0, 1), 2))
