"""The prediction of words behind a span against its definition, computed for one utterance at a time in float64."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from salad_ds.data.collate import Sequence
from salad_ds.data.interleave import Piece
from salad_ds.measure.run import measure_checkpoint
from salad_ds.measure.sequences import silent
from salad_ds.measure.words import CONDITIONS, DISTANCE, HEARING, accuracies, following, predictions
from salad_ds.text import TokenizedText, start_token, tokenize
from tests.measure.naive import Naive


def words_behind(sequence: Sequence, text: str, tokenizer) -> list[tuple[int, list[int]]]:
    """(distance, token numbers) of the words behind every span, from the characters alone."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    number = [len(re.findall(r"\S+", text[:end])) - 1 for _, end in offsets]  # of the word that a token ends in
    found = []
    for before, piece in zip(sequence.pieces, sequence.pieces[1:], strict=False):
        if not before.speech or piece.speech:
            continue
        inside: dict[int, list[int]] = {}
        for token in range(piece.first, piece.last):
            inside.setdefault(number[token - 1], []).append(token)
        whole = [tokens for word, tokens in inside.items() if number.count(word) == len(tokens)]
        found += list(enumerate(whole[:DISTANCE]))
    return found


def test_every_word_is_its_definition_computed_alone(student, items, decided_llm_dir, speech_dir):
    model, tokenizer = student
    texts = {item.sequence.key: tokenizer.decode(item.sequence.ids[1:]) for item in items}
    tokenized = [tokenize(tokenizer, texts[item.sequence.key], start_token(tokenizer)) for item in items]
    assert all(text.ids == item.sequence.ids for text, item in zip(tokenized, items, strict=True))
    rows = predictions(model, items, tokenized, 3)
    naive = Naive(model, decided_llm_dir)
    seen = 0
    for item, row in zip(items, rows, strict=True):
        sequence = item.sequence
        ids = sequence.ids[: sequence.pieces[-1].last]
        with torch.no_grad():
            reading = dict(enumerate(naive.reading(naive.student.llm, ids)))
            waves = {"right": sequence.waves, "wrong": item.wrong.waves, "silence": silent(sequence).waves}
            says = {"reading": reading, **{name: naive.hearing(sequence, wave) for name, wave in waves.items()}}
        expected = {name: [0.0] * DISTANCE for name in row if name not in ("key", "spans")}
        behind = words_behind(sequence, texts[sequence.key], tokenizer)
        for distance, tokens in behind:
            expected["words"][distance] += 1
            expected["tokens"][distance] += len(tokens)
            for name, said in says.items():
                right = [int(said[token - 1].argmax()) == ids[token] for token in tokens]
                expected[f"token.{name}"][distance] += sum(right)
                expected[f"word.{name}"][distance] += all(right)
                if name != "reading":
                    expected[f"kl.{name}"][distance] += sum(
                        float((reading[t - 1].exp() * (reading[t - 1] - said[t - 1])).sum()) for t in tokens)
        assert row["key"] == sequence.key and row["spans"] == sum(distance == 0 for distance, _ in behind)
        for name, values in expected.items():
            assert row[name] == pytest.approx(values, rel=2e-4), name
        seen += len(behind)
    assert seen > 10 and sum(sum(row["kl.right"]) for row in rows) > 0.1


def test_a_word_that_the_context_cuts_is_left_out():
    text = TokenizedText(tuple(range(12)), (1, 2, 4, 4, 7, 9, 11, 12))
    pieces = [Piece(False, 0, 1, 1), Piece(True, 1, 2, 3), Piece(False, 2, 10, 8), Piece(True, 10, 12, 2)]
    found = following(Sequence("k", text.ids, pieces), text)
    assert found == [(0, 2, 4), (1, 4, 7), (2, 7, 9)], "token 9 alone is half a word; an empty word is no word"
    assert following(Sequence("k", text.ids, pieces[:2]), text) == []


def test_a_student_that_hears_is_told_from_one_that_does_not():
    """Sums whose answers are known: reading 0.8, right 0.6, wrong and silence 0.3 of the words."""
    random = np.random.default_rng(0)
    words = random.integers(3, 12, 200).astype(float)
    table = {"words": words, "tokens": 2 * words}
    for name, share in zip(CONDITIONS, (0.8, 0.6, 0.3, 0.3), strict=True):
        table[f"word.{name}"] = random.binomial(words.astype(int), share).astype(float)
        table[f"token.{name}"] = random.binomial((2 * words).astype(int), share).astype(float)
    for name, nats in zip(HEARING, (0.1, 0.4, 0.5), strict=True):
        table[f"kl.{name}"] = 2 * words * nats
    found = accuracies(table)
    assert found["words"] == words.sum() and found["tokens"] == 2 * words.sum()
    assert found["word"]["right"]["mean"] == pytest.approx(0.6, abs=0.05)
    assert found["kl_gain"]["right_over_wrong"] == pytest.approx({"mean": 0.3, "se": 0.0}, abs=1e-9)
    gain = found["word_gain"]
    assert gain["right_over_wrong"]["mean"] > 5 * gain["right_over_wrong"]["se"] > 0
    assert gain["reading_over_right"]["mean"] == pytest.approx(0.2, abs=0.06)
    pooled = np.sqrt(0.6 * 0.4 / words.sum())
    assert found["word"]["right"]["se"] == pytest.approx(pooled, rel=0.25)


def test_the_verb_measures_words(recipe, student_dir):
    recipe.measure.words = 3
    results = measure_checkpoint(recipe, str(student_dir))
    found = results["words"]
    assert found["items"] == 3 < results["speech"]["items"] and found["distance"] == DISTANCE == len(
        found["by_distance"])  # fmt: skip
    for key in ("words", "tokens"):
        assert sum(part[key] for part in found["by_distance"]) == found["overall"][key] > 0
    assert found["by_distance"][0]["words"] == found["spans"]
    assert found["overall"]["kl"]["right"]["mean"] > 0
    recipe.measure.words = 0
    assert "words" not in measure_checkpoint(recipe, str(student_dir))
