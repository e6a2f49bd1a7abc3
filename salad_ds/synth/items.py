"""``items.parquet``: what became of every text of a synthesis, the rejected ones too, for people and for later steps.

Columns: order (place in the list of texts), key, text, spoken (the words as they were said), heard, cer (character
error rate; null where nobody listened), voice, seed, engine, engine_version, seconds, shard, row (the tar and the place
in it; null where rejected), rejected (the reason, else empty), detail. A part writes ``items.part-<i>-of-<n>.parquet``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from salad_ds.data.parts import Part
from salad_ds.errors import DataError
from salad_ds.synth.spool import Spool
from salad_ds.table import read_made, read_table, write_rows, write_table

NAME = "items.parquet"
KINDS = {"order": pa.int64(), "key": pa.string(), "text": pa.string(), "spoken": pa.string(), "heard": pa.string(),
         "cer": pa.float64(), "voice": pa.string(), "seed": pa.int64(), "engine": pa.string(),
         "engine_version": pa.string(), "seconds": pa.float64(), "shard": pa.string(), "row": pa.int64(),
         "rejected": pa.string(), "detail": pa.string()}


def write_items(directory: Path, log: Spool, places: Iterator[tuple[str, int]], made_from: dict[str, Any],
                part: Part) -> None:
    """The table of a part from what is logged of its items. ``places``: (shard, row) of those accepted, in order."""
    write_rows(directory / name_of(part), KINDS, rows(log, places), made_from)


def rows(log: Spool, places: Iterator[tuple[str, int]]) -> Iterator[tuple[Any, ...]]:
    for order in log:
        head = log.head(order)
        meta, (shard, row) = head["meta"], (None, None) if head["rejected"] else next(places)
        values = {**meta, **head, "order": order, "seconds": meta.get("duration"), "shard": shard, "row": row}
        yield tuple(values.get(name) for name in KINDS)


def name_of(part: Part) -> str:
    return NAME if part.whole else f"items.{part.name}.parquet"


def merge_items(directory: Path, n: int, made_from: dict[str, Any]) -> None:
    """``items.parquet`` from those of ``n`` parts, whose manifests are merged; nothing where it is there. Whoever does
    it writes the same bytes."""
    parts = [directory / name_of(Part(number, n)) for number in range(n)]
    if read_made(directory / NAME, made_from, ["order"]) is None:
        try:
            whole = pa.concat_tables([read_table(path)[0] for path in parts]).sort_by("order")
        except DataError:  # another part may just have done it
            if read_made(directory / NAME, made_from, ["order"]) is None:
                raise
            return
        write_table(directory / NAME, {name: (kind, whole[name].combine_chunks()) for name, kind in KINDS.items()},
                    made_from)
    for path in parts:
        path.unlink(missing_ok=True)
