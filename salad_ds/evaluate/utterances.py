"""Natural utterances for open-ended generation: which, how much of each is heard, and its sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from salad_ds.audio import cut, decode
from salad_ds.config import EvaluateConfig, Recipe
from salad_ds.data.interleave import speech_end
from salad_ds.data.order import permuted, stable_seed
from salad_ds.data.plan import Skipped
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError
from salad_ds.evaluate.models import TOO_SHORT, Reader
from salad_ds.evaluate.questions import TOO_LONG
from salad_ds.evaluate.tasks.items import Template
from salad_ds.model.processing import AUDIO_MARK, Clip
from salad_ds.synth.normalize import plain
from salad_ds.text import split_words


@dataclass(frozen=True)
class Utterance:
    """``text``: the words that are heard, the first ``seconds`` of sample ``index``."""

    index: int
    key: str
    text: str
    seconds: float


def chosen(shards: ShardSet, recipe: Recipe, prompts: Sequence[Template]) -> tuple[list[Utterance], dict[str, Any]]:
    """The first ``evaluate.echo`` utterances, in a seeded order, that can be asked about with ``prompts``; of those
    passed over {why: {"count", "examples"}}. Raises DataError where there are not two that say different things."""
    settings, reader, skipped = recipe.evaluate, Reader(recipe), Skipped(1.0)
    seed, found = stable_seed("echo", settings.seed), list[Utterance]()
    for position in range(len(shards)):
        if len(found) == settings.echo:
            break
        index = permuted(position, len(shards), seed)
        try:
            found.append(utterance(shards, index, settings, reader, prompts))
        except DataError as error:
            skipped.note(error.what, shards.entry(index).key)
    if len({plain(one.text) for one in found}) < 2:
        raise DataError(f"fewer than two utterances of {shards.directory} can be asked about"
                        + (f": {skipped}" if skipped.lost else ""), "give more speech, or raise evaluate.context")
    return found, skipped.table()


def utterance(shards: ShardSet, index: int, settings: EvaluateConfig, reader: Reader,
              prompts: Sequence[Template]) -> Utterance:
    """Sample ``index`` as it is heard. Raises DataError where it cannot be."""
    entry, text = shards.entry(index), shards.read(index, audio=False).text
    seconds, bounds = entry.duration, split_words(text)
    if 0 < settings.echo_words < len(bounds):
        words = shards.words(index)
        if words is None:
            raise DataError("has no word times")
        text = text[: bounds[settings.echo_words - 1][1]]
        starts, ends = [word.start for word in words], [word.end for word in words]
        seconds = speech_end(ends, starts, settings.echo_words, entry.duration)
    if not plain(text) or AUDIO_MARK in text:
        raise DataError("nothing in its text can be spoken")
    heard = reader.hearing.positions(reader.hearing.frames(reader.hearing.samples(0, seconds)))
    if not heard:
        raise DataError(TOO_SHORT)
    longest = max(max(heard, len(reader.ids(f" {text}"))) + len(reader.ids(one.before + one.after)) for one in prompts)
    if 1 + longest + settings.echo_tokens > settings.context:
        raise DataError(TOO_LONG)
    return Utterance(index, entry.key, text, seconds)


class Speech:
    """The utterances and their sound, and for each the next one that says something else."""

    def __init__(self, shards: ShardSet, utterances: list[Utterance]) -> None:
        self.shards, self.utterances = shards, utterances

    def clip(self, one: Utterance) -> Clip:
        """Raises DataError for what does not decode."""
        sample = self.shards.read(one.index)
        assert sample.audio is not None
        wave, rate = decode(sample.audio)
        return cut(wave, rate, 0.0, one.seconds), rate

    def other(self, number: int) -> Utterance:
        own, words = self.utterances[number], plain(self.utterances[number].text)
        following = (*self.utterances[number + 1 :], *self.utterances[:number])
        return next((one for one in following if plain(one.text) != words), own)
