"""Tables: Parquet files that a person can open, with what they were made from inside.

The same rows give the same bytes. A table whose ``made_from`` is the wanted one is not made again.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from salad_ds.errors import DataError
from salad_ds.files import atomic_path, digest_of

SCHEMA = 1
NAME = b"salad_ds"
ROWS = 1 << 16
"""Of a row group."""


def write_table(path: str | Path, columns: dict[str, tuple[pa.DataType, Any]], made_from: dict[str, Any]) -> pa.Table:
    """Write ``columns`` ({name: (type, values)}) whole; ``made_from`` (JSON-able) goes into the file's metadata.

    Returns the table as it is read back: a later step sees the same whether this run or an earlier one wrote it.
    """
    schema = schema_of({name: kind for name, (kind, _) in columns.items()}, made_from)
    table = pa.table([pa.array(values, type=kind) for kind, values in columns.values()], schema=schema)
    with atomic_path(path) as part:
        pq.write_table(table, part, compression="zstd", row_group_size=ROWS)
    return read_table(path)[0]


def write_rows(path: str | Path, kinds: dict[str, pa.DataType], rows: Iterable[tuple[Any, ...]],
               made_from: dict[str, Any]) -> None:
    """Like ``write_table``, of more ``rows`` (in the order of ``kinds``) than memory holds: ROWS at a time."""
    schema = schema_of(kinds, made_from)
    with atomic_path(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for batch in batched(rows, ROWS):
            columns = zip(*batch, strict=True)
            writer.write_table(pa.table([pa.array(values, type=kind) for values, kind
                                         in zip(columns, kinds.values(), strict=True)], schema=schema), ROWS)


def batched(rows: Iterable[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    remaining = iter(rows)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def schema_of(kinds: dict[str, pa.DataType], made_from: dict[str, Any]) -> pa.Schema:
    about = json.dumps({"schema": SCHEMA, "made_from": made_from}, sort_keys=True, ensure_ascii=False)
    return pa.schema([pa.field(name, kind) for name, kind in kinds.items()], metadata={NAME: about.encode()})


def read_table(path: str | Path, columns: list[str] | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """The table (or ``columns`` of it) and its ``made_from``. Raises DataError where it is missing, damaged or not
    ours."""
    try:
        table = pq.read_table(path, columns=columns)
        about = json.loads(table.schema.metadata[NAME])
    except FileNotFoundError:
        raise DataError(f"{path} is missing", "run the stage that makes it first") from None
    except (pa.ArrowInvalid, OSError, TypeError, KeyError, ValueError):
        raise DataError(f"{path} is not a table of ours", "delete it and run its stage again") from None
    if about.get("schema") != SCHEMA:
        raise DataError(f"{path} has schema {about.get('schema')}, not {SCHEMA}",
                        "delete it and run its stage again")
    return table, about["made_from"]


def read_made(path: str | Path, made_from: dict[str, Any], columns: list[str] | None = None) -> pa.Table | None:
    """The table (or ``columns`` of it), if it is there and was made from exactly this; None if it has to be made."""
    if not Path(path).is_file():
        return None
    try:
        table, found = read_table(path, columns)
    except DataError:
        return None
    return table if digest_of(found) == digest_of(made_from) else None
