"""The plan against one real training under the deepspeed launcher: memory, traffic and the size of a checkpoint."""

from __future__ import annotations

import json

import pytest

from salad_ds.plan.hardware import cluster
from salad_ds.plan.storage import checkpoint
from salad_ds.plan.traffic import traffic
from tests.bench.measured import Case

CASE = Case(width=128, layers=3, micro_batch=2, context=128, bucket=1_000_000)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(what both ranks told, directory) of two steps of ZeRO-3 on two ranks, and a checkpoint behind them."""
    out = tmp_path_factory.mktemp("measured") / "case"
    return CASE.run(out, "memory+checkpoint", steps=1), out


@pytest.mark.assets
@pytest.mark.slow
def test_memory_is_within_a_tenth_of_what_was_measured(trained):
    told, out = trained
    for rank in told:
        planned, *_ = CASE.planned(out, rank["batch"])
        assert planned.peak == pytest.approx(rank["peak"], rel=0.1)
        assert sum(planned.standing.values()) == pytest.approx(rank["standing"], rel=0.1)


@pytest.mark.assets
def test_traffic_is_what_was_counted(trained):
    told, out = trained
    planned, shapes, zero = CASE.planned(out, told[0]["batch"])
    moved = traffic(shapes, zero, cluster(1, CASE.ranks, "h200"), CASE.passes, CASE.checkpointing)
    received = {name: size * (CASE.ranks - 1) / CASE.ranks for name, size in told[0]["traffic"].items()}
    flows = {flow.what: flow.volume for flow in moved.flows}
    gathered = sum(volume for what, volume in flows.items() if what.startswith("all-gather"))
    assert gathered == pytest.approx(received["all_gather_into_tensor"], rel=0.02)
    assert flows["reduce-scatter of gradients"] == pytest.approx(received["reduce_scatter_tensor"], rel=0.02)
    assert received["all_reduce"] < 0.01 * received["reduce_scatter_tensor"]  # counts and norms, which are not planned


@pytest.mark.assets
def test_a_checkpoint_is_as_large_as_planned(trained):
    told, out = trained
    _, shapes, zero = CASE.planned(out, told[0]["batch"])
    stage = CASE.prepare(out).stages["stage1"]
    (written,) = out.glob("step-*")
    size = sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
    assert json.loads((written / "complete.json").read_text())["ranks"] == CASE.ranks
    assert checkpoint(shapes, zero, stage, cluster(1, 2, "h200")).bytes == pytest.approx(size, rel=0.02)
