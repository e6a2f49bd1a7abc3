"""Files of texts, one record at a time: Parquet, JSON lines (gzipped or not), plain text. Memory is bounded: of Parquet
one row group is read at a time, of the others one line or paragraph.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.parquet

from salad_ds.data.parts import WHOLE, Part
from salad_ds.errors import DataError

ENDINGS = (".jsonl", ".jsonl.gz", ".parquet", ".txt")
ROWS = 256
"""Rows of Parquet that are Python objects at a time."""


@dataclass(frozen=True)
class Piece:
    """A file, or what one part reads of it: row group ``group``, or the records whose numbers ``part`` has."""

    path: Path
    group: int | None = None
    part: Part = WHOLE


def find_texts(source: Path, endings: tuple[str, ...] = ENDINGS) -> list[Path]:
    """``source`` itself, or the files below it, in order. Raises DataError where there are none."""
    files = [source] if source.is_file() else sorted(
        path for path in source.rglob("*") if path.name.endswith(endings) and path.is_file())
    if not files or not files[0].name.endswith(endings):
        raise DataError(f"{source} holds no {', '.join(endings)} file", "give a text corpus")
    return files


def pieces(files: Sequence[Path], own: Part) -> Iterator[Piece]:
    """Our share: whole files; where there are fewer files than parts, row groups, and of other files records."""
    if len(files) >= own.of:
        yield from map(Piece, own.take(files))
        return
    number = 0
    for path in files:
        if path.suffix != ".parquet":
            yield Piece(path, part=own)
            continue
        with table(path) as file:
            groups = range(file.num_row_groups)
        yield from (Piece(path, group) for group in groups if own.has(number + group))
        number += len(groups)


def count(share: Iterable[Piece]) -> int | None:
    """Records of our share, where that is known without reading it."""
    total = 0
    for piece in share:
        if piece.path.suffix != ".parquet":
            return None
        with table(piece.path) as file:
            total += file.metadata.num_rows if piece.group is None else file.metadata.row_group(piece.group).num_rows
    return total


def records(piece: Piece, needed: Sequence[str], wanted: Sequence[str] = ()) -> Iterator[tuple[int, Any]]:
    """``(number from 1 in the file, record)``; None for a line that does not parse. Parquet gives its columns
    ``needed`` and those of ``wanted`` that it has, others all they have; plain text has paragraphs, as ``text``.

    Raises DataError for a file that is damaged, and for Parquet without a needed column.
    """
    if piece.path.suffix == ".parquet":
        yield from rows(piece, needed, wanted)
    elif piece.path.suffix == ".txt":
        yield from paragraphs(piece)
    else:
        yield from lines(piece)


def rows(piece: Piece, needed: Sequence[str], wanted: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    with table(piece.path) as file:
        there = file.schema_arrow.names
        for name in needed:
            if name not in there:
                raise DataError(f"{piece.path} has no column {name!r} (it has {', '.join(there)})",
                                "name the column, or remove the file")
        columns = [*needed, *(name for name in wanted if name in there and name not in needed)]
        groups = range(file.num_row_groups) if piece.group is None else [piece.group]
        number = sum(file.metadata.row_group(group).num_rows for group in range(groups[0])) if groups else 0
        for group in groups:
            for batch in file.iter_batches(ROWS, row_groups=[group], columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row


class table(AbstractContextManager["pyarrow.parquet.ParquetFile"]):  # noqa: N801  # used as a function
    """A Parquet file, opened. What is wrong with it is a DataError that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> pyarrow.parquet.ParquetFile:
        try:
            self.file = pyarrow.parquet.ParquetFile(self.path)
        except (pyarrow.ArrowException, OSError) as error:
            raise self.damaged(error) from None
        return self.file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.file.close()
        if isinstance(error, (pyarrow.ArrowException, OSError)):  # a bad page is an OSError
            raise self.damaged(error) from None

    def damaged(self, error: BaseException) -> DataError:
        told = (str(error).splitlines() or [type(error).__name__])[0][:160]
        return DataError(f"{self.path} does not read as Parquet ({told})", "replace or remove the file")


def opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return open(path, encoding="utf-8-sig", errors="replace")


def lines(piece: Piece) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        with opened(piece.path) as file:
            for number, line in enumerate(file, 1):
                if piece.part.has(number) and line.strip():
                    try:
                        yield number, json.loads(line)
                    except ValueError:
                        yield number, None
    except (OSError, EOFError, zlib.error) as error:  # what follows is lost, and nobody knows how much that is
        raise DataError(f"{piece.path} is damaged after line {number} ({error})", "replace or remove the file") \
            from None


def paragraphs(piece: Piece) -> Iterator[tuple[int, dict[str, str]]]:
    """Runs of lines without an empty one."""
    number, paragraph = 0, []
    with opened(piece.path) as file:
        for line in file:
            if line.strip():
                paragraph.append(" ".join(line.split()))
                continue
            if paragraph:
                number += 1
                if piece.part.has(number):
                    yield number, {"text": " ".join(paragraph)}
                paragraph = []
    if paragraph and piece.part.has(number + 1):
        yield number + 1, {"text": " ".join(paragraph)}
