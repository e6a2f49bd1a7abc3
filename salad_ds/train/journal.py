"""A queue that is a file: records wait on disk until they are taken, so neither a slow reader nor a crash loses one.

One JSON object a line. Appending takes some tens of microseconds and never waits for the reader; several processes of
one work directory may append and read, under an advisory lock of the file itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[IO[bytes] | None]:
    """Open ``path`` (made if missing) with an exclusive lock; None when another process has it and not ``wait``.

    File systems without locks are used unlocked: one process per work directory is then the user's care.
    """
    while True:
        file = open(path, "a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            yield None
            return
        except OSError:
            pass
        if os.fstat(file.fileno()).st_nlink:  # else its last holder removed it while we waited: open the new one
            break
        file.close()
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            file.flush()
            fcntl.flock(file, fcntl.LOCK_UN)  # said aloud: a forked child may still hold the file open
        file.close()


class Journal:
    """Records waiting in ``path``, oldest first. The file is absent when none waits. Without ``wait`` a file that
    somebody else holds reads as empty."""

    def __init__(self, path: Path, wait: bool = True) -> None:
        self.path, self.wait = path, wait

    def append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False, default=str) + "\n"
        with locked(self.path) as file:
            assert file is not None
            file.write(line.encode())

    def read(self, limit: int) -> list[tuple[dict[str, Any], int]]:
        """At most ``limit`` records, each with the byte offset behind it (for ``drop``). Torn lines are passed over."""
        if not self.path.exists():
            return []
        records: list[tuple[dict[str, Any], int]] = []
        with locked(self.path, self.wait) as file:
            if file is None:
                return []
            file.seek(0)
            end = 0
            while len(records) < limit and (line := file.readline()):
                end += len(line)
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    if isinstance(record, dict):
                        records.append((record, end))
            if not records:
                file.truncate(0)
                self.path.unlink(missing_ok=True)
        return records

    def drop(self, end: int) -> None:
        """Forget the first ``end`` bytes: they were taken. What was appended meanwhile stays."""
        with locked(self.path) as file:
            assert file is not None
            file.seek(end)
            rest = file.read()
            file.truncate(0)  # opened for appending: the write below lands at the new end
            if rest:
                file.write(rest)
            else:
                self.path.unlink(missing_ok=True)
