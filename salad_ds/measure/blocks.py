"""A corpus measured block by block, by one process or many, and a file that takes up each block as it is done.

The ranks of a launcher take blocks in turn; after each round the first rank writes what all of them found, in order. So
the file is the same however many ranks there were, up to rounding, and a measurement that was killed goes on with the
first block that is missing, on any number of ranks. Every rank plans every utterance (text and word times: about a
millisecond each) and loads and measures only those of its own blocks. The student must fit the device of a rank.

The file: JSON, a line each. First ``{"schema", "made_from"}``; then per block ``{"mark": [blocks, position, chosen,
lost], "skipped": [[reason, name], …], "rows": [{…}, …]}``, whole and synced before the next round begins.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import astuple
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from salad_ds.data.plan import Skipped
from salad_ds.errors import DataError, in_words
from salad_ds.files import digest_of, sync_directory, write_text
from salad_ds.measure.sequences import Block, Mark, Order, Told, faults
from salad_ds.progress import Progress
from salad_ds.teacher.forward import default_device
from salad_ds.teacher.ranks import Ranks

SCHEMA = 1

Row = dict[str, Any]
Work = Callable[[Block], tuple[list[Row], Told]]
"""Measures a block: a row per utterance, and what could not be loaded."""


class BlockFile:
    """The file at ``path``. One that was made from something else is begun anew; a torn last line is cut off."""

    def __init__(self, path: Path, made_from: dict[str, Any]) -> None:
        self.path, self.made_from = path, made_from

    def begin(self) -> Mark:
        """Make it ready to be appended to; returns how far it goes."""
        head = {"schema": SCHEMA, "made_from": self.made_from}
        mark, whole = Mark(), 0
        if self.path.is_file():
            with open(self.path, "rb") as file:
                line = file.readline()
                if line.endswith(b"\n") and same(line, head):
                    whole = file.tell()
                    for line in file:
                        if (found := parsed(line)) is None:
                            break
                        mark, whole = Mark(*found["mark"]), whole + len(line)
        if whole:
            os.truncate(self.path, whole)
        else:
            write_text(self.path, json.dumps(head) + "\n")
        return mark

    def append(self, blocks: list[dict[str, Any]]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(block, ensure_ascii=False) + "\n" for block in blocks)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(self.path.parent)

    def blocks(self) -> Iterator[dict[str, Any]]:
        """The blocks, in order."""
        with open(self.path, encoding="utf-8") as file:
            next(file)
            for line in file:
                yield json.loads(line)

    def rows(self) -> Iterator[Row]:
        """Every row, in the order of the corpus."""
        for block in self.blocks():
            yield from block["rows"]

    def skipped(self) -> dict[str, int]:
        """{why utterances were passed over: how many}, the most frequent first."""
        table = Skipped(1.0)
        for block in self.blocks():
            for reason, name in block["skipped"]:
                table.note(reason, name)
        return dict(Counter(table.counts).most_common())


def same(line: bytes, head: dict[str, Any]) -> bool:
    try:
        return digest_of(json.loads(line)) == digest_of(head)
    except ValueError:
        return False


def parsed(line: bytes) -> dict[str, Any] | None:
    """A block's line; None for one that is not whole."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def run_blocks(ranks: Ranks, file: BlockFile, order: Order, items: int, work: Work, label: str,
               max_bad_share: float) -> None:
    """Measure every block that ``file`` lacks, of up to ``items`` (0: all) utterances.

    Every rank calls this. What goes wrong on one is raised on all: SaladError of its kind there and DataError that
    names the rank elsewhere; DataError where more than ``max_bad_share`` of the samples cannot be used.
    """
    def measured(block: Block | None) -> tuple[list[Row], Told] | None:
        return None if block is None else work(block)

    mark = ranks.first(file.begin)
    remaining = order.blocks(items, mark)
    lost, examples = mark.lost, Skipped(max_bad_share)
    total = min(items or order.size, order.size)
    with Progress(label, total, "utterances", done=mark.chosen, quiet=ranks.rank > 0) as progress:
        while turn := list(islice(remaining, ranks.size)):
            mine = turn[ranks.rank] if ranks.rank < len(turn) else None
            found = together(ranks, partial(measured, mine))
            lines = []
            for block, one in zip(turn, found, strict=False):
                rows, unheard = one
                lost += faults(block.skipped) + len(unheard)
                for reason, name in [*block.skipped, *unheard]:
                    examples.note(reason, name)
                reached = astuple(block.behind)[:3]
                lines.append({"mark": [*reached, lost], "skipped": [*block.skipped, *unheard], "rows": rows})
            if ranks.rank == 0:
                file.append(lines)
            if examples.too_many(turn[-1].behind.position, lost):
                raise DataError(f"{lost} of {turn[-1].behind.position} samples cannot be used: {examples}",
                                "mend the shards, or raise data.max_bad_share")
            progress.update(sum(len(block.plans) for block in turn))
    ranks.gather(None)  # nobody reads the file before it is written


def together(ranks: Ranks, work: Callable[[], Any]) -> list[Any]:
    """What ``work`` returns on every rank; its error, on all of them."""
    fault: Exception | None = None
    result = None
    try:
        result = work()
    except Exception as error:
        fault = error
    found = ranks.gather((result, None if fault is None else in_words(fault)))
    if fault is not None:
        raise fault
    for rank, (_, words) in enumerate(found):
        if words is not None:
            raise DataError(f"rank {rank} has stopped: {words[0]}", words[1])
    return [result for result, _ in found]


def device_of(ranks: Ranks) -> torch.device:
    """This rank's accelerator, made the current one; else the CPU."""
    device = default_device(ranks.local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
