"""What the tests of selection start in processes of their own: ``python -m tests.select.job WHAT JOB`` (JSON)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad_ds.config import load_recipe
from salad_ds.data.shards import ShardSet
from salad_ds.select import embed as embedding
from salad_ds.teacher.ranks import Ranks


def embed(recipe: str, path: str, block: int, die_after: int = 0) -> None:
    """The step embed in blocks of ``block`` texts. ``die_after``: SIGKILL in the middle of the block behind so many."""
    embedding.BLOCK = block
    made = load_recipe(recipe)
    calls = 0

    def load(directory: Path, device: torch.device) -> tuple[embedding.Embed, int]:
        work, width = embedding.load_embedder(directory, device)

        def dies(texts: Sequence[str]) -> np.ndarray:
            nonlocal calls
            if (calls := calls + 1) > die_after > 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return work(texts)

        return dies, width

    with Ranks() as ranks:
        embedding.embed(made, ShardSet.open(made.path(made.select.text)), path, ranks, load=load)


def start(what: str, job: dict[str, Any], rank: int = 0, ranks: int = 1, port: int = 0) -> subprocess.Popen[bytes]:
    """One rank of a job."""
    environment = dict(os.environ, RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank),
                       LOCAL_WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    return subprocess.Popen([sys.executable, "-m", "tests.select.job", what, json.dumps(job)], env=environment,
                            cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def select(recipe: str) -> None:
    from salad_ds.select.run import select_and_speak  # DeepSpeed and more, which the other job does not need

    select_and_speak(load_recipe(recipe))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"embed": embed, "select": select}[sys.argv[1]](**json.loads(sys.argv[2]))
