"""Word prediction on natural speech: what a student expects behind a span that it has heard.

The benchmarks of the paper are all synthetic speech. Here real recordings are interleaved as in training, and the first
DISTANCE words that follow each spoken span are predicted, each token given the true ones before it, under four
conditions: the student reads the span, hears it, hears another utterance's speech of the same length, hears silence.

    accuracy of words    share of words all of whose tokens are the student's likeliest
    accuracy of tokens   likewise
    KL                   KL( P(· | reading) ‖ P(· | hearing) ), nats per token, of the three ways to hear

By the word's distance from the span (1 is the word right behind it) and together; differences are paired. Standard
errors are over utterances: words of one utterance are not independent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from salad_ds.data.collate import Sequence
from salad_ds.data.interleave import Piece
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError
from salad_ds.measure.bench import Bench
from salad_ds.measure.blocks import BlockFile, Row
from salad_ds.measure.divergences import head_of, plainly, states_of
from salad_ds.measure.sequences import Block, Item, Told
from salad_ds.measure.statistics import ratio
from salad_ds.model.salad import SaladForConditionalGeneration
from salad_ds.text import TokenizedText, tokenize

DISTANCE = 5
HEARING = ("right", "wrong", "silence")
CONDITIONS = ("reading", *HEARING)
GAINS = (("reading", "right"), ("right", "wrong"), ("right", "silence"))
"""Differences of accuracies: the first minus the second."""


class Words:
    """``measure.words`` utterances of ``measure.speech``: a job of measure/sets.py."""

    name = "words"

    def __init__(self, bench: Bench) -> None:
        self.bench, self.settings = bench, bench.recipe.measure
        self.path = bench.path("words.json")
        self.source = bench.recipe.path(self.settings.speech)

    def made_from(self) -> dict[str, Any]:
        return self.bench.made_from("words", self.settings.words, DISTANCE,
                                    speech=ShardSet.open(self.source).identity())

    def measure(self, made_from: dict[str, Any]) -> None:
        order = self.bench.order(self.settings.speech, cached=True)
        planner = order.planner

        def work(block: Block) -> tuple[list[Row], Told]:
            items, unheard = order.items(block)
            texts = [tokenize(planner.tokenizer, order.meta(item.index)["text"], planner.start, planner.data.context)
                     for item in items]
            return predictions(self.bench.model, items, texts, self.settings.batch), unheard

        file = self.bench.file(self.name, made_from)
        self.bench.run(file, order, self.settings.words, work, "predict words at")

    def result(self, made_from: dict[str, Any]) -> dict[str, Any]:
        file = self.bench.file(self.name, made_from)
        table = stack(file)
        if not table["words"].sum():
            raise DataError(f"no word of {self.source} follows a spoken span", "measure longer utterances")
        overall = {name: values.sum(-1) for name, values in table.items()}
        return {
            "items": len(table["words"]), "spans": sum(row["spans"] for row in file.rows()), "distance": DISTANCE,
            "overall": accuracies(overall),
            "by_distance": [accuracies({name: values[..., d] for name, values in table.items()})
                            for d in range(DISTANCE)],
            "definition": {"word": "right where the likeliest token is the true one at each of its tokens",
                           "kl": "nats per token", "se": "standard error over utterances (ratio estimator)"},
            "skipped": file.skipped(),
        }  # fmt: skip

    def metrics(self, result: dict[str, Any]) -> dict[str, float]:
        return {f"words_{name}": result["overall"]["word"][name]["mean"] for name in CONDITIONS}


@torch.no_grad()
def predictions(
    model: SaladForConditionalGeneration, items: list[Item], texts: list[TokenizedText], batch: int
) -> list[Row]:
    """Counts and sums of each utterance, lists by distance: ``words``, ``tokens``; ``word.<condition>`` and
    ``token.<condition>`` predicted rightly; ``kl.<condition>`` nats. ``spans``: spoken spans with words behind them."""
    model.eval()
    ask, head, rows = plainly(model), head_of(model), []
    for begin in range(0, len(items), batch):
        part = items[begin : begin + batch]
        states = states_of(ask, part)
        owner, target_rows = states.batch.target_owner, states.batch.target_rows
        places: list[int] = []
        words: list[list[tuple[int, int, int]]] = []
        for i, (item, text) in enumerate(zip(part, texts[begin : begin + batch], strict=True)):
            first = int((owner < i).sum())
            mine = target_rows[owner == i].numpy()
            own = []
            for distance, opening, end in following(item.sequence, text):
                at = first + int(np.searchsorted(mine, opening - 1))  # row r of a text predicts its token r + 1
                own.append((distance, len(places), len(places) + end - opening))
                places += range(at, at + end - opening)
            words.append(own)
        chosen = torch.tensor(places, dtype=torch.long)
        labels = states.batch.labels[chosen]
        under = {"reading": states.reading, "right": states.right, "wrong": states.wrong, "silence": states.silence}
        hidden = {name: value[chosen.to(value.device)] for name, value in under.items() if value is not None}
        right = {name: hits(model, value, labels) for name, value in hidden.items()}
        kl = {name: head.kl(head.says(hidden["reading"]), hidden[name]).double().cpu() for name in HEARING}
        rows += [told(item.sequence, own, right, kl) for item, own in zip(part, words, strict=True)]
    return rows


def following(sequence: Sequence, text: TokenizedText) -> list[tuple[int, int, int]]:
    """(distance - 1, first token, end) of the first DISTANCE words behind every spoken span. A word whose tokens are
    shared with its neighbour's counts as one with it."""
    bounds = sorted(set(text.word_starts))
    found = []
    for before, piece in zip(sequence.pieces, sequence.pieces[1:], strict=False):
        if before.speech and not piece.speech:
            found += [(distance, *word) for distance, word in enumerate(words_in(piece, bounds)[:DISTANCE])]
    return found


def words_in(piece: Piece, bounds: list[int]) -> list[tuple[int, int]]:
    """Token ranges of the words that lie in the piece whole."""
    inside = [bound for bound in bounds if piece.first <= bound <= piece.last]
    return list(zip(inside[:-1], inside[1:], strict=True))


def hits(model: SaladForConditionalGeneration, hidden: Tensor, labels: Tensor, rows: int = 256) -> Tensor:
    """[N] bool: whether the likeliest token is the label."""
    likeliest = [model.logits(hidden[at : at + rows]).argmax(-1).cpu() for at in range(0, len(hidden), rows)]
    return torch.cat([*likeliest, torch.zeros(0, dtype=torch.long)]) == labels


def told(sequence: Sequence, words: list[tuple[int, int, int]], right: dict[str, Tensor], kl: dict[str, Tensor]) -> Row:
    """One utterance's row from its words (distance, place of the first token, end)."""
    row: dict[str, Any] = {"key": sequence.key, "spans": sum(distance == 0 for distance, _, _ in words)}
    names = ["words", "tokens", *(f"{kind}.{name}" for name in CONDITIONS for kind in ("word", "token"))]
    row |= {name: [0] * DISTANCE for name in names} | {f"kl.{name}": [0.0] * DISTANCE for name in HEARING}
    for distance, begin, end in words:
        row["words"][distance] += 1
        row["tokens"][distance] += end - begin
        for name, value in right.items():
            row[f"word.{name}"][distance] += int(value[begin:end].all())
            row[f"token.{name}"][distance] += int(value[begin:end].sum())
        for name, value in kl.items():
            row[f"kl.{name}"][distance] += float(value[begin:end].sum())
    return row


def stack(file: BlockFile) -> dict[str, np.ndarray]:
    """[utterances, DISTANCE] of every count and sum."""
    rows = list(file.rows())
    names = [name for name in (rows[0] if rows else {"words": []}) if name not in ("key", "spans")]
    return {name: np.array([row[name] for row in rows], dtype=float).reshape(len(rows), DISTANCE) for name in names}


def accuracies(table: dict[str, np.ndarray]) -> dict[str, Any]:
    """Accuracies, divergences and paired differences, each mean ± standard error, from [utterances] of each name."""
    counts = {"word": table["words"], "token": table["tokens"]}
    result: dict[str, Any] = {"words": int(table["words"].sum()), "tokens": int(table["tokens"].sum())}
    for kind, count in counts.items():
        result[kind] = {name: ratio(table[f"{kind}.{name}"], count) for name in CONDITIONS}
        result[f"{kind}_gain"] = {
            f"{one}_over_{other}": ratio(table[f"{kind}.{one}"] - table[f"{kind}.{other}"], count)
            for one, other in GAINS
        }
    result["kl"] = {name: ratio(table[f"kl.{name}"], table["tokens"]) for name in HEARING}
    result["kl_gain"] = {
        f"right_over_{other}": ratio(table[f"kl.{other}"] - table["kl.right"], table["tokens"])
        for other in ("wrong", "silence")
    }
    return result
