"""The programs that fetch and unpack packages, run with their own last words in the error."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from salad_ds.errors import AssetError

TIMEOUT = 600


def command(arguments: list[str], what: str, mend: str, folder: str | Path | None = None) -> str:
    """Run a command and return its standard output; a failure is an AssetError with the command's own last words."""
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT, cwd=folder,
                              env={**os.environ, "LC_ALL": "C"}, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise AssetError(f"{what}: no end after {TIMEOUT} s", mend) from None
    if done.returncode != 0:
        raise AssetError(f"{what}: {' '.join(done.stderr.split())[-300:] or f'exit status {done.returncode}'}", mend)
    return done.stdout
