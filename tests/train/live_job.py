"""One student in ZeRO-3 shards, the same batches, and its teacher in several ways: what test_live.py compares.

Run as a module by the launcher: ``deepspeed --num_gpus 2 --no_local_rank --module tests.train.live_job LLM TEACHER
OUT``. The learning rates are next to 0, so that every step sees the same student.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from salad_ds.data.stream import Step
from salad_ds.teacher.forward import load_teacher
from salad_ds.teacher.live import LiveTeacher
from salad_ds.teacher.sampling import uniforms
from salad_ds.teacher.store import StoreSettings, TeacherStore
from salad_ds.teacher.stored import StoredTeacher
from salad_ds.text import text_key
from salad_ds.train.engine import deepspeed_config, start_engine
from salad_ds.train.feed import Feed
from salad_ds.train.steps import Stepper
from salad_ds.zero import sharded_loading, start_processes
from tests.train.parity import ROWS, batches, rows_of, stage, student


def whole_store(teacher: LiveTeacher, texts: list[tuple[int, ...]], directory: Path) -> StoredTeacher:
    """A store that keeps the whole distribution: what is left is the codec's error."""
    vocab = teacher.vocab
    store = TeacherStore.create(directory, StoreSettings("teacher", "tokenizer", vocab, top_k=vocab, samples=0, seed=0))
    for ids in texts:
        logits = teacher.teacher.logits(teacher.teacher.rows([ids])[0])
        chance = uniforms(0, text_key(ids), len(logits), store.rule.uniforms)
        store.add([(text_key(ids), store.rule.keep(logits, chance))], {})
    store.refresh()
    return StoredTeacher(store, "renormalise")


def run(llm: str, reference: str, out: Path) -> None:
    torch.set_num_threads(1)
    rank, ranks, device = start_processes(timeout_minutes=2)
    settings = replace(stage(4, 1, 1.0), lr_adapter=1e-30, lr_llm=1e-30)
    config = deepspeed_config("ds_configs/zero3_cpu.json", settings, ranks)
    model = student(llm, sharded_loading(config))
    encoder = model.detach_encoder()
    engine = start_engine(model, settings, config)
    mine = batches(rows_of(model, encoder, 0)[rank * ROWS // ranks : (rank + 1) * ROWS // ranks], 1)
    texts = [ids for batch in mine for ids in batch.texts]

    device_live = LiveTeacher(load_teacher(reference, device))
    # Batches so small that one rank, which has the longer texts, needs more passes of the teacher than the other.
    sharded_live = LiveTeacher(load_teacher(reference, device, placement="sharded"), batch_tokens=30)
    passes = [len(sharded_live._batches(set(batch.texts))) for batch in mine]
    told: list = [None] * ranks
    dist.all_gather_object(told, passes)
    records = {}
    for name, teacher, temperature in (
        ("device", device_live, 1.0),
        ("sharded", sharded_live, 1.0),
        ("tempered", sharded_live, 2.0),
        ("store", whole_store(device_live, texts, out / f"store-{rank}"), 1.0),
    ):
        step_of = Stepper(engine, encoder, teacher, replace(settings, temperature=temperature), ranks, device)
        (records[name],) = [step_of(work) for work in Feed([Step(mine, [])], teacher, device)]
    if rank == 0:
        (out / "records.json").write_text(json.dumps({"passes": told, **records}))


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
