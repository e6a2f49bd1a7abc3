"""Words and tokens: where a text may be cut so that words, speech and tokens agree.

A *word* is a run of non-space characters. A *token* belongs to the word that holds its first non-space character.
This serves byte-level BPE (the leading space belongs to the token) and SentencePiece (``▁`` likewise) alike.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from salad_ds.errors import DataError, RecipeError
from salad_ds.files import digest_of

if TYPE_CHECKING:  # it takes seconds to import, and most processes that handle text have no tokenizer
    from transformers import PreTrainedTokenizerBase


def split_words(text: str) -> list[tuple[int, int]]:
    """Character ranges ``[start, end)`` of the words of ``text``, in order."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def count_words(text: str) -> int:
    """How many words split_words finds, six times faster."""
    return len(text.split())


@dataclass(frozen=True)
class TokenizedText:
    """A text as the LLM reads it, with the places where it may be cut.

    ``ids``: token ids, a document-start token first. ``word_starts[i]``: index in ``ids`` of the first token of the
    i-th word; ``word_starts[n_words] == len(ids)``. A word whose tokens cannot be told from its left neighbour's
    shares that neighbour's start (an empty range): such a boundary is not a cut.
    """

    ids: tuple[int, ...]
    word_starts: tuple[int, ...]

    @property
    def n_words(self) -> int:
        return len(self.word_starts) - 1

    @property
    def key(self) -> bytes:
        """The 16-byte address of this text in a teacher store of this tokenizer."""
        return text_key(self.ids)


def text_key(ids: tuple[int, ...] | list[int]) -> bytes:
    """16-byte BLAKE2b of the token ids as little-endian uint32."""
    return hashlib.blake2b(b"".join(int(i).to_bytes(4, "little") for i in ids), digest_size=16).digest()


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that opens every document: ``bos`` where the tokenizer adds one by itself, else ``eos``, else ``bos``.

    Qwen has no ``bos``, and the LLMs that were pre-trained on documents divided by ``<|endoftext|>`` know that token
    as 'a text begins here'.
    """
    opened = tokenizer("a", add_special_tokens=True)["input_ids"]
    if opened and opened[0] == tokenizer.bos_token_id:
        return int(opened[0])
    for name in ("<|endoftext|>",):
        found = tokenizer.convert_tokens_to_ids(name)
        if found is not None and found != tokenizer.unk_token_id:
            return int(found)
    for found in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        if found is not None:
            return int(found)
    raise RecipeError("the tokenizer has neither a bos nor an eos token", "use a tokenizer that has one of them")


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str, start: int, max_tokens: int | None = None) -> TokenizedText:
    """Tokenize ``text`` with the document-start id ``start`` in front, keeping the whole words that fit in
    ``max_tokens``.

    A text is cut here and nowhere else, with ``max_tokens = data.context`` in every station, so that its key is the
    same for the one that writes a teacher record and the one that looks it up.

    What looks like a control token (``<|im_end|>``) is read as the characters it is: a corpus does not speak to the
    LLM. A prompt may: what a user writes to a student (model/processing.py) keeps its control tokens.

    Raises DataError for an empty text, RecipeError for a tokenizer without character offsets.
    """
    words = split_words(text)
    if not words:
        raise DataError("the text is empty", "remove the sample")
    if not getattr(tokenizer, "is_fast", False):
        raise RecipeError(f"{type(tokenizer).__name__} gives no character offsets", "use the fast tokenizer")
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True)
    begins = [begin for begin, _ in words]
    ids, first = [start], [-1] * len(words)
    for token, (begin, end) in zip(coded["input_ids"], coded["offset_mapping"], strict=True):
        while begin < end and text[begin].isspace():
            begin += 1
        word = max(bisect_right(begins, begin) - 1, 0)
        if begin == end and begin > words[word][1] - 1 and word + 1 < len(words):
            word += 1  # a token of white space only belongs to the word that follows
        if first[word] < 0:
            first[word] = len(ids)
        ids.append(token)
    starts, following = [0] * len(words), len(ids)
    for word in reversed(range(len(words))):
        following = first[word] if first[word] >= 0 else following
        starts[word] = following
    starts[0] = 1
    bounds = (*starts, len(ids))
    if max_tokens is not None and len(ids) > max_tokens:
        kept = bisect_right(bounds, max_tokens) - 1
        if kept < 1:
            raise DataError("the first word alone is longer than the context", "remove the sample")
        bounds = bounds[: kept + 1]
    return TokenizedText(tuple(ids[: bounds[-1]]), bounds)


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex digest of what turns text into ids: the serialised fast tokenizer and the document-start id."""
    body = json.loads(tokenizer.backend_tokenizer.to_str())
    for state_of_the_last_call in ("padding", "truncation"):
        body.pop(state_of_the_last_call, None)
    return digest_of({"start": start_token(tokenizer), "tokenizer": body})
