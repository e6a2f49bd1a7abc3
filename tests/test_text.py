"""Words and tokens agree, for byte-level BPE and SentencePiece alike."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from salad_ds.errors import DataError
from salad_ds.text import count_words, split_words, start_token, text_key, tokenize, tokenizer_identity

WORDS = st.text(alphabet=st.characters(blacklist_categories=("Cs", "Zs", "Cc", "Zl", "Zp")), min_size=1, max_size=8)


@pytest.fixture(scope="session")
def sentencepiece_tokenizer(tmp_path_factory):
    """A small Llama-style tokenizer whose SentencePiece model is trained here on real sentences."""
    import sentencepiece
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("sp")
    corpus = [
        f"the {a} {b} of a {c} is {d} and not only {e}"
        for a in ("quick", "slow", "old")
        for b in ("speech", "text", "sound")
        for c in ("model", "teacher", "student")
        for d in ("heard", "read", "spoken")
        for e in ("here", "there")
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        vocab_size=120,
        byte_fallback=False,
        model_type="bpe",
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return AutoTokenizer.from_pretrained(directory)


@settings(max_examples=150)
@given(
    words=st.lists(WORDS, min_size=1, max_size=12),
    gaps=st.lists(st.sampled_from([" ", "  ", "\n", " \t"]), min_size=11, max_size=11),
)
def test_cutting_at_a_word_cuts_the_text_there(tokenizer, words, gaps):
    """Decoding the tokens of any run of words gives those words and nothing of their neighbours."""
    text = "".join(word + gap for word, gap in zip(words, gaps, strict=False)).rstrip()
    ranges = split_words(text)
    coded = tokenize(tokenizer, text, start_token(tokenizer))
    assert coded.n_words == len(ranges) and coded.word_starts[0] == 1 and coded.word_starts[-1] == len(coded.ids)
    assert list(coded.word_starts) == sorted(coded.word_starts)
    assume(tokenizer.decode(coded.ids[1:]) == text)  # SmolLM2 has no token for some rare bytes
    for i, (begin, end) in enumerate(ranges):
        first, last = coded.word_starts[i], coded.word_starts[i + 1]
        if first < last:
            assert tokenizer.decode(coded.ids[first:last]).split() == text[begin:end].split()


CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<file_sep>", "<s>", "</s>"]


@settings(max_examples=100)
@given(parts=st.lists(st.one_of(st.sampled_from([*CONTROLS, " ", "\n"]), WORDS), min_size=1, max_size=12))
def test_a_corpus_says_no_control_token(tokenizer, sentencepiece_tokenizer, parts):
    """Whatever a text holds, only its first id is special, and its words are cut as those of any text."""
    text = "".join(parts).strip()
    ranges = split_words(text)
    assume(ranges)
    for one in (tokenizer, sentencepiece_tokenizer):
        special = {number for number, token in one.added_tokens_decoder.items() if token.special}
        special -= {one.convert_tokens_to_ids("<unk>")} if one is sentencepiece_tokenizer else set()
        coded = tokenize(one, text, start_token(one))
        assert coded.ids[0] in special and not special & set(coded.ids[1:])
        assert coded.n_words == len(ranges) and coded.word_starts[-1] == len(coded.ids)
    coded = tokenize(tokenizer, text, start_token(tokenizer))
    assume(tokenizer.decode(coded.ids[1:]) == text)
    for i, (begin, end) in enumerate(ranges):
        first, last = coded.word_starts[i : i + 2]
        if first < last:
            assert tokenizer.decode(coded.ids[first:last]).split() == text[begin:end].split()


def test_a_prompt_may_say_control_tokens_after_a_corpus_was_read(tokenizer):
    """Reading a corpus leaves no trace in the tokenizer that prompts and options are read with."""
    before, text = tokenizer_identity(tokenizer), "so <|im_end|>"
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    coded = tokenize(tokenizer, text, start_token(tokenizer))
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == whole != list(coded.ids[1:])
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in whole and tokenizer_identity(tokenizer) == before
    plain = "Definition: a small boat"
    coded = tokenize(tokenizer, plain, start_token(tokenizer))
    assert tokenizer(plain, add_special_tokens=False)["input_ids"] == list(coded.ids[1:])


def test_sentencepiece_words_are_cut_where_they_begin(sentencepiece_tokenizer):
    text = "the old text of a teacher is read"
    coded = tokenize(sentencepiece_tokenizer, text, start_token(sentencepiece_tokenizer))
    pieces = [
        sentencepiece_tokenizer.decode(list(coded.ids[a:b])).strip()
        for a, b in zip(coded.word_starts, coded.word_starts[1:], strict=False)
    ]
    assert pieces == text.split()


def test_a_long_text_is_cut_at_a_word(tokenizer):
    text = "unquestionably " * 50
    whole = tokenize(tokenizer, text.strip(), start_token(tokenizer))
    part = tokenize(tokenizer, text.strip(), start_token(tokenizer), max_tokens=20)
    assert len(part.ids) <= 20 and part.ids == whole.ids[: len(part.ids)]
    assert part.word_starts == whole.word_starts[: len(part.word_starts)] and part.word_starts[-1] == len(part.ids)
    with pytest.raises(DataError, match="first word alone"):
        tokenize(tokenizer, "x" * 400, 0, max_tokens=3)


def test_an_empty_text_is_an_error(tokenizer):
    with pytest.raises(DataError, match="empty"):
        tokenize(tokenizer, " \n ", 0)


def test_the_key_depends_on_every_id_and_the_identity_not_on_the_last_call(tokenizer):
    assert text_key((1, 2)) != text_key((1, 3)) != text_key((1, 2, 3)) and len(text_key((1,))) == 16
    before = tokenizer_identity(tokenizer)
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert tokenizer_identity(tokenizer) == before


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from(" \t\n\x1c\x85\xa0\u2003\u200b\u3000"))))
@settings(max_examples=300)
def test_words_are_counted_as_they_are_split(text):
    assert count_words(text) == len(split_words(text))
