"""What a student answers, greedily, to prompts that may have a clip in them; many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from salad_ds.model.processing import Clip, SaladProcessor
from salad_ds.model.salad import SaladForConditionalGeneration


@dataclass(frozen=True, eq=False)
class Question:
    """``text``: the prompt, with AUDIO_MARK where ``clip`` is heard. ``stop``: the text at which an answer ends; blanks
    and line breaks in front of the first word do not."""

    text: str
    clip: Clip | None
    stop: str


@dataclass(frozen=True)
class Answer:
    """``text``: up to what ended it, without blanks around it. ``tokens``: generated, those of the end included.
    ``stopped``: by ``stop`` (the question's), ``end`` (of the text, for the LLM) or ``length`` (no more tokens were
    allowed)."""

    text: str
    tokens: int
    stopped: str


class Said(StoppingCriteria):
    """True for the rows that have their stop in what was generated."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self.tokenizer, self.stops = tokenizer, stops

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        texts = self.tokenizer.batch_decode(input_ids)  # of embedded prompts it holds what is new only
        return torch.tensor([stop in text.lstrip() for stop, text in zip(self.stops, texts, strict=True)],
                            device=input_ids.device)


def answers(
    model: SaladForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question],
    tokens: int, positions: int,
) -> list[Answer]:  # fmt: skip
    """At most ``tokens`` tokens for each question, in order; batches fill at most ``positions`` positions, answers and
    padding included, and hold at least one. The token that opens a document ends an answer too: another text begins."""
    processor = SaladProcessor.of(model, tokenizer)
    lengths = [length(processor, model, question) for question in questions]
    left = sorted(range(len(questions)), key=lambda i: -lengths[i])
    found: list[Answer | None] = [None] * len(questions)
    while left:
        size = max(positions // (lengths[left[0]] + tokens), 1)
        batch, left = left[:size], left[size:]
        for i, answer in zip(batch, batch_of(model, processor, [questions[i] for i in batch], tokens), strict=True):
            found[i] = answer
    return found  # type: ignore[return-value]


def length(processor: SaladProcessor, model: SaladForConditionalGeneration, question: Question) -> int:
    """LLM positions of a prompt, an audio mark's own included. Raises DataError for a clip that is too long."""
    heard, hearing = 0, model.hearing
    if question.clip is not None:
        wave, rate = question.clip
        heard = hearing.positions(hearing.frames(-(-len(wave) * hearing.sample_rate // rate)))
    return len(processor.ids(question.text)) + heard


def batch_of(
    model: SaladForConditionalGeneration, processor: SaladProcessor, questions: Sequence[Question], tokens: int
) -> list[Answer]:
    tokenizer = processor.tokenizer
    inputs = processor([one.text for one in questions], [one.clip for one in questions if one.clip is not None])
    ends = ends_of(model)
    out = model.generate(
        **{name: value.to(model.device) for name, value in inputs.items()},
        max_new_tokens=tokens, do_sample=False, temperature=None, top_p=None, top_k=None,
        eos_token_id=ends, pad_token_id=ends[0],
        stopping_criteria=StoppingCriteriaList([Said(tokenizer, [one.stop for one in questions])]),
    )  # fmt: skip
    return [answer_of(tokenizer, row, ends, one.stop) for row, one in zip(out.tolist(), questions, strict=True)]


def ends_of(model: SaladForConditionalGeneration) -> list[int]:
    """Tokens behind which nothing of a text follows."""
    told = model.llm.generation_config.eos_token_id  # one, several or none
    own = told if isinstance(told, list) else [] if told is None else [told]
    return sorted({model.config.start_token_id, *own})


def answer_of(tokenizer: PreTrainedTokenizerBase, row: list[int], ends: list[int], stop: str) -> Answer:
    """``row``: generated tokens; behind the end of an answer, tokens that end one (they fill up the batch)."""
    kept = next((i for i, token in enumerate(row) if token in ends), len(row))
    text = tokenizer.decode(row[:kept]).lstrip()
    if stop in text:
        return Answer(text.split(stop)[0].strip(), kept, "stop")
    return Answer(text.strip(), min(kept + 1, len(row)), "end" if kept < len(row) else "length")
