"""Log-probabilities of the options of multiple-choice items as continuations of their prompts.

Prompts are embeddings, so that what is read and what is heard are scored by the same code. All options of an item share
one row with its prompt: each option attends to the prompt and to itself, and its positions continue the prompt's. What
all prompts begin with (the worked examples, above all) is encoded once and kept as keys and values; every row attends
to it. Both are arithmetic only: the scores are those of every option alone behind its whole prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from salad_ds.errors import RecipeError
from salad_ds.model.head import install_distill_head

ROWS = 256
"""Rows of [rows, V] logits that lie in memory at once, in float64."""
MASKED = ("sdpa", "eager", "varlen")
"""Kinds of attention that take any mask; ``varlen`` is ``sdpa`` where it is given one (model/attention.py)."""


@dataclass(frozen=True)
class Score:
    """``logprob``: sum over an option's tokens, nats. ``tokens``: how many there are."""

    logprob: float
    tokens: int


@dataclass(frozen=True)
class Prefix:
    """What all prompts of a batch begin with: per layer keys and values [1, heads, length, width]."""

    layers: list[tuple[Tensor, Tensor]]
    length: int

    def cache(self, rows: int) -> DynamicCache:
        """A fresh cache of as many rows, to which a forward pass adds its own positions."""
        return DynamicCache([(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1))
                             for keys, values in self.layers])


class OptionScorer:
    """Scores options with a causal LLM of transformers, whole on one device.

    Raises RecipeError for an LLM whose attention takes no mask of ours (linear or chunked attention), or whose output
    layer is not a bias-free linear map.
    """

    def __init__(self, llm: PreTrainedModel) -> None:
        self.head = install_distill_head(llm)
        self.decoder = llm.get_decoder()
        self.table = llm.get_input_embeddings()
        config = self.decoder.config
        self.kinds = kinds_of_attention(config, type(llm).__name__)
        if config._attn_implementation not in MASKED:
            capped = getattr(config, "attn_logit_softcapping", None) is not None
            llm.set_attn_implementation("eager" if capped else "sdpa")

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @torch.no_grad()
    def prefix(self, embeddings: Tensor) -> Prefix:
        """Encode what prompts share: [L, H] with L of at least 1."""
        cache = DynamicCache()  # without the config: it keeps every position of layers with a window, too
        self.decoder(inputs_embeds=embeddings[None], past_key_values=cache, use_cache=True)
        return Prefix([(layer.keys, layer.values) for layer in cache.layers], len(embeddings))

    @torch.no_grad()
    def __call__(
        self, prompts: list[Tensor], options: list[list[list[int]]], prefix: Prefix | None = None
    ) -> list[list[Score]]:
        """Scores of every option, per item, from one forward pass.

        prompts: one [P, H] tensor of embeddings per item, without what ``prefix`` holds, none empty. options: token
        ids, per item and option, none empty.
        """
        device, shared = self.device, prefix.length if prefix else 0
        width = max(len(p) + sum(map(len, choices)) for p, choices in zip(prompts, options, strict=True))
        rows = []
        positions = torch.zeros(len(prompts), width, dtype=torch.long)
        seen = torch.zeros(len(prompts), 1, width, width, dtype=torch.bool)
        for r, (prompt, choices) in enumerate(zip(prompts, options, strict=True)):
            own = torch.cat([prompt, *(self.table(torch.tensor(ids, device=device)).to(prompt) for ids in choices)])
            rows.append(nn.functional.pad(own, (0, 0, 0, width - len(own))))
            p = at = len(prompt)
            positions[r, :p] = torch.arange(p)
            seen[r, 0, :p, :p] = torch.ones(p, p, dtype=torch.bool).tril()
            for ids in choices:
                end = at + len(ids)
                positions[r, at:end] = torch.arange(p, p + len(ids))
                seen[r, 0, at:end, :p] = True
                seen[r, 0, at:end, at:end] = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
                at = end
            seen[r, 0, torch.arange(at, width), torch.arange(at, width)] = True  # padding sees itself: no empty softmax
        positions += shared
        embeddings = torch.stack(rows)
        hidden = self.decoder(
            inputs_embeds=embeddings,
            attention_mask=self.masks(seen, positions, shared, embeddings),
            position_ids=positions.to(device),
            past_key_values=prefix.cache(len(prompts)) if prefix else None,
            use_cache=prefix is not None,
        ).last_hidden_state
        return self.read(hidden, prompts, options)

    def masks(self, seen: Tensor, positions: Tensor, shared: int, like: Tensor) -> Tensor | dict[str, Tensor]:
        """Additive [B, 1, T, shared + T] masks, one for each kind of attention the layers have.

        seen [B, 1, T, T]: who attends to whom in the rows themselves. Layers with a sliding window see no further back
        than it, counted in positions: an option's stand behind the prompt, whatever lies between them in the row.
        """
        rows, _, width, _ = seen.shape
        seen = torch.cat([torch.ones(rows, 1, width, shared, dtype=torch.bool), seen], -1)
        before = torch.cat([torch.arange(shared).expand(rows, -1), positions], 1)
        distance = positions[:, None, :, None] - before[:, None, None, :]
        lowest, found = torch.finfo(like.dtype).min, {}
        for kind, window in self.kinds.items():
            allowed = seen if window is None else seen & (distance < window)
            mask = torch.zeros(seen.shape, dtype=like.dtype).masked_fill_(~allowed, lowest)
            found[kind] = mask.to(like.device)
        return found if len(found) > 1 else next(iter(found.values()))

    def read(self, hidden: Tensor, prompts: list[Tensor], options: list[list[list[int]]]) -> list[list[Score]]:
        """Sums of log-probabilities from hidden states [B, T, H]."""
        row, at, tokens = [], [], []
        for r, (prompt, choices) in enumerate(zip(prompts, options, strict=True)):
            end = len(prompt)
            for ids in choices:
                row += [r] * len(ids)
                at += [len(prompt) - 1, *range(end, end + len(ids) - 1)]
                tokens += ids
                end += len(ids)
        states, wanted = hidden[row, at], torch.tensor(tokens, device=hidden.device)
        parts = [self.logprobs(states[i : i + ROWS], wanted[i : i + ROWS]) for i in range(0, len(tokens), ROWS)]
        found = iter(torch.cat(parts).tolist())
        return [[Score(sum(next(found) for _ in ids), len(ids)) for ids in choices] for choices in options]

    def logprobs(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Hidden states [N, H], tokens [N] → their log-probabilities [N], float64 from the logits on."""
        logits = self.head(states).double() * self.head.logit_scale
        if self.head.logit_softcap is not None:
            logits = self.head.logit_softcap * torch.tanh(logits / self.head.logit_softcap)
        return logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def kinds_of_attention(config: PretrainedConfig, name: str) -> dict[str, int | None]:
    """{kind of layer: how far it sees back, None for all the way}, as the decoder expects its masks: one alone is
    handed over as a tensor, several as a dictionary. Raises RecipeError for a kind that is not a mask."""
    window = getattr(config, "sliding_window", None)
    kinds = sorted(set(getattr(config, "layer_types", None) or []))
    if not kinds:
        return {"full_attention": window}  # such as Mistral, all of whose layers have the window
    windows = {"full_attention": None, "sliding_attention": window}
    if strange := [kind for kind in kinds if kind not in windows]:
        raise RecipeError(f"{name} has layers of {strange[0]}, whose options cannot share a row",
                          "evaluate an LLM with full or sliding-window attention")
    return {kind: windows[kind] for kind in kinds}
