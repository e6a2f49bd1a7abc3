"""The same words, heard and read by one student: an answer token by token, and how far apart the two are at each.

The answer is the one that is given after hearing, greedy. Everybody else (the student reading a transcript, the base
LLM reading it) is led along that answer and says what it expects next, so that at every token the conditions differ in
nothing but how the words came in:

    KL(read ‖ heard) = Σ_v P_read(v) · (log P_read(v) − log P_heard(v))      nats

Its mean over an answer is what M measures over a corpus (measure/divergences.py), here along the student's own words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from salad_ds.errors import CheckpointError

HEARD, READ = "heard", "read"


class Walk:
    """A model at one place of a text. ``logp``: [V] float64 on the CPU, the log-probabilities of what comes next."""

    def __init__(self, llm: PreTrainedModel, prompt: Tensor) -> None:
        """``prompt``: embeddings [1, T, H]."""
        self.llm, self.cache = llm, None
        self.last = {"logits_to_keep": 1} if llm._supports_logits_to_keep() else {}
        self._step(inputs_embeds=prompt)

    def follow(self, token: int) -> None:
        """Go on over ``token``."""
        self._step(input_ids=torch.tensor([[token]], device=self.llm.device))

    @torch.inference_mode()
    def _step(self, **inputs: Tensor) -> None:
        out = self.llm(**inputs, past_key_values=self.cache, use_cache=True, **self.last)
        self.cache = out.past_key_values
        logits = out.logits[0, -1].float().cpu().double()
        if logits.isnan().any():
            raise CheckpointError("the model says NaN: its weights are damaged", "serve another checkpoint")
        self.logp = logits.log_softmax(-1)


def divergence(truth: Tensor, other: Tensor) -> float:
    """KL(truth ‖ other), nats, of two [V] log-probabilities."""
    weight = truth.exp()
    return max(float(torch.where(weight > 0, weight * (truth - other), 0.0).sum()), 0.0)


class Pieces:
    """Tokens as they stand in a text, with their blanks."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.anchor = tokenizer("a", add_special_tokens=False)["input_ids"]

    def text(self, tokens: list[int], special: bool = False) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=not special, clean_up_tokenization_spaces=False)

    def piece(self, token: int) -> str:
        """SentencePiece drops a leading blank at the start of a text, so the token is decoded behind another one."""
        return self.text([*self.anchor, token], special=True)[len(self.text(self.anchor, special=True)):]

    def so_far(self, tokens: list[int]) -> str:
        """The text of ``tokens`` up to its last whole character."""
        return self.text(tokens).rstrip("\ufffd")


def compare(begin: Mapping[str, Callable[[], Walk]], pieces: Pieces, limit: int, ends: Collection[int],
            top: int = 8) -> Iterator[dict[str, Any]]:
    """Events of an answer of at most ``limit`` tokens, as they come; one of ``ends`` ends it.

    ``begin``: makes the walk of each voice at the end of its prompt; ``heard`` leads. The events:

    - ``{"event": "step", "index", "piece", "text", "ends", "voices": {name: {"p", "entropy", "kl", "top"}}}``: the
      token that is said, the answer so far, and per voice its probability of that token, the entropy of its
      distribution and KL(voice ‖ heard), nats, and its ``top`` likeliest tokens as [piece, probability, that of heard
      (for heard: that of read, or null)].
    - ``{"event": "end", "ended", "tokens", "kl": {voice: mean}, "same": {voice: steps at which its first choice is what
      was said}, "first", "seconds"}``: ``first``: seconds until the first token was known.
    - ``{"event": "own", "voice", "text", "done"}``: what every other voice says by itself, as it grows.
    """
    started = time.monotonic()
    heard = begin[HEARD]()
    first = time.monotonic() - started
    walks = {name: heard if name == HEARD else make() for name, make in begin.items()}
    said: list[int] = []
    totals, same = {name: 0.0 for name in walks}, {name: 0 for name in walks}
    ended = False
    while len(said) < limit and not ended:
        token = int(heard.logp.argmax())
        said.append(token)
        ended = token in ends
        voices = {}
        for name, walk in walks.items():
            kl = 0.0 if walk is heard else divergence(walk.logp, heard.logp)
            totals[name] += kl
            same[name] += int(walk.logp.argmax()) == token
            chances, tokens = walk.logp.topk(min(top, len(walk.logp)))
            twin = heard if walk is not heard else walks.get(READ)
            voices[name] = {
                "p": float(walk.logp[token].exp()), "kl": kl,
                "entropy": -float(torch.where(walk.logp.isfinite(), walk.logp.exp() * walk.logp, 0.0).sum()),
                "top": [[pieces.piece(int(t)), float(p.exp()), twin and float(twin.logp[t].exp())]
                        for t, p in zip(tokens, chances, strict=True)],
            }  # fmt: skip
        yield {"event": "step", "index": len(said) - 1, "piece": pieces.piece(token), "text": pieces.so_far(said),
               "ends": ended, "voices": voices}  # fmt: skip
        if len(said) < limit and not ended:
            for walk in walks.values():
                walk.follow(token)
    yield {"event": "end", "ended": ended, "tokens": len(said), "first": first, "seconds": time.monotonic() - started,
           "kl": {name: total / len(said) for name, total in totals.items()}, "same": same}  # fmt: skip
    for name, make in begin.items():
        if name != HEARD:
            for text, done in own_answer(make(), pieces, limit, ends):
                yield {"event": "own", "voice": name, "text": text, "done": done}


def own_answer(walk: Walk, pieces: Pieces, limit: int, ends: Collection[int]) -> Iterator[tuple[str, bool]]:
    """What ``walk`` says by itself, greedy: (the text so far, whether that is all)."""
    said: list[int] = []
    while True:
        said.append(int(walk.logp.argmax()))
        done = len(said) == limit or said[-1] in ends
        yield pieces.so_far(said), done
        if done:
            return
        walk.follow(said[-1])
