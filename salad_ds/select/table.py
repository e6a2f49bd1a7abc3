"""The tables of the selection: Parquet files that a person can open, with what they were made from inside.

The same rows give the same bytes. A table whose ``made_from`` is the wanted one is not made again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from salad_ds.errors import DataError
from salad_ds.files import atomic_path, digest_of

SCHEMA = 1
NAME = b"salad_ds"


def write_table(path: str | Path, columns: dict[str, tuple[pa.DataType, Any]], made_from: dict[str, Any]) -> pa.Table:
    """Write ``columns`` ({name: (type, values)}) whole; ``made_from`` (JSON-able) goes into the file's metadata.

    Returns the table as it is read back: a later step sees the same whether this run or an earlier one wrote it.
    """
    fields = [pa.field(name, kind) for name, (kind, _) in columns.items()]
    about = json.dumps({"schema": SCHEMA, "made_from": made_from}, sort_keys=True, ensure_ascii=False)
    table = pa.table([pa.array(values, type=kind) for kind, values in columns.values()],
                     schema=pa.schema(fields, metadata={NAME: about.encode()}))
    with atomic_path(path) as part:
        pq.write_table(table, part, compression="zstd", row_group_size=1 << 16)
    return read_table(path)[0]


def read_table(path: str | Path) -> tuple[pa.Table, dict[str, Any]]:
    """The table and its ``made_from``. Raises DataError for a missing, damaged or foreign file."""
    try:
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[NAME])
    except FileNotFoundError:
        raise DataError(f"{path} is missing", "run salad-ds select first") from None
    except (pa.ArrowInvalid, OSError, TypeError, KeyError, ValueError):
        raise DataError(f"{path} is not a table of ours", "delete it and run salad-ds select again") from None
    if about.get("schema") != SCHEMA:
        raise DataError(f"{path} has schema {about.get('schema')}, not {SCHEMA}",
                        "delete it and run salad-ds select again")
    return table, about["made_from"]


def read_made(path: str | Path, made_from: dict[str, Any]) -> pa.Table | None:
    """The table, if it is there and was made from exactly this; None if it has to be made (again)."""
    if not Path(path).is_file():
        return None
    try:
        table, found = read_table(path)
    except DataError:
        return None
    return table if digest_of(found) == digest_of(made_from) else None
