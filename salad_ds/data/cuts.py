"""Files of cuts, as lhotse writes them (``*.jsonl``, ``*.jsonl.gz``): a JSON record per line, divided by recording."""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from salad_ds.data.parts import Part
from salad_ds.errors import DataError

RECORDING = re.compile(rb'"recording_id": *"((?:[^"\\]|\\.)*)"')
LANGUAGES = {"English": "en"}
"""As lhotse's recipes write them → as we do."""


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """``(line number, line)`` of a file of cuts. Raises DataError where it is damaged."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:  # what follows is lost, and nobody knows how much that is
        raise DataError(f"{path} is damaged after line {number} ({error})", "download it again") from None


def runs(files: list[Path], own: Part) -> Iterator[list[tuple[str, bytes]]]:
    """The lines of our recordings, each as (place, line): neighbours of one recording together.

    Recordings are numbered as they are first met. A line that names none is a unit of its own, by its number.
    """
    numbers: dict[bytes, int] = {}

    def unit(item: tuple[Path, int, bytes]) -> tuple[int, bytes]:
        match = RECORDING.search(item[2])
        return (numbers.setdefault(match[1], len(numbers)), match[1]) if match else (item[1], b"")

    numbered = ((path, number, line) for path in files for number, line in lines(path))
    for (number, _), run in itertools.groupby(numbered, unit):
        if own.has(number):
            yield [(f"{path.name}, line {line_number}", line) for path, line_number, line in run]
