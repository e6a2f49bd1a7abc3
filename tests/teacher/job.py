"""What the tests of precompute start in processes of its own: ``python -m tests.teacher.job WORKDIR LLM JOB``, where
JOB is JSON: ``{"stores": {name: placement}, "live": placement, "dies": shards}``, the last two optional.

Fills the named stores from ``text/a`` in small groups, and asks a live teacher (each rank its own questions).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from salad_ds.teacher.forward import TeacherForward, load_teacher
from salad_ds.teacher.live import LiveTeacher
from salad_ds.teacher.precompute import precompute
from salad_ds.teacher.sampling import Record
from salad_ds.teacher.store import TeacherStore
from salad_ds.zero import start_processes
from tests.teacher.conftest import make_recipe

GROUP_TOKENS = 64

QUESTIONS = [
    [((0, 5, 6, 7, 8, 9), [4, 0]), ((0, 7, 7, 7, 7, 7, 7, 7, 9, 10), [8, 0, 3]), ((0, 40, 41), [1])],
    [((0, 11, 12, 13), [0, 2])],
]
"""Of each rank: one has texts for three forward passes, the other for one."""


def run(workdir: Path, llm: Path, stores: dict[str, str], live: str | None = None, dies: int = 0) -> None:
    torch.set_num_threads(1)
    if dies and os.environ.get("RANK", "1") == "1":  # of two ranks the second one, or the only process
        die_behind(dies)
    if live is not None:
        rank, _, device = start_processes(timeout_minutes=2)
    for name, placement in stores.items():
        recipe = make_recipe(workdir, llm, {"stage1": ["text/a"]})
        recipe.teacher.store, recipe.teacher.placement = name, placement
        precompute(recipe, group_tokens=GROUP_TOKENS)
    if live is not None:
        teacher = LiveTeacher(load_teacher(str(llm), device, placement=live), batch_tokens=10)
        targets = teacher.targets([(ids, torch.tensor(rows)) for ids, rows in QUESTIONS[rank]])
        save_file({"hidden": targets.hidden, "head": targets.head.contiguous(), "released": released(teacher.teacher)},
                  workdir / f"live-{rank}.safetensors")


def die_behind(shards: int) -> None:
    """SIGKILL when this process has written so many shards, and there are three, and is about to write another one."""
    add, written = TeacherStore.add, 0

    def counted(self: TeacherStore, records: list[tuple[bytes, Record]], made_from: dict[str, Any]) -> Path:
        nonlocal written
        if written == shards:
            while len(list(self.directory.glob("*.safetensors"))) < 3:  # the other rank may be behind
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        written += 1
        return add(self, records, made_from)

    TeacherStore.add = counted


def released(teacher: TeacherForward) -> torch.Tensor:
    """[2] elements of the embedding that lie on this rank: between two passes, and while one runs."""
    embedding = teacher.ask.module.model.get_input_embeddings()
    held = []
    embedding.register_forward_hook(lambda module, *_: held.append(module.weight.numel()), prepend=True)
    between = embedding.weight.numel()
    teacher.idle(1)
    return torch.tensor([between, held[0]])


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), **json.loads(sys.argv[3]))
