"""Records of a benchmark's published files: which file is which split, and one record after the other.

JSON lines (also gzipped), CSV, TSV and Parquet. Of Parquet only the columns that are asked for are read, so that a
benchmark's recordings beside its questions cost nothing.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from salad_ds.data.text_files import Piece, records, table
from salad_ds.errors import DataError

ENDINGS = (".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet")
SPLITS = {"test": "test", "tests": "test", "val": "validation", "valid": "validation", "validation": "validation",
          "dev": "validation", "train": "train"}  # fmt: skip


def find_files(source: Path, among: str = "") -> dict[str, list[Path]]:
    """``{split: files}`` of a file or of a directory and all below it; split ``""`` for files whose name and folders
    tell none. ``among``: a pattern; if any path below ``source`` has it, the others are not meant.

    Raises DataError where there are no files.
    """
    if not source.exists():
        raise DataError(f"{source} does not exist", "give the place of the benchmark's published files")
    if source.is_file():
        return {"": [source]}
    files = sorted(path for path in source.rglob("*") if path.name.endswith(ENDINGS) and path.is_file())
    if among and (chosen := [p for p in files if re.search(among, p.relative_to(source).as_posix(), re.IGNORECASE)]):
        files = chosen
    first = {path.with_name(bare(path)): path for path in sorted(files, key=lambda path: -rank(path))}
    files = [path for path in files if first[path.with_name(bare(path))] == path]  # of one table in two formats, one
    if not files:
        raise DataError(f"{source} holds no {', '.join(ENDINGS)} file", "give the benchmark's published files")
    found: dict[str, list[Path]] = {}
    for path in files:
        found.setdefault(split_of(path.relative_to(source)), []).append(path)
    return found


def bare(path: Path) -> str:
    """The file's name without its ending."""
    return path.name.split(".")[0]


def rank(path: Path) -> int:
    return next(number for number, ending in enumerate(ENDINGS) if path.name.endswith(ending))


def split_of(path: Path) -> str:
    """By the last word of the name that is a split's (``cloze_test_val`` is validation), else of the nearest folder."""
    for part in reversed([*path.parts[:-1], bare(path)]):
        words = [SPLITS[word] for word in re.split(r"[^a-z0-9]+", part.lower()) if word in SPLITS]
        if words:
            return words[-1]
    return ""


def columns_of(path: Path) -> list[str]:
    """Names of the fields: Parquet's columns, the head of a table, the keys of the first JSON record.

    Raises DataError for a file that is damaged or of another kind.
    """
    if path.suffix == ".parquet":
        with table(path) as file:
            return list(file.schema_arrow.names)
    if path.suffix in (".csv", ".tsv"):
        return next(cells(path), (0, []))[1]
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return next((list(record) for _, record in records(Piece(path), ()) if isinstance(record, dict)), [])
    raise DataError(f"{path} is no {', '.join(ENDINGS)} file", "give the benchmark's published files")


def read_records(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """``(number from 1, record)``; None for one that does not parse. ``wanted``: of Parquet, these columns alone."""
    if path.suffix in (".csv", ".tsv"):
        head: list[str] = []
        for number, row in cells(path):
            if not head:
                head = row
            elif row:
                yield number - 1, dict(zip(head, row, strict=False))
        return
    for number, record in records(Piece(path), (), wanted):
        yield number, record if isinstance(record, dict) else None


def cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """``(number from 1, cells)`` of a table. Raises DataError for a file that is damaged."""
    number = 0
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            for number, row in enumerate(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","), 1):
                yield number, [cell.strip() for cell in row]
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} is damaged after row {number} ({error})", "replace the file") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a small text file, without their ends. Raises DataError."""
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} does not read as text ({error})", "replace the file") from None


def shown(record: dict[str, Any]) -> str:
    """A record in an error message."""
    return json.dumps(record, ensure_ascii=False, default=str)[:100]
