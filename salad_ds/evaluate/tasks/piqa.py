"""PIQA (AFL-3.0): which of two ways reaches a physical goal?

``physicaliqa-train-dev/dev.jsonl`` or ``valid.jsonl`` (1,838 items; ``train.jsonl``: 16,113), the answers line by line
in a file beside it, ``dev-labels.lst``:

    {"id": "f6be5fcc-d686-4549-8207-7904068693d7", "goal": "When boiling butter, when it's ready, you can",
     "sol1": "Pour it onto a plate", "sol2": "Pour it into a jar"}

    1

Older files have no ``id``; of ``tests.jsonl`` the answers are not public. The hub's Parquet has ``goal, sol1, sol2,
label``, the label -1 in the test split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from salad_ds.errors import DataError
from salad_ds.evaluate.tasks.items import Item, continuation, number_of, text_of
from salad_ds.evaluate.tasks.layouts import Layout, Record
from salad_ds.evaluate.tasks.records import bare, columns_of, read_lines, read_records

LABEL = "label"


def labels_of(path: Path) -> Path:
    return path.with_name(f"{bare(path)}-labels.lst")


def labelled(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, Record | None]]:
    """Records with their answers. DataError where the file of answers is not as long: then none can be trusted."""
    labels = [line.strip() for line in read_lines(labels_of(path))]
    while labels and not labels[-1]:
        labels.pop()
    number = 0
    for number, record in read_records(path, wanted):
        if number <= len(labels) and record is not None:
            record[LABEL] = labels[number - 1]
        yield number, record
    if number != len(labels):
        raise DataError(f"{path} has {number} records, {labels_of(path).name} has {len(labels)} answers",
                        "give the two files that belong together")  # fmt: skip


def columns_with_labels(path: Path) -> list[str]:
    return [*columns_of(path), *([LABEL] if path.suffix == ".jsonl" and labels_of(path).is_file() else [])]


def parse(record: Record, where: tuple[Path, int]) -> Item:
    options = (continuation(record["sol1"]), continuation(record["sol2"]))
    return Item(str(record.get("id") or ""), text_of(record, "goal"), options, number_of(record[LABEL], LABEL))


PIQA = (
    Layout("PIQA, labels within", ("goal", "sol1", "sol2", LABEL), parse, ("id",)),
    Layout("PIQA, labels beside", ("goal", "sol1", "sol2", LABEL), parse, ("id",), labelled, columns_with_labels),
)
