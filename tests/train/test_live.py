"""A live teacher in ZeRO-3 shards beside a ZeRO-3 student, on two real ranks, teaches what a whole one and a store
teach."""

from __future__ import annotations

import json

import pytest

from tests.train.launch import forked


def test_sharded_and_whole_and_stored_teachers_teach_the_same(tiny_llm_dir, decided_teacher, tmp_path) -> None:
    forked(2, "tests.train.live_job", tiny_llm_dir, decided_teacher, tmp_path, log=tmp_path / "log")
    found = json.loads((tmp_path / "records.json").read_text())
    assert any(a != b for a, b in zip(*found["passes"], strict=True))  # else nothing needed to be in step
    device, sharded, store = (found[name] for name in ("device", "sharded", "store"))
    assert device["kl"] > 0.5
    for name in ("loss", "kl", "entropy", "grad_norm"):
        assert sharded[name] == pytest.approx(device[name], rel=1e-6), name
        # Stored probabilities are rounded at random: sums of many are true, a single gradient is a little noisy.
        assert store[name] == pytest.approx(device[name], rel=2e-2 if name == "grad_norm" else 2e-3), name
    assert found["tempered"]["entropy"] > 1.05 * device["entropy"]  # of a softer teacher
    assert found["tempered"]["nll"] == pytest.approx(device["nll"], rel=1e-6)
    assert sharded["teacher_wait"] > 0 and device["teacher_wait"] > 0
