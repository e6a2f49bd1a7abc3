"""What is measured, computed as it is defined: token by token, dense, in float64."""

from __future__ import annotations

import copy

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from salad_ds.data.collate import Sequence


class Naive:
    """The definitions of SALAD (arXiv 2510.13632), token by token, dense, float64; no batch, no padding, no packing."""

    def __init__(self, student, teacher_dir) -> None:
        self.student = copy.deepcopy(student).double()
        self.teacher = AutoModelForCausalLM.from_pretrained(teacher_dir).double().eval()

    def reading(self, llm, ids: tuple[int, ...]) -> torch.Tensor:
        """[L, V]: log P(· | w[≤i]) at every i."""
        return llm(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)

    def hearing(self, sequence: Sequence, waves: list[np.ndarray]) -> dict[int, torch.Tensor]:
        """i → [V]: log P(· | c[≤i]) wherever w[i+1] is text and i ≥ 0."""
        spoken, parts, before, at = iter(waves), [], {}, 0
        for piece in sequence.pieces:
            if piece.speech:
                wave = torch.from_numpy(next(spoken))[None]
                part = self.student.speech_embeddings(wave, torch.tensor([wave.shape[1]]))[0]
            else:
                ids = torch.tensor(sequence.ids[piece.first : piece.last])
                part = self.student.get_input_embeddings()(ids)
                before |= {piece.first + k - 1: at + k - 1 for k in range(len(ids)) if piece.first + k > 0}
            parts.append(part)
            at += len(part)
        logits = self.student.llm(inputs_embeds=torch.cat(parts)[None]).logits[0].log_softmax(-1)
        return {i: logits[place] for i, place in before.items()}

    @torch.no_grad()
    def quantities(self, sequence: Sequence, wrong: list[np.ndarray]) -> dict[str, float]:
        ids = sequence.ids[: sequence.pieces[-1].last]
        q, p = self.reading(self.teacher, ids), self.reading(self.student.llm, ids)
        heard = self.hearing(sequence, sequence.waves)
        other = self.hearing(sequence, wrong)
        nothing = self.hearing(sequence, [np.zeros_like(wave) for wave in sequence.waves])

        def kl(a: torch.Tensor, b: torch.Tensor) -> float:
            return float((a.exp() * (a - b)).sum())

        def nll(own: dict[int, torch.Tensor] | torch.Tensor) -> float:
            return sum(-float(own[i][ids[i + 1]]) for i in heard)

        def entropy(own: dict[int, torch.Tensor] | torch.Tensor) -> float:
            return sum(-float((own[i].exp() * own[i]).sum()) for i in heard)

        return {
            "tokens": len(heard),
            "misalignment": sum(kl(p[i], heard[i]) for i in heard),
            "misalignment_wrong_speech": sum(kl(p[i], other[i]) for i in heard),
            "misalignment_silence": sum(kl(p[i], nothing[i]) for i in heard),
            "forgetting": sum(kl(q[i], p[i]) for i in heard),
            "distillation": sum(kl(q[i], heard[i]) for i in heard),
            "nll_hearing": nll(heard),
            "nll_reading": nll(p),
            "overconfidence_hearing": nll(heard) - entropy(heard),
            "overconfidence_reading": nll(p) - entropy(p),
        }
