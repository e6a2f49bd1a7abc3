"""Configs are read by their keys; partitions, traffic and offloading follow from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from salad_ds.config import load_recipe
from salad_ds.errors import RecipeError
from salad_ds.plan.gathered import gathered
from salad_ds.plan.hardware import cluster
from salad_ds.plan.memory import memory
from salad_ds.plan.shapes import shapes_of
from salad_ds.plan.traffic import traffic
from salad_ds.plan.zero import of_settings, read_zero, shipped

RECIPES = Path(__file__).parents[2] / "salad_ds/recipes"
HELD = {"forward": 0, "loss": 0, "layers": 0, "embeddings": 0, "kept": 0}


@pytest.fixture(scope="module")
def shapes():
    return shapes_of(load_recipe(RECIPES / "salad-3b.yaml"))


def zero(stage: int, half: bool = True, **settings):
    return of_settings({"zero_optimization": {"stage": stage, **settings}, "bf16": {"enabled": half}}, "test")


def stands(shapes, config, ranks=8):
    return memory(shapes, config, ranks, HELD, checkpointing=True)


def test_every_shipped_config_is_read():
    found = {one.name: one for one in shipped()}
    assert {"zero2.json", "zero3.json", "zero3_cpu.json", "zero3_offload.json"} <= set(found)
    assert found["zero3.json"].stage == 3 and found["zero3.json"].bytes == 2
    assert found["zero3_cpu.json"].bytes == 4
    assert found["zero3_offload.json"].optimizer_at == "cpu"


def test_partitions_are_those_of_the_zero_paper(shapes):
    """ZeRO (arXiv 1910.02054), figure 1: 2 Ψ + (2 + 12) Ψ / N, and (2 + 2 + 12) Ψ / N."""
    psi, ranks = shapes.trained, 8
    third = stands(shapes, zero(3)).standing
    assert third["parameters"] == third["gradients"] == 2 * psi / ranks
    assert third["optimizer"] == 12 * psi / ranks
    second = stands(shapes, zero(2))
    assert second.standing["parameters"] == 2 * psi and second.standing["optimizer"] == 12 * psi / ranks
    assert second.passing["backward"]["own gradients"] == 2 * psi / ranks
    assert second.passing["end of backward"]["own gradients"] == 2 * 2 * psi / ranks  # once more while it is copied
    first = stands(shapes, zero(1))
    assert first.passing["backward"]["own gradients"] == 2 * psi


def test_offload_moves_states_to_the_host(shapes):
    share = shapes.trained / 8
    off = stands(shapes, zero(3, offload_optimizer={"device": "cpu"}))
    assert "optimizer" not in off.standing and off.host["optimizer"] == 16 * share
    both = stands(shapes, zero(3, offload_optimizer={"device": "nvme"}, offload_param={"device": "cpu"}))
    assert "parameters" not in both.standing and both.host["parameters"] == 2 * share
    assert "optimizer on NVMe" in both.host
    assert stands(shapes, zero(3, zero_hpz_partition_size=8)).standing["second copy (hpZ)"] == 2 * share


def test_what_is_gathered_follows_the_settings(shapes):
    tight = gathered(shapes, zero(3, stage3_max_reuse_distance=0, stage3_prefetch_bucket_size=0), 8, True)
    loose = gathered(shapes, zero(3, stage3_max_reuse_distance=10**11, stage3_prefetch_bucket_size=10**8,
                                  stage3_max_live_parameters=10**11), 8, True)  # fmt: skip
    large = shapes.trained - tight.persistent
    largest = shapes.body.get_input_embeddings().weight.numel()
    assert tight.held["loss"] == largest and tight.peak == 2 * largest  # alone, and twice while it is copied
    assert large < loose.peak < 1.2 * large  # all of them stay to the end, and the last ones' buffer for a while
    assert loose.forward == large and loose.backward == 0
    whole = gathered(shapes, zero(3, stage3_max_reuse_distance=10**11, stage3_prefetch_bucket_size=10**11,
                                  stage3_max_live_parameters=10**11), 8, True)  # fmt: skip
    assert whole.held["embedding"] == whole.held["forward"] == 2 * large  # one buffer, till the last layer is reached
    assert whole.held["loss"] == whole.held["layers"] == large
    assert tight.backward >= large and tight.forward > large  # the tied embedding is gathered twice
    assert gathered(shapes, zero(3), 1, True).peak == gathered(shapes, zero(2), 8, True).peak == 0


def test_traffic_of_zero2_and_zero3(shapes):
    """arXiv 1910.02054, section 7: 2 Ψ elements for stages 1 and 2, 3 Ψ for stage 3. DeepSpeed's stage 3 gathers once
    more what it dropped, and its stage 2 reduces in every pass."""
    machines, psi = cluster(1, 8, "h200"), shapes.trained
    share = 7 / 8 * 2 * psi
    second = traffic(shapes, zero(2), machines, 4, True)
    assert [flow.volume for flow in second.flows] == [4 * 2 * share, share]
    third = traffic(shapes, zero(3, stage3_max_reuse_distance=0, stage3_prefetch_bucket_size=0), machines, 1, False)
    assert third.within == pytest.approx(3 * share, rel=0.2) and third.within >= 3 * share
    assert third.between == third.seconds_between == 0
    far = traffic(shapes, zero(3), cluster(4, 8, "h200"), 1, False)
    assert far.between == far.within and far.seconds_between > 0
    assert traffic(shapes, zero(3), cluster(1, 1, "h200"), 1, False).seconds == 0


def test_zeropp_sends_less_between_nodes(shapes):
    machines = cluster(4, 8, "h200")
    plain = traffic(shapes, zero(3), machines, 1, True)
    plus = zero(3, zero_hpz_partition_size=8, zero_quantized_weights=True, zero_quantized_gradients=True)
    less = traffic(shapes, plus, machines, 1, True)
    assert less.between < plain.between / 3
    by_name = {flow.what: flow for flow in less.flows}
    assert not by_name["all-gather, backward"].between
    assert by_name["all-gather, forward"].volume == pytest.approx(
        next(flow.volume for flow in plain.flows if flow.what == "all-gather, forward") / 2)  # fmt: skip


def test_a_config_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(RecipeError, match="does not exist"):
        read_zero("ds_configs/zero9.json")
    (tmp_path / "bad.json").write_text('{"zero_optimization": {"stage": "many"}}')
    with pytest.raises(RecipeError, match="bad.json"):
        read_zero(tmp_path / "bad.json")
