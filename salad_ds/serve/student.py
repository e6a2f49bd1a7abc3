"""The models behind the page: a student, and if one asks for them its base LLM and a recogniser."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salad_ds.config import ModelConfig
from salad_ds.errors import SaladError
from salad_ds.model.build import load_llm, load_tokenizer, torch_dtype
from salad_ds.model.processing import AUDIO_MARK, SaladProcessor
from salad_ds.model.salad import load_student
from salad_ds.serve.compare import HEARD, READ, Pieces, Walk, compare
from salad_ds.serve.limits import Refused
from salad_ds.serve.uploads import Clip
from salad_ds.teacher.forward import default_device
from salad_ds.text import tokenizer_identity

BASE = "base"

Events = Generator[dict[str, Any], None, None]
"""What the page is told, one by one; closed when nobody listens any more."""


@dataclass(frozen=True)
class Question:
    """``text``: what stands around the clip, ``<|audio|>`` where it is heard (by default in front). ``transcript``:
    what is said in the clip, empty if nobody knows: then nothing is read. ``chat``: in the LLM's chat template.
    ``tokens``: longest answer."""

    text: str = ""
    transcript: str = ""
    chat: bool = False
    tokens: int = 40


def around(text: str, clip: str) -> str:
    """``text`` with ``clip`` at its mark, or in front, words apart from each other by a blank."""
    before, _, after = text.partition(AUDIO_MARK) if AUDIO_MARK in text else ("", "", text)
    if before and not before[-1].isspace() and not clip.startswith(AUDIO_MARK):
        before += " "
    if after and after[0].isalnum():
        after = " " + after
    return before + clip + after


class Served:
    """Loads all that is asked for. Raises CheckpointError, RecipeError or AssetError for what is not there, SaladError
    for a base LLM with another tokenizer."""

    def __init__(self, checkpoint: str, base: str = "", asr: str = "") -> None:
        self.name = "/".join(Path(checkpoint).absolute().parts[-3:])
        self.model, self.tokenizer = load_student(checkpoint)
        self.model.to(default_device())
        self.processor = SaladProcessor.from_pretrained(checkpoint)
        self.pieces = Pieces(self.tokenizer)
        self.base_name, self.asr = base, asr
        self.base = None
        if base:
            if tokenizer_identity(load_tokenizer(ModelConfig(llm=base))) != tokenizer_identity(self.tokenizer):
                raise SaladError(f"the base LLM {base} has another tokenizer than the student",
                                 "give the LLM that the student was made from")
            self.base = load_llm(base, torch_dtype("bfloat16"), "sdpa").eval().to(self.model.device)
        if asr:
            from salad_ds.asr import directory_of

            directory_of(asr)  # now, not when the first visitor asks

    @property
    def seconds(self) -> float:
        """Longest clip the encoder hears, in seconds."""
        longest = self.model.hearing.max_samples
        return float("inf") if longest is None else longest / self.model.sample_rate

    def about(self) -> dict[str, Any]:
        """What the page says of the student."""
        encoder, adapter = self.model.config.encoder, self.model.config.adapter
        count = {name: sum(p.numel() for p in part.parameters())
                 for name, part in (("llm", self.model.llm), ("encoder", self.model.encoder),
                                    ("adapter", self.model.adapter))}  # fmt: skip
        text = self.model.config.text_config
        return {
            "student": self.name, "llm": f"{text.model_type}, {millions(count['llm'])}",
            "encoder": f"{encoder.get('name') or encoder['kind']}, {millions(count['encoder'])}",
            "adapter": f"{adapter['layers']} layers, {millions(count['adapter'])}",
            "device": str(self.model.device), "asr": self.asr, "base": self.base_name,
            "chat": self.chats,
        }  # fmt: skip

    @property
    def chats(self) -> bool:
        """Whether the LLM has a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def prompt(self, question: Question, clip: str) -> str:
        """The prompt with ``clip`` (a transcript, or the mark of the sound) where it is heard."""
        text = around(question.text, clip)
        if not question.chat:
            return text
        chat = self.tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False,
                                                  add_generation_prompt=True)  # fmt: skip
        return chat.removeprefix(self.pieces.text([self.model.config.start_token_id], special=True))  # once is enough

    @torch.inference_mode()
    def embeddings(self, prompt: str, clips: list[Clip]) -> Tensor:
        """[1, T, H] of a prompt. Raises DataError for a clip that is longer than the encoder hears."""
        inputs = self.processor(prompt, [(clip.wave, clip.rate) for clip in clips])
        return self.model.embed_prompt(**{key: value.to(self.model.device) for key, value in inputs.items()})[0]

    def answer(self, clip: Clip, question: Question) -> Events:
        """Events of the answer after hearing ``clip``; see compare.compare. Raises Refused for a prompt that does not
        fit the LLM."""
        written = self.prompt(question, question.transcript) if question.transcript else ""
        begin = {HEARD: lambda: self._walk(self.prompt(question, AUDIO_MARK), [clip], question)}
        if written:
            begin[READ] = lambda: self._walk(written, [], question)
            if self.base is not None:
                begin[BASE] = lambda: self._base_walk(written)
        yield {"event": "begin", "voices": list(begin), "seconds": clip.seconds}
        yield from compare(begin, self.pieces, question.tokens, self.ends)

    def _walk(self, prompt: str, clips: list[Clip], question: Question) -> Walk:
        embeddings = self.embeddings(prompt, clips)
        room = getattr(self.model.config.text_config, "max_position_embeddings", None)
        if room and embeddings.shape[1] + question.tokens > room:
            raise Refused(413, f"clip and text fill {embeddings.shape[1]} of the LLM's {room} positions",
                          "give a shorter clip, or less text")
        return Walk(self.model.llm, embeddings)

    def _base_walk(self, prompt: str) -> Walk:
        assert self.base is not None
        ids = self.processor(prompt)["input_ids"].to(self.base.device)
        return Walk(self.base, self.base.get_input_embeddings()(ids))

    @property
    def ends(self) -> set[int]:
        """Tokens that end an answer."""
        found = {self.tokenizer.eos_token_id, self.model.config.start_token_id}
        for config in (self.model.llm.generation_config, self.model.config.text_config):
            given = getattr(config, "eos_token_id", None)
            found |= set(given if isinstance(given, list) else [given])
        return found - {None}

    def words(self, clip: Clip) -> str:
        """What the recogniser hears, or an empty text. Raises AssetError for one that cannot be loaded."""
        from salad_ds.asr import hear

        return hear([clip.wave], clip.rate, self.asr)[0]


def millions(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.1f} M"
