"""What is measured: utterances in a seeded order, and what a student is given to hear in each of them.

They come in *blocks*, planned as they are asked for, so that a corpus of any size streams through. Which utterances
there are, how each is interleaved and whose speech is its wrong speech depend on (corpus, seed, position in the order)
alone: not on the number of ranks, nor on how often the measurement was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from salad_ds.config import Recipe, SourceConfig
from salad_ds.data.collate import Sequence
from salad_ds.data.features import require_features, wanted_format
from salad_ds.data.lanes import Journal, with_journal
from salad_ds.data.order import permuted, stable_seed
from salad_ds.data.plan import Plan, Planner
from salad_ds.model.salad import SaladForConditionalGeneration

BLOCK = 32
"""Utterances of a block: what a killed measurement does again, per rank."""
DRAWS = 8
"""Interleavings tried for an utterance."""
NO_TARGET = "no text follows its speech"
"""Why an utterance that is sound is not measured: it is too short to be interleaved."""

Told = list[tuple[str, str]]
"""(reason, name) of samples that were passed over."""


@dataclass(frozen=True)
class Mark:
    """How far a walk has come: blocks, positions of the order, utterances chosen, samples that could not be used."""

    blocks: int = 0
    position: int = 0
    chosen: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Block:
    """Neighbours of the order: (position, plan) of those that can be measured. ``behind``: the mark after them."""

    behind: Mark
    plans: list[tuple[int, Plan]]
    skipped: Told


@dataclass(frozen=True)
class Item:
    """One utterance, its number in the shards, and the same utterance with another one's speech."""

    index: int
    sequence: Sequence
    wrong: Sequence


def planner_for(
    recipe: Recipe,
    sources: list[SourceConfig],
    model: SaladForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
) -> Planner:
    """A planner with the arithmetic of this student's encoder and adapter, and with cached frames where the recipe asks
    for them."""
    cached = wanted_format(model.encoder, recipe.data)  # type: ignore[arg-type]
    if cached is not None:
        require_features([recipe.path(source.path) for source in sources], cached)
    return Planner(sources, recipe.path, recipe.data, tokenizer, model.hearing, cached)


class Order:
    """The samples of a planner's one source, in a seeded order.

    Of speech, those that have a text target behind some speech: a short utterance whose interleaving ends in speech, or
    has none, is drawn again up to DRAWS times. Of text, all that can be read.
    """

    def __init__(self, planner: Planner, seed: int) -> None:
        self.planner = with_journal(planner)
        self.journal: Journal = self.planner.skipped  # type: ignore[assignment]
        self.shards, self.size = planner.shards[0], len(planner.shards[0])
        self.spoken = planner.sources[0].kind == "speech"
        self.seed = stable_seed(seed, "measure")

    def plan(self, position: int) -> Plan | None:
        """The sample at ``position``; None where it cannot be measured (then the journal says why)."""
        index = permuted(position, self.size, self.seed)
        for draw in range(DRAWS if self.spoken else 1):
            plan = self.planner.plan(0, draw, index, self.seed)
            if plan is None or not self.spoken or heard_targets(plan.pieces):
                return plan
        self.journal.skip(NO_TARGET, plan.key)  # type: ignore[union-attr]
        return None

    def blocks(self, items: int, start: Mark | None = None) -> Iterator[Block]:
        """Up to ``items`` (0: all) utterances, a block at a time, from ``start`` on. Nothing but text is read."""
        mark = start or Mark()
        while mark.position < self.size and (not items or mark.chosen < items):
            plans: list[tuple[int, Plan]] = []
            position = mark.position
            while position < self.size and len(plans) < BLOCK and (not items or mark.chosen + len(plans) < items):
                if (plan := self.plan(position)) is not None:
                    plans.append((position, plan))
                position += 1
            skipped = self.journal.drain()[1]
            mark = Mark(mark.blocks + 1, position, mark.chosen + len(plans), mark.lost + faults(skipped))
            yield Block(mark, plans, skipped)

    def load(self, block: Block) -> tuple[list[tuple[int, Sequence]], Told]:
        """(position, sequence) of a block's utterances with their sound, and what could not be loaded."""
        loaded = [(position, sequence) for position, plan in block.plans
                  if (sequence := self.planner.load(plan)) is not None]  # fmt: skip
        return loaded, self.journal.drain()[1]

    def items(self, block: Block, controls: bool = True) -> tuple[list[Item], Told]:
        """The block's utterances, each with the speech of the next one of the order that says something else; the last
        one's is looked for beyond the block. Without ``controls`` with its own."""
        loaded, skipped = self.load(block)
        items = []
        for number, (position, sequence) in enumerate(loaded):
            donor = sequence
            if controls:
                inside = (other for _, other in loaded[number + 1 :] if other.ids != sequence.ids)
                donor = next(inside, None) or self.beyond(position, block.behind.position, sequence)
            index = permuted(position, self.size, self.seed)
            items.append(Item(index, sequence, sequence if donor is sequence else with_speech_of(sequence, donor)))
        self.journal.drain()  # a donor that cannot be used is counted in its own block
        return items, skipped

    def beyond(self, position: int, begin: int, own: Sequence) -> Sequence:
        """The first utterance from position ``begin`` on, and again from 0, with another text; ``own`` where none
        has."""
        for step in range(self.size - (begin - position)):
            plan = self.plan((begin + step) % self.size)
            if plan is not None and plan.ids != own.ids:
                sequence = self.planner.load(plan)
                if sequence is not None:
                    return sequence
        return own

    def meta(self, index: int) -> dict[str, Any]:
        """Metadata of the sample with this number in the shards."""
        return self.shards.read(index, audio=False).meta


def held_out(planner: Planner, items: int, seed: int) -> list[Item]:
    """The first ``items`` utterances of the order, all at once: for a few of them."""
    order = Order(planner, seed)
    return [item for block in order.blocks(items) for item in order.items(block)[0]]


def faults(skipped: Told) -> int:
    """How many of them nothing can be done with; one that is merely short is none."""
    return sum(reason != NO_TARGET for reason, _ in skipped)


def heard_targets(pieces: list[Any]) -> int:
    """Text targets with speech somewhere before them."""
    spoken = next((i for i, piece in enumerate(pieces) if piece.speech), len(pieces))
    return sum(piece.last - piece.first for piece in pieces[spoken:] if not piece.speech)


# ---- controls


def with_speech_of(sequence: Sequence, donor: Sequence) -> Sequence:
    """``sequence`` with the speech of ``donor`` in place of its own, repeated or cut to the same lengths.

    Where spans are slices of an encoding it is the other's frames that are repeated or cut: the same whether they are
    cached or come from its sound.
    """
    if sequence.frames:
        return replace(sequence, frames=instead(donor.frames, sequence.frames))
    if sequence.slices:
        return replace(
            sequence, waves=donor.waves, slices=instead(donor.slices, sequence.slices), samples=donor.samples,
            clips=instead(donor.clips, sequence.clips) if donor.clips else [],
        )  # fmt: skip
    return replace(sequence, waves=instead(donor.waves, sequence.waves))


def instead(other: list[np.ndarray], own: list[np.ndarray]) -> list[np.ndarray]:
    """The arrays of ``other``, one behind the other and again from the beginning, cut to the lengths of ``own``."""
    whole, ends = np.concatenate(other), np.cumsum([0] + [len(part) for part in own])
    return [np.take(whole, np.arange(a, b), axis=0, mode="wrap") for a, b in zip(ends[:-1], ends[1:], strict=True)]


def silent(sequence: Sequence) -> Sequence:
    """The sequence with silence in place of its sound: of each span, or of the recording, or words, that spans are
    slices of."""
    if sequence.slices:
        return replace(sequence, waves=[np.zeros(samples, np.float32) for samples in sequence.samples], frames=[])
    return replace(sequence, waves=[np.zeros_like(wave) for wave in sequence.waves])
