"""Steps that were given up when a stage went back to a checkpoint: out of its log, but not out of sight."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from salad_ds.files import write_text

FILE = "rolled-back.jsonl"


def keep_rows(stage: Path, number: int, to: int) -> None:
    """Copy the rows behind step ``to`` of ``log.jsonl`` to ``rolled-back.jsonl``, with ``"rollback": number`` (from 1).

    What stands there of this or a later one is of a process that was killed before its checkpoint knew of it, and is
    replaced.
    """
    given_up = stage / FILE
    kept = [row for row in rows(given_up) if row["rollback"] < number] if given_up.is_file() else []
    kept += [{"rollback": number, **row} for row in rows(stage / "log.jsonl") if row["step"] > to]
    write_text(given_up, "".join(json.dumps(row) + "\n" for row in kept))


def rows(path: Path) -> list[dict[str, float]]:
    """The lines of a log; one that was cut by a kill is left out."""
    found = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found
