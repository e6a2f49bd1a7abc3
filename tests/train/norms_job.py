"""One training step under several ZeRO configurations, one after the other in the same two ranks: what test_norms.py
compares. ``deepspeed --num_gpus 2 --no_local_rank --module tests.train.norms_job LLM OUT CONFIG ...``"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from salad_ds.train.engine import deepspeed_config, start_engine
from salad_ds.train.feed import Feed
from salad_ds.train.steps import Stepper
from salad_ds.zero import sharded_loading, start_processes
from tests.train.parity import ROWS, RandomTeacher, Step, batches, rows_of, stage, student


def one_step(llm: str, config: str, rank: int, ranks: int, device: torch.device) -> dict[str, float]:
    settings = stage(1, 1, 0.75)
    deepspeed_settings = deepspeed_config(config, settings, ranks)
    model = student(llm, sharded_loading(deepspeed_settings))
    encoder = model.detach_encoder()
    step_of = Stepper(start_engine(model, settings, deepspeed_settings), encoder, RandomTeacher(), settings, ranks,
                      device)  # fmt: skip
    rows = rows_of(model, encoder, 0)[rank * ROWS // ranks : (rank + 1) * ROWS // ranks]
    [record] = [step_of(work) for work in Feed(iter([Step(batches(rows, 1), [])]), step_of.teacher, device)]
    return record | step_of.speed.per_second(record, 2.0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, ranks, device = start_processes(timeout_minutes=2)
    records = {config: one_step(sys.argv[1], config, rank, ranks, device) for config in sys.argv[3:]}
    if rank == 0:
        Path(sys.argv[2]).write_text(json.dumps(records))
