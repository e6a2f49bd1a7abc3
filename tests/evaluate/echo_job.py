"""One process of open-ended generation, started by test_echo.py: ``python -m tests.evaluate.echo_job RECIPE STUDENT
[KILL_AFTER]``. With KILL_AFTER it dies by SIGKILL in the middle of writing its block of that number."""

from __future__ import annotations

import sys

import torch

from salad_ds.config import load_recipe
from salad_ds.evaluate import echo
from tests.evaluate.job import die_at

if __name__ == "__main__":
    torch.set_num_threads(1)
    echo.BLOCK = 2
    if len(sys.argv) > 3:
        die_at(int(sys.argv[3]))
    echo.echo(load_recipe(sys.argv[1]), sys.argv[2])
