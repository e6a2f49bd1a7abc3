"""The models that are asked: the base LLM, the cascade and the student. speech_llm.py has those of other people.

All are one small protocol (``Model``). Weights are loaded when the first score is asked for: a model whose results are
there already costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from salad_ds.audio import resample
from salad_ds.config import Recipe
from salad_ds.errors import DataError, RecipeError, SaladError
from salad_ds.evaluate.prompts import Piece, Prompt, Slot, Sound, option_ids
from salad_ds.evaluate.score import OptionScorer, Prefix, Score
from salad_ds.hearing import Hearing
from salad_ds.measure.bench import Loader
from salad_ds.model.attention import choose
from salad_ds.model.build import load_llm, load_tokenizer, require_recipe, torch_dtype
from salad_ds.model.encoder import build_encoder
from salad_ds.teacher.identity import teacher_identity
from salad_ds.text import start_token, tokenizer_identity

CLIPS = 8
"""Clips that are encoded at a time."""
TOO_SHORT = "its speech is too short to be heard"


class Model(Protocol):
    """Somebody who can be asked."""

    @property
    def name(self) -> str:
        """Of its results."""

    @property
    def identity(self) -> str:
        """Of its weights."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """Of ``text`` and ``speech``, those it is asked in."""

    @property
    def limit(self) -> int | None:
        """Positions it can read, None where that is not known."""

    @property
    def family(self) -> str:
        """Models of one family fit the same number of worked examples, and are compared."""

    def question(self, sound: Sound) -> Piece:
        """What the model is given for a sound."""

    def prompt(self, pieces: Sequence[Piece], options: Sequence[str], context: str) -> Prompt:
        """Lay out a prompt. ``context``: the text before the options. Raises DataError for what it cannot hear."""

    def score(self, prompts: Sequence[Prompt], shared: int) -> list[list[Score]]:
        """Scores of every option, per prompt; all prompts begin with the same ``shared`` slots."""

    def close(self) -> None:
        """Let go of the weights."""


class Reader:
    """How an LLM with this tokenizer, behind a speech encoder with this arithmetic, lays out a prompt: the start token,
    then the pieces. A sound fills the positions its student would give it, whoever counts them."""

    def __init__(self, recipe: Recipe) -> None:
        config = recipe.model
        self.tokenizer = load_tokenizer(config)
        self.start = start_token(self.tokenizer)
        self.hearing: Hearing = replace(
            build_encoder(config.encoder, from_pretrained=False).hearing, stack=config.adapter.stack
        )
        self.identity = tokenizer_identity(self.tokenizer)
        self.ids = lru_cache(maxsize=4096)(self._ids)

    def _ids(self, text: str) -> tuple[int, ...]:
        # A benchmark's text does not speak to the LLM: what looks like a control token is read as its characters.
        return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def positions(self, sound: Sound) -> int:
        """Raises DataError for a clip that is longer than the encoder hears, or too short to be heard."""
        samples, rate = sound.size
        heard = -(-samples * self.hearing.sample_rate // rate)
        if self.hearing.max_samples is not None and heard > self.hearing.max_samples:
            raise DataError("its speech is longer than the encoder hears", "take an encoder without a limit (mimi)")
        found = self.hearing.positions(self.hearing.frames(heard))
        if not found:
            raise DataError(TOO_SHORT, "speak the item again")
        return found

    def prompt(self, pieces: Sequence[Piece], options: Sequence[str], context: str) -> Prompt:
        slots: list[int | Sound] = [self.start]
        length = 1
        for piece in pieces:
            if isinstance(piece, Sound):
                slots.append(piece)
                length += self.positions(piece)
            else:
                ids = self.ids(piece)
                slots += ids
                length += len(ids)
        return Prompt(tuple(slots), length, option_ids(self.tokenizer, context, options))


class Base:
    """The recipe's LLM before any training. It reads, and does not hear."""

    conditions: tuple[str, ...] = ("text",)
    family = "recipe"

    def __init__(self, recipe: Recipe, reader: Reader, device: torch.device, name: str = "base") -> None:
        self.recipe, self.reader, self.device, self.name = recipe, reader, device, name
        self.identity = f"{teacher_identity(recipe.model.llm)}-{reader.identity[:8]}"
        self.prompt = reader.prompt
        self.scorer: OptionScorer | None = None
        self.kept: tuple[tuple[Slot, ...], Prefix] | None = None

    @property
    def limit(self) -> int | None:
        from transformers import AutoConfig

        from salad_ds.assets import resolve

        config = AutoConfig.from_pretrained(str(resolve(self.recipe.model.llm))).get_text_config()
        return getattr(config, "max_position_embeddings", None)

    def question(self, sound: Sound) -> Piece:
        raise SaladError(f"{self.name} does not hear {sound.key}")

    def load(self) -> OptionScorer:
        config = self.recipe.model
        dtype = torch_dtype(config.dtype)
        return OptionScorer(load_llm(config.llm, dtype, choose(config.attention, dtype)).eval().to(self.device))

    def ready(self) -> OptionScorer:
        if self.scorer is None:
            try:
                self.scorer = self.load()
            except torch.cuda.OutOfMemoryError:
                raise too_large(self.name) from None
        return self.scorer

    def score(self, prompts: Sequence[Prompt], shared: int) -> list[list[Score]]:
        scorer, prefix = self.ready(), None
        try:
            if shared:
                first = prompts[0].slots[:shared]
                if self.kept is None or self.kept[0] != first:
                    self.kept = (first, scorer.prefix(self.embed([first])[0]))
                prefix = self.kept[1]
            rows = self.embed([prompt.slots[shared:] for prompt in prompts])
            return scorer(rows, [prompt.options for prompt in prompts], prefix)
        except torch.cuda.OutOfMemoryError:
            raise RecipeError(
                f"{len(prompts)} items of {max(p.row for p in prompts)} positions do not fit the GPU",
                "lower evaluate.batch, or evaluate.context",
            ) from None

    @torch.no_grad()
    def embed(self, rows: Sequence[tuple[Slot, ...]]) -> list[Tensor]:
        """[P, H] embeddings of each row of slots."""
        scorer = self.ready()
        sounds = list(dict.fromkeys(slot for row in rows for slot in row if isinstance(slot, Sound)))
        heard = dict(zip(sounds, self.hear(sounds), strict=True))
        found = []
        for row in rows:
            words = scorer.table(torch.tensor([slot if isinstance(slot, int) else self.reader.start for slot in row],
                                              device=scorer.device))  # fmt: skip
            parts, begin = [], 0
            for at, slot in enumerate(row):
                if isinstance(slot, Sound):
                    parts += [words[begin:at], heard[slot].to(words)]
                    begin = at + 1
            found.append(torch.cat([*parts, words[begin:]]))
        return found

    def hear(self, sounds: list[Sound]) -> list[Tensor]:
        """[P, H] embeddings of each sound."""
        if sounds:
            raise SaladError(f"{self.name} does not hear {sounds[0].key}")
        return []

    def close(self) -> None:
        self.scorer = self.kept = None


class Cascade(Base):
    """The topline: a recogniser hears, and the base LLM reads what it understood.

    ``transcripts``: of every sound, the worked examples' too; ``asr``: identity of the recogniser. Its text condition
    is the base LLM's own.
    """

    conditions = ("speech",)

    def __init__(self, recipe: Recipe, reader: Reader, device: torch.device, transcripts: Mapping[Sound, str],
                 asr: str) -> None:  # fmt: skip
        super().__init__(recipe, reader, device, "cascade")
        self.transcripts, self.identity = transcripts, f"{asr}+{self.identity}"

    def question(self, sound: Sound) -> Piece:
        return self.transcripts[sound]


class Student(Base):
    """A SALAD checkpoint. ``loader`` gives it with its tokenizer; ``identity`` names its weights."""

    conditions = ("text", "speech")

    def __init__(self, recipe: Recipe, reader: Reader, device: torch.device, name: str, loader: Loader,
                 identity: str) -> None:  # fmt: skip
        super().__init__(recipe, reader, device, name)
        self.loader, self.identity = loader, identity
        self.student: Any = None

    def question(self, sound: Sound) -> Piece:
        return sound

    def load(self) -> OptionScorer:
        self.student, tokenizer = self.loader()
        require_recipe(self.student, tokenizer, self.recipe.model)
        self.student.eval().to(self.device)
        return OptionScorer(self.student.llm)

    def hear(self, sounds: list[Sound]) -> list[Tensor]:
        found: list[Tensor] = []
        for i in range(0, len(sounds), CLIPS):
            waves = [torch.from_numpy(resample(wave, rate, self.student.sample_rate))
                     for wave, rate in (sound.clip for sound in sounds[i : i + CLIPS])]  # fmt: skip
            audio = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True).to(self.device)
            found += self.student.speech_embeddings(audio, torch.tensor([len(wave) for wave in waves]))
        return found

    def close(self) -> None:
        super().close()
        self.student = None


def too_large(name: str) -> SaladError:
    return SaladError(
        f"{name} does not fit one device: evaluation keeps a model whole on each",
        "take a GPU with more memory, or model.dtype=bfloat16",
    )
