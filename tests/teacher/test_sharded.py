"""A teacher in ZeRO-3 shards over two real processes says, bit for bit, what it says whole."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file

from salad_ds.teacher.forward import load_teacher
from salad_ds.teacher.live import LiveTeacher
from salad_ds.teacher.precompute import precompute
from tests.teacher.job import GROUP_TOKENS, QUESTIONS
from tests.teacher.test_precompute import files
from tests.train.launch import forked


def test_sharded_ranks_fill_the_same_store_and_answer_the_same(
    recipe, write_texts, sentences, tmp_path, tiny_llm_dir
) -> None:
    """Shards on the devices and in host memory. Ranks need unequal numbers of forward passes: three groups of texts to
    two ranks, and three live batches beside one."""
    write_texts("text/a", sorted(sentences, key=len)[:7])
    made = recipe({"stage1": ["text/a"]})
    made.teacher.store = "whole"
    precompute(made, group_tokens=GROUP_TOKENS)
    whole = files(tmp_path / "whole")
    assert len(whole) == 3
    job = {"stores": {"sharded": "sharded", "offloaded": "sharded_offload"}, "live": "sharded"}
    said = forked(2, "tests.teacher.job", tmp_path, tiny_llm_dir, json.dumps(job), log=tmp_path / "log")
    assert "7 of 7 texts computed" in said and "padding" in said
    assert files(tmp_path / "sharded") == whole == files(tmp_path / "offloaded")

    teacher = LiveTeacher(load_teacher(str(tiny_llm_dir), "cpu"), batch_tokens=10)
    for rank, questions in enumerate(QUESTIONS):
        wanted = teacher.targets([(ids, torch.tensor(rows)) for ids, rows in questions])
        found = load_file(tmp_path / f"live-{rank}.safetensors")
        assert torch.equal(found["hidden"], wanted.hidden) and torch.equal(found["head"], wanted.head)
        assert found["released"].tolist() == [0, wanted.head.numel()]  # the embedding: held while a pass runs only
