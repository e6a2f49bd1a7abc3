"""One process of an evaluation, started by test_run.py: ``python -m tests.evaluate.job RECIPE STUDENT [KILL_AFTER]``.

With KILL_AFTER it dies by SIGKILL in the middle of writing its block of that number: half of it is on disk.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import torch

from salad_ds.config import load_recipe
from salad_ds.evaluate import results
from salad_ds.evaluate.run import evaluate_checkpoint


def die_at(block: int) -> None:
    write, count = results.RowLog._write, 0

    def torn(log: Any, lines: list[dict[str, Any]]) -> None:
        nonlocal count
        count += "block" in lines[-1]
        if count < block:
            write(log, lines)
            return
        write(log, lines[: len(lines) // 2])
        log.file.write(b'{"id": "half a li')
        log.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    results.RowLog._write = torn


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 3:
        die_at(int(sys.argv[3]))
    evaluate_checkpoint(load_recipe(sys.argv[1]), sys.argv[2])
