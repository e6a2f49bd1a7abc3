"""Somebody's own recordings of a benchmark's questions: a directory of files, each named as its item."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from salad_ds.audio import FORMATS
from salad_ds.data.samples import make_key
from salad_ds.data.utterances import Refused, Utterance
from salad_ds.errors import DataError
from salad_ds.evaluate.tasks.items import Item


def by_name(task: str, speech: Path, items: list[Item]) -> Iterator[Utterance | Refused]:
    """``24.wav``, ``Mercury_7175875.flac``, ... below ``speech``: the item's id, or its key where it is no file's name.

    Raises DataError where none is there.
    """
    files = {path.stem: path for ending in FORMATS for path in sorted(speech.rglob(f"*.{ending}"))}
    found = {item.id: files.get(item.id) or files.get(make_key(item.id)) for item in items}
    if not any(found.values()):
        raise DataError(f"{speech} has no recording of {task}'s questions",
                        f"name the files by item, for example {make_key(items[0].id)}.flac")  # fmt: skip
    for item in items:
        path = found[item.id]
        if path is None:
            yield Refused("no recording", item.id)
        else:
            yield Utterance(item.id, item.asked, path, as_it_is=path.suffix != ".wav")
