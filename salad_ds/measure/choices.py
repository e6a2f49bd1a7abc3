"""Scoring multiple-choice items: the length-normalised log-probability of each option as a continuation.

All options of an item share one row: the prompt is encoded once, every option attends to the prompt and to itself, and
its positions continue the prompt's. One forward pass per batch of items scores every option of each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from salad_ds.model.salad import SaladForConditionalGeneration


@torch.no_grad()
def score_options(
    model: SaladForConditionalGeneration, prompts: list[Tensor], options: list[list[list[int]]]
) -> list[list[float]]:
    """Mean log-probability per token of every option.

    prompts: one [P, H] tensor of embeddings per item (text and speech alike). options: token ids, per item and option,
    none empty. Returns one list of scores (nats per token, float64 sums) per item.
    """
    device = prompts[0].device
    table = model.get_input_embeddings()
    lengths = [len(prompt) + sum(map(len, choices)) for prompt, choices in zip(prompts, options, strict=True)]
    width = max(lengths)
    rows, positions, mask = (
        [],
        torch.zeros(len(prompts), width, dtype=torch.long),
        torch.zeros(len(prompts), 1, width, width, dtype=torch.bool),
    )
    for r, (prompt, choices) in enumerate(zip(prompts, options, strict=True)):
        own = torch.cat([prompt, *(table(torch.tensor(ids, device=device)).to(prompt.dtype) for ids in choices)])
        rows.append(nn.functional.pad(own, (0, 0, 0, width - len(own))))
        p = len(prompt)
        positions[r, :p] = torch.arange(p)
        mask[r, 0, :p, :p] = torch.ones(p, p, dtype=torch.bool).tril()
        at = p
        for ids in choices:
            end = at + len(ids)
            positions[r, at:end] = torch.arange(p, p + len(ids))
            mask[r, 0, at:end, :p] = True
            mask[r, 0, at:end, at:end] = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
            at = end
        mask[r, 0, torch.arange(at, width), torch.arange(at, width)] = True  # padding sees itself: no empty softmax
    embeddings = torch.stack(rows)
    additive = (
        torch.zeros(mask.shape, dtype=embeddings.dtype)
        .masked_fill_(~mask, torch.finfo(embeddings.dtype).min)
        .to(device)
    )
    hidden = model.llm.get_decoder()(
        inputs_embeds=embeddings, attention_mask=additive, position_ids=positions.to(device), use_cache=False
    ).last_hidden_state
    scores = []
    for r, (prompt, choices) in enumerate(zip(prompts, options, strict=True)):
        at, row = len(prompt), []
        for ids in choices:
            before = torch.tensor([len(prompt) - 1, *range(at, at + len(ids) - 1)], device=device)
            log_p = model.logits(hidden[r, before]).double().log_softmax(-1)
            row.append(float(log_p[torch.arange(len(ids)), torch.tensor(ids, device=device)].mean()))
            at += len(ids)
        scores.append(row)
    return scores
