"""From items to prompts, and from prompts to batches that share what they begin with.

A prompt is pieces: text, and sounds in the place of what is heard. A model lays it out as slots (a token, or a sound),
one after the other, so that what prompts share is found by comparing slots and nothing is assumed about where a
tokenizer would have cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from salad_ds.evaluate.tasks.items import Item, Template
from salad_ds.model.processing import Clip


@dataclass(frozen=True, eq=False)
class Sound:
    """A question as it is heard. ``key``: the item's id. Two prompts share a sound that is the same object.

    Its wave is decoded whenever it is asked for: the speech of a whole benchmark need not fit in memory.
    """

    key: str
    speech: Mapping[str, Clip]

    @property
    def clip(self) -> Clip:
        """(float32 samples [n] in [-1, 1], Hz)."""
        return self.speech[self.key]

    @cached_property
    def size(self) -> tuple[int, int]:
        """(samples, Hz)."""
        wave, rate = self.clip
        return len(wave), rate


Piece = str | Sound
Slot = int | Sound | str
"""A token, a sound, or (of a model whose processor cuts it up) all the text of a prompt."""


@dataclass(frozen=True)
class Prompt:
    """``slots``: tokens and sounds, in order; or a text, then its sounds. ``length``: LLM positions they fill.
    ``options``: token ids of each."""

    slots: tuple[Slot, ...]
    length: int
    options: list[list[int]]

    @property
    def context(self) -> int:
        """Positions of the prompt with its longest option."""
        return self.length + max(map(len, self.options))

    @property
    def row(self) -> int:
        """Positions of the prompt with all options behind it."""
        return self.length + sum(map(len, self.options))


def pieces(template: Template, item: Item, examples: Sequence[Item], asked: Callable[[Item], Piece]) -> list[Piece]:
    """The worked examples with their right options, then the item's question, neighbouring texts joined.

    ``asked``: a question as text, or as a sound that takes the place of its words.
    """
    found: list[Piece] = [""]
    for one in [*examples, item]:
        question = asked(one)
        parts: list[Piece] = ["", template.read(question)] if isinstance(question, str) else [
            template.before, question, template.after]
        if one is not item:
            parts.append(one.options[one.answer] + template.between)
        for part in parts:
            if isinstance(part, str) and isinstance(found[-1], str):
                found[-1] += part
            else:
                found.append(part)
    return [piece for piece in found if piece != ""]


def option_ids(tokenizer: PreTrainedTokenizerBase, context: str, options: Sequence[str]) -> list[list[int]]:
    """Token ids of each option behind ``context``, as the tokenizer writes it there: a SentencePiece tokenizer puts
    another space in front of a text that stands alone.

    An option whose first characters would melt into the context's last token is tokenized alone instead: the context
    stands as it is in all conditions.
    """

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    before, found = ids(context), []
    for option in options:
        whole = ids(context + option)
        rest = whole[len(before):] if whole[: len(before)] == before else []
        found.append(rest or ids(option))
    return found


@dataclass(frozen=True)
class Batch:
    """Items (their indexes) whose prompts begin with the same ``shared`` slots."""

    items: list[int]
    shared: int


def batches(prompts: Sequence[Prompt | None], groups: Sequence[int], positions: int) -> list[Batch]:
    """Items in batches of at most ``positions`` positions, padding and the shared slots of every row included, and of
    at least one item.

    ``groups``: items of one group share their beginning (they have the same worked examples). None: no prompt, no
    place. A pure function of its arguments, so that every rank and every resumed run has the same batches.
    """
    found = []
    for group in sorted(set(groups)):
        own = {i: prompt for i, prompt in enumerate(prompts) if prompt is not None and groups[i] == group}
        shared = common([prompt.slots for prompt in own.values()]) if len(own) > 1 else 0
        rows = {i: prompt.row for i, prompt in own.items()}
        members = sorted(rows, key=lambda i: -rows[i])  # alike in length, longest first: what does not fit fails early
        batch: list[int] = []
        for i in members:
            if batch and (len(batch) + 1) * rows[batch[0]] > positions:
                found.append(Batch(batch, shared))
                batch = []
            batch.append(i)
        if batch:
            found.append(Batch(batch, shared))
    return found


def common(rows: Sequence[tuple[Slot, ...]]) -> int:
    """How many slots all ``rows`` begin with; at least one slot of each is left over."""
    least, most = min(rows, key=order), max(rows, key=order)
    limit = min(map(len, rows)) - 1
    return next((i for i, (a, b) in enumerate(zip(least, most, strict=False)) if a != b or i >= limit), limit)


def order(row: tuple[Slot, ...]) -> list[int]:
    """Sorts rows so that those that differ first lie furthest apart, as ``os.path.commonprefix`` has it."""
    return [slot if isinstance(slot, int) else -1 - id(slot) for slot in row]
