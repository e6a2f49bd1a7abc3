"""What the tests of measuring start in processes of its own: ``python -m tests.measure.job RECIPE STUDENT OUT``.

RECIPE is YAML. Blocks are small, so that few utterances make several. Each rank writes
what it was given back to ``OUT-<rank>.json``. With KILL_AFTER set, the process kills itself behind so many blocks.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from salad_ds.config import load_recipe
from salad_ds.measure import blocks, sequences
from salad_ds.measure.divergences import misalignment_of_shards
from salad_ds.measure.run import measure_checkpoint

BLOCK = 2


def run(recipe_path: str, student: str, out: str) -> None:
    torch.set_num_threads(1)
    sequences.BLOCK = BLOCK
    recipe = load_recipe(recipe_path)
    if "KILL_AFTER" in os.environ:
        die_behind(int(os.environ["KILL_AFTER"]))
    results = measure_checkpoint(recipe, student)
    probed = misalignment_of_shards(recipe, Path(student), recipe.path(recipe.measure.speech))
    rank = os.environ.get("RANK", "0")
    Path(f"{out}-{rank}.json").write_text(json.dumps({"results": results, "probed": probed}))


def die_behind(count: int) -> None:
    """SIGKILL once ``count`` blocks are on the disk, with half of the next one."""
    append = blocks.BlockFile.append

    def counted(self: blocks.BlockFile, lines: list[dict]) -> None:
        nonlocal count
        append(self, lines)
        count -= len(lines)
        if count <= 0:
            with open(self.path, "a") as file:
                file.write('{"mark": [9, 9')
            os.kill(os.getpid(), signal.SIGKILL)

    blocks.BlockFile.append = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    run(*sys.argv[1:])
