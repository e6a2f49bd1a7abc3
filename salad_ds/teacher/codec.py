"""How the records of texts become bytes, and back, without loss. The store knows nothing but this interface; a shard
names its codec.

``ranked1``. Tokens are renamed by their *rank*: those that a shard keeps most often come first, as its own short list
says; all others follow in the order of their ids. A row's ranks are a set of which most members are small and close
together, as interpolative coding likes it: the 128 likeliest of 49,152 take 110 bytes (arbitrary sets: 160 at least).

A text, from its first byte:

- five numbers (LEB128): the fewest exact tokens of a row, and how many bits the rest of each row's number takes; the
  same of the drawn tokens; the length of the exponents in bytes;
- row by row the rest of both numbers and the rule's fields;
- the exponents of the rows' exact tokens, in the order of their ranks, each as that many 0s and a 1: an exponent is
  one octave, and every octave upwards has about half as many tokens;
- the mantissas in the same order, and with no gap the sets of ranks: the rows' exact tokens, then the rows' drawn
  tokens, as ``interpolative`` writes them.

Rows, exponents and mantissas begin with a new byte. Numbers are written least significant bit first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from salad_ds.errors import StoreError
from salad_ds.teacher import interpolative
from salad_ds.teacher.bits import WIDEST, Cursor, Reader, pack
from salad_ds.teacher.sampling import Record, Rule, join, nothing

WORTH = 12
"""A token that a shard keeps so many times pays for its place in the list."""
CHUNK = 1 << 20
"""Tokens that are encoded at once."""
LONGEST = 1 << 20
"""Tokens of a row, rows of a text: more is damage."""


class Coded(NamedTuple):
    """One text: ``data`` (uint8), its number of ``rows``, and the list of its shard: ``ranks[r]`` is a token."""

    data: np.ndarray
    rows: int
    ranks: np.ndarray


class RankedCodec:
    """``ranked1``, described in the module's docstring, for tokens below ``vocab`` and records of ``rule``."""

    name = "ranked1"

    def __init__(self, vocab: int, rule: Rule) -> None:
        if 2 * vocab >= 1 << WIDEST:
            raise StoreError(f"a vocabulary of {vocab} is beyond the codec {self.name}", "use a smaller vocabulary")
        self.vocab, self.rule = vocab, rule

    def rank(self, records: Sequence[Record]) -> np.ndarray:
        """The list of a shard with these records: tokens in the order of their ranks."""
        counts = np.zeros(self.vocab, dtype=np.int64)
        for chunk in chunks(records):
            whole = join(chunk)
            counts += np.bincount(np.concatenate([whole.ids, whole.drawn_ids]), minlength=self.vocab)
        listed = np.flatnonzero(counts >= WORTH)
        return listed[np.argsort(-counts[listed], kind="stable")]

    def encode(self, records: Sequence[Record], ranks: np.ndarray) -> list[bytes]:
        """Bytes of each record, for a shard with the list ``ranks``."""
        order = np.arange(len(ranks), len(ranks) + self.vocab)
        order[ranks] = np.arange(len(ranks))
        return [data for chunk in chunks(records) for data in self._encode(chunk, order, len(ranks))]

    def _encode(self, records: list[Record], order: np.ndarray, listed: int) -> list[bytes]:
        whole, texts = join(records), np.arange(len(records))
        text = np.repeat(texts, [len(record) for record in records])
        begins = np.searchsorted(text, texts)
        row = np.repeat(np.arange(len(whole)), whole.exact)
        token_text = text[row]
        sets, counts = sets_of(text, whole.exact, whole.drawn)
        bound = listed + self.vocab
        member_set = np.concatenate([np.repeat(sets[0], whole.exact), np.repeat(sets[1], whole.drawn)])
        members = order[np.concatenate([whole.ids, whole.drawn_ids])]
        places = member_set * bound + members
        sequence = np.argsort(places)
        if (np.diff(places[sequence]) == 0).any():
            raise ValueError("a row of a record has a token twice")
        members, exact = members[sequence], sequence[sequence < len(row)]
        exponents, mantissas = whole.exponents[exact], whole.mantissas[exact]

        expected = self.rule.expected_draws(whole.fields, row, whole.exponents, whole.mantissas)
        numbers = np.stack([whole.exact, whole.drawn - expected], 1)
        fewest = np.minimum.reduceat(numbers, begins)
        spread = np.maximum.reduceat(numbers, begins) - fewest
        count_bits = np.frexp(spread.astype(np.float64))[1].astype(np.int64)
        widths = np.concatenate([count_bits[text], np.tile(self.rule.field_bits, (len(whole), 1))], 1)
        values = np.concatenate([numbers - fewest[text], whole.fields], 1)
        rows, unary, body = (Cursor(np.zeros(len(records), dtype=np.int64)) for _ in range(3))
        unit = np.repeat(text, widths.shape[1])
        outer = [(unit, rows.take(unit, widths.ravel()), widths.ravel(), values.ravel())]
        ends = unary.take(token_text, exponents + 1) + exponents
        bits = self.rule.mantissa_bits(exponents, whole.fields[row])
        inner = [(token_text, body.take(token_text, bits), bits, mantissas)]
        inner += interpolative.write(members, counts, np.repeat(text, 2), np.full(len(counts), bound), body)

        heads = [b"".join(map(leb128, numbers)) for numbers in np.stack(
            [fewest[:, 0], count_bits[:, 0], fewest[:, 1], count_bits[:, 1], unary.at + 7 >> 3], 1).tolist()]
        head = np.array([len(data) for data in heads])
        sizes = np.stack([head, rows.at + 7 >> 3, unary.at + 7 >> 3, body.at + 7 >> 3], 1)
        starts = (np.cumsum(sizes.ravel()) - sizes.ravel()).reshape(sizes.shape) * 8
        ones = np.ones_like(ends)
        parts = [(starts[units, 1] + at, width, value) for units, at, width, value in outer]
        parts.append((starts[token_text, 2] + ends, ones, ones))
        parts += [(starts[units, 3] + at, width, value) for units, at, width, value in inner]
        positions, widths, values = (np.concatenate(column) for column in zip(*parts, strict=True))
        data = pack(positions, widths, values, int(sizes.sum()))
        borders = np.append(starts[:, 0] >> 3, len(data))
        for start, content in zip(borders[:-1], heads, strict=True):
            data[start:start + len(content)] = np.frombuffer(content, dtype=np.uint8)
        return [data[begin:end].tobytes() for begin, end in zip(borders[:-1], borders[1:], strict=True)]

    def decode(self, texts: Sequence[Coded]) -> Record:
        """The records of all texts under each other. Raises StoreError for bytes that ``encode`` cannot have made, as
        far as that can be told from them."""
        if not texts:
            return nothing(self.rule)
        head = np.array([self._head(text) for text in texts])
        fewest, count_bits, rows, unary, body = head[:, 0:3:2], head[:, 1:4:2], head[:, 4], head[:, 5], head[:, 6]
        reader = Reader(np.concatenate([text.data for text in texts]))
        borders = np.cumsum([0] + [len(text.data) for text in texts])
        text = np.repeat(np.arange(len(texts)), [text.rows for text in texts])

        widths = np.concatenate([count_bits[text], np.tile(self.rule.field_bits, (len(text), 1))], 1)
        unit = np.repeat(text, widths.shape[1])
        values = reader.read(Cursor((borders[:-1] + rows) * 8).take(unit, widths.ravel()), widths.ravel())
        values = values.reshape(widths.shape)
        numbers, fields = values[:, :2] + fewest[text], values[:, 2:]
        exact = numbers[:, 0]
        if (exact > self.vocab).any():
            raise damage("a row has more tokens than there are")

        tokens = np.bincount(text, exact, len(texts)).astype(np.int64)
        exponents = np.concatenate([self._exponents(part.data[begin:end], number) for part, begin, end, number in
                                    zip(texts, unary, body, tokens, strict=True)])
        row = np.repeat(np.arange(len(text)), exact)
        bits = self.rule.mantissa_bits(exponents, fields[row])
        if bits.max(initial=0) > WIDEST:
            raise damage("a probability is beyond all bounds")
        cursor = Cursor((borders[:-1] + body) * 8)
        mantissas = reader.read(cursor.take(text[row], bits), bits)

        drawn = numbers[:, 1] + self.rule.expected_draws(fields, row, exponents, mantissas)
        sets, counts = sets_of(text, exact, drawn)
        if (drawn < 0).any() or (drawn > min(self.rule.draws, self.vocab)).any():
            raise damage("a row has more draws than there can be")
        listed = np.array([len(text.ranks) for text in texts])
        members = interpolative.read(reader, counts, np.repeat(text, 2), np.repeat((listed + self.vocab)[text], 2),
                                     cursor)
        if (cursor.at + 7 >> 3 != borders[1:]).any():
            raise damage("it does not end where it should")
        ends = np.cumsum(np.bincount(np.repeat(text, 2), counts, len(texts)).astype(np.int64))
        for part, begin, end in zip(texts, ends - np.diff(ends, prepend=0), ends, strict=True):
            members[begin:end] = unrank(members[begin:end], part.ranks)
        is_exact = np.zeros(len(counts), dtype=bool)
        is_exact[sets[0]] = True
        is_exact = np.repeat(is_exact, counts)
        return Record(fields, exact, drawn, members[is_exact], exponents, mantissas, members[~is_exact])

    def _head(self, text: Coded) -> list[int]:
        """Fewest exact tokens of a row, bits of the rest, the same of the drawn; where rows, exponents and mantissas
        begin."""
        head, place = text.data[:25].tobytes(), 0
        numbers = []
        for _ in range(5):
            number, place = read_leb128(head, place)
            numbers.append(number)
        bits = numbers[1] + numbers[3]
        if max(numbers[1], numbers[3]) > WIDEST or not 0 < text.rows < LONGEST:
            raise damage("its first numbers are beyond all bounds")
        middle = place + ((bits + sum(self.rule.field_bits)) * text.rows + 7) // 8
        if middle + numbers[4] > len(text.data):
            raise damage("it is too short")
        return [*numbers[:4], place, middle, middle + numbers[4]]

    @staticmethod
    def _exponents(data: np.ndarray, tokens: int) -> np.ndarray:
        ones = np.flatnonzero(np.unpackbits(data, bitorder="little"))
        if len(ones) != tokens:
            raise damage("its tokens are not as many as its rows say")
        return np.diff(ones, prepend=-1) - 1


def sets_of(text: np.ndarray, exact: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of the sets of rows that belong to ``text`` [N] (ascending): of each text the exact ones, then the
    drawn ones. Returns their numbers [2, N] and, by number, their sizes [2 N]."""
    begin = np.searchsorted(text, text)
    own = np.arange(len(text)) - begin
    length = np.bincount(text, minlength=int(text.max(initial=-1)) + 1)[text]
    numbers = np.stack([2 * begin + own, 2 * begin + length + own])
    sizes = np.zeros(2 * len(text), dtype=np.int64)
    sizes[numbers[0]], sizes[numbers[1]] = exact, drawn
    return numbers, sizes


def chunks(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Neighbouring records, ``CHUNK`` tokens or a little more at a time."""
    chunk: list[Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += len(record.ids) + len(record.drawn_ids)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def unrank(places: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Token ids of ranks."""
    if not len(ranks):
        return places
    return np.where(places < len(ranks), ranks[np.minimum(places, len(ranks) - 1)].astype(np.int64),
                    places - len(ranks))


def leb128(number: int) -> bytes:
    """A number in as few bytes as it takes, seven bits in each."""
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])


def read_leb128(data: bytes, place: int) -> tuple[int, int]:
    """(number, place behind it). Raises StoreError where there is none."""
    number = shift = 0
    while place < len(data) and shift < 35:
        number |= (data[place] & 127) << shift
        place, shift = place + 1, shift + 7
        if data[place - 1] < 128:
            return number, place
    raise damage("it has no beginning")


def damage(why: str) -> StoreError:
    return StoreError(f"a record of the teacher store does not decode: {why}",
                      "verify the store: it names the damaged shard")
