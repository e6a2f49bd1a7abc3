"""MMLU (MIT): exam questions of 57 subjects, four options.

The authors' ``data/test/anatomy_test.csv`` (14,042 items in all; ``dev/anatomy_dev.csv``: five of each subject) has no
head; the columns are question, A, B, C, D, answer:

    What is the embryological origin of the hyoid bone?,The first pharyngeal arch,The first and second pharyngeal
    arches,The second pharyngeal arch,The second and third pharyngeal arches,D

The hub's (cais/mmlu ``all/test-00000-of-00001.parquet``) has ``question, subject, choices`` (a list), ``answer`` (from
0). ``packaged:mmlu-dev`` is the dev split in this shape, out of the PyPI package lm-eval.

MMSU, its spoken sister out of MMLU-Pro, is in voicebench.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from salad_ds.evaluate.tasks.items import Item, Unusable, continuation, number_of, text_of
from salad_ds.evaluate.tasks.layouts import Layout, Record
from salad_ds.evaluate.tasks.records import cells

LETTERS = "ABCD"
HEAD = ["question", *LETTERS, "answer"]


def head(path: Path) -> list[str]:
    """HEAD for a table whose first row looks like an item."""
    if path.suffix != ".csv":
        return []
    row = next(cells(path), (0, []))[1]
    return HEAD if len(row) == len(HEAD) and row[-1] in LETTERS and row[-1] else []


def rows(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, Record | None]]:
    for number, row in cells(path):
        if row:
            yield number, dict(zip(HEAD, row, strict=True)) if len(row) == len(HEAD) else None


def parse_row(record: Record, where: tuple[Path, int]) -> Item:
    if len(record["answer"]) != 1 or record["answer"] not in LETTERS:
        raise Unusable("the answer is none of the options", repr(record["answer"])[:40])
    subject = re.sub(r"_(test|dev|val)$", "", where[0].stem)
    options = tuple(continuation(record[letter]) for letter in LETTERS)
    return Item("", record["question"], options, LETTERS.index(record["answer"]), subject)


def parse_columns(record: Record, where: tuple[Path, int]) -> Item:
    return Item("", text_of(record, "question"), tuple(map(continuation, record["choices"])),
                number_of(record["answer"], "answer"), str(record.get("subject") or ""))  # fmt: skip


MMLU = (
    Layout("the hub's columns", ("question", "choices", "answer"), parse_columns, ("subject",)),
    Layout("the authors' tables", tuple(HEAD), parse_row, (), rows, head),
)
