"""The questions of a task as sound: published recordings where there are some, else synthesised.

Both end up as speech shards in ``evaluate/spoken-<task>-<digest>``, named by what they hold: other items or another
voice leave this speech alone. Its manifest says what it was made from, ``items.parquet`` what a recogniser heard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from salad_ds.align.run import align_directory
from salad_ds.audio import cut, decode
from salad_ds.config import Recipe, plain
from salad_ds.data.preparation import fingerprint
from salad_ds.data.rejections import merge_tables, one_line, too_many
from salad_ds.data.shards import ShardSet, ShardWriter, finished
from salad_ds.data.speech_writer import write_utterances
from salad_ds.data.utterances import Refused, Utterance
from salad_ds.errors import DataError
from salad_ds.evaluate.tasks.items import Item, Task
from salad_ds.evaluate.tasks.registry import BENCHMARKS
from salad_ds.files import digest_of
from salad_ds.model.processing import Clip
from salad_ds.synth.items import NAME
from salad_ds.synth.synthesize import synthesize_shards
from salad_ds.table import read_table

MAX_MISSING = 0.05
"""Share of the items that may be without speech: they are dropped from both conditions, by name."""
VERSION = 1
"""Raised when published recordings become other speech."""


class Spoken(Mapping[str, Clip]):
    """``{item id: (wave [samples] in [-1, 1], Hz)}`` of the items that have speech, decoded when they are asked for.

    ``missing``: of the others, ``{reason: {"count", "examples"}}``. ``cer``: character error rate of what a recogniser
    heard, by item id, where one was asked (``synth.asr``). ``made_from``: of the shards in ``directory``.
    """

    def __init__(self, directory: Path, task: Task, items: Sequence[Item]) -> None:
        self.directory, self.shards = directory, ShardSet.open(directory)
        self.made_from: dict[str, Any] = self.shards.manifest["made_from"]
        places = {entry.key: place for place, entry in enumerate(self.shards.entries())}
        keys = {item.id: task.key(item) for item in items}
        self.places = {id: places[key] for id, key in keys.items() if key in places}
        self.missing = dict(self.shards.manifest["rejected"])
        if self.shards.manifest["made_from"].get("cut"):
            self._leave_uncut()
        rates = character_error_rates(directory)
        self.cer = {id: rates[key] for id, key in keys.items() if id in self.places and key in rates}

    def __getitem__(self, id: str) -> Clip:
        place = self.places[id]
        sample = self.shards.read(place)
        assert sample.audio is not None
        wave, rate = decode(sample.audio)
        heard = sample.meta.get("heard_words")
        if heard is None:
            return wave, rate
        words = self.shards.words(place)
        assert words is not None
        return cut(wave, rate, 0.0, words[heard].start), rate

    def __contains__(self, id: object) -> bool:
        return id in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def _leave_uncut(self) -> None:
        """Recordings that say more than the question need word times; the aligner has said why there are none."""
        dropped = dict[str, Any]()
        for number in range(len(self.shards.shards)):
            times = self.shards.word_times(number)
            for reason, keys in (times.dropped if times else {}).items():
                dropped = merge_tables([dropped, {reason: {"count": len(keys), "examples": keys}}])
        self.missing = merge_tables([self.missing, dropped])
        self.places = {id: place for id, place in self.places.items() if self.shards.words(place) is not None}


def spoken(recipe: Recipe, task: Task, items: Sequence[Item]) -> Spoken:
    """The speech of ``items`` (worked examples among them), made if it is not there yet; resumed if it is half there.

    Raises DataError when more than MAX_MISSING of them have none.
    """
    if len({item.id for item in items}) < len(items):
        raise ValueError("items of one id")
    directory = gather(recipe, task, items) if task.speech else speak(recipe, task, items)
    found = Spoken(directory, task, items)
    missing = len(items) - len(found)
    if too_many(missing, len(items), MAX_MISSING):
        raise DataError(f"{missing} of {len(items)} items of {task.name} have no speech: {one_line(found.missing)}",
                        f"see the rejections in {directory}/manifest.json")  # fmt: skip
    return found


def speak(recipe: Recipe, task: Task, items: Sequence[Item]) -> Path:
    """Synthesised, as ``synth`` says. Badly spoken items are kept: their error rate is known, and may be asked for."""
    texts = [(task.key(item), item.asked, {"domain": item.domain}) for item in items]
    made_from = {"task": task.name, "items": digest_of([text for _, text, _ in texts])}
    out = recipe.path(f"evaluate/spoken-{task.name}-{digest_of([made_from, own(recipe.synth)])[:8]}")
    synthesize_shards(texts, out, recipe.synth, made_from=made_from, source=f"{task.name} items", total=len(texts),
                      max_bad_share=1.0)  # fmt: skip
    return out


def gather(recipe: Recipe, task: Task, items: Sequence[Item]) -> Path:
    """The published recordings of ``items``; of those that say more than the question, with word times."""
    assert task.speech is not None
    recordings = BENCHMARKS[task.name].recordings
    cutting = BENCHMARKS[task.name].cut
    made_from = {
        "task": task.name, "version": VERSION, "recordings": of_files(task.speech), "cut": cutting,
        "items": digest_of([[task.key(item), item.asked, item.audio] for item in items]),
    }  # fmt: skip
    out = recipe.path(f"evaluate/spoken-{task.name}-{digest_of([made_from, own(recipe.align) if cutting else ''])[:8]}")
    if finished(out, made_from) is None:
        keys = {item.id: task.key(item) for item in items}
        with ShardWriter(out, f"{task.name} recordings", made_from=made_from) as writer:
            found = recordings(task.name, task.speech, list(items))
            write_utterances(writer, [[keyed(one, keys) for one in found]], total=len(items))
            writer.close()
    if cutting:
        align_directory(out, recipe.align)
    return out


def own(settings: Any) -> dict[str, Any]:
    """What the speech depends on."""
    return {name: value for name, value in plain(settings).items() if name not in ("workers", "max_cer")}


def keyed(one: Utterance | Refused, keys: dict[str, str]) -> Utterance | Refused:
    return replace(one, key=keys[one.key]) if isinstance(one, Refused) else replace(one, id=keys[one.id])


def of_files(speech: Path) -> str:
    """Digest of the recordings' names and sizes."""
    files = [speech] if speech.is_file() else [path for path in speech.rglob("*") if path.is_file()]
    return fingerprint(speech.parent, files, content=False)


def character_error_rates(directory: str | Path) -> dict[str, float]:
    """``{key: rate}`` from the ``items.parquet`` of synthesised speech; empty where nobody has listened to it."""
    path = Path(directory) / NAME
    if not path.is_file():
        return {}
    table = read_table(path, ["key", "cer"])[0].to_pydict()
    return {key: rate for key, rate in zip(table["key"], table["cer"], strict=True) if rate is not None}
