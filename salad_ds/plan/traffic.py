"""Bytes that a GPU receives in one optimizer step, within its node and from other nodes, and the seconds they take.

An all-gather of V bytes over N ranks brings each V · (N − 1) / N, a reduce-scatter the same, an all-reduce both. Rings
run through all GPUs of a node side by side: what comes into a node crosses its network once, in parts, and its GPUs'
links carry it on. ZeRO-3 gathers for forward and for backward and reduces, in every micro-batch; ZeRO-2 reduces in
every micro-batch (DeepSpeed 0.19: by all-reduces) and gathers once per step.
"""

from __future__ import annotations

from dataclasses import dataclass

from salad_ds.plan.gathered import gathered
from salad_ds.plan.hardware import LINK_SHARE, Cluster
from salad_ds.plan.shapes import Shapes
from salad_ds.plan.zero import Zero


@dataclass(frozen=True)
class Flow:
    """Bytes of one collective per step, as each GPU receives them: ``within`` at the rate of the node's links;
    ``between``: the same, of which a node's network carries its share once for all its GPUs."""

    what: str
    volume: float
    between: bool


@dataclass(frozen=True)
class Traffic:
    flows: tuple[Flow, ...]
    within: float
    """Bytes that each GPU receives over its link, in a step."""
    between: float
    """Bytes that each node receives over its network, in a step."""
    seconds_within: float
    seconds_between: float

    @property
    def seconds(self) -> float:
        """Links and network work at the same time: the slower one decides."""
        return max(self.seconds_within, self.seconds_between)


def flows(shapes: Shapes, zero: Zero, ranks: int, nodes: int, micro_batches: int, checkpointing: bool) -> list[Flow]:
    """Every collective that moves parameters or gradients."""
    def received(volume: float, among: int) -> float:
        return volume * (among - 1) / among

    settings, b, per_node = zero.zero, zero.bytes, max(ranks // nodes, 1)
    far = nodes > 1
    gradients = b * shapes.trained
    if zero.stage < 3:
        return [
            Flow("all-reduce of gradients", micro_batches * 2 * received(gradients, ranks), far),
            Flow("all-gather of parameters", received(b * shapes.trained, ranks), far),
        ]
    whole = gathered(shapes, zero, ranks, checkpointing)
    weight = b / 2 if settings.zero_quantized_weights and b == 2 else b  # int8
    inner = min(zero.hpz, ranks)
    behind = inner if inner > 1 else ranks
    found = [
        Flow("all-gather, forward", micro_batches * received(weight * whole.forward, ranks), far),
        Flow("all-gather, backward", micro_batches * received(weight * whole.backward, behind),
             far and behind > per_node),
    ]  # fmt: skip
    if settings.zero_quantized_gradients and far:  # 4 bits; reduced in the node first, then across nodes
        found += [
            Flow("reduce of gradients, in the node", micro_batches * received(gradients / 4, per_node), False),
            Flow("reduce of gradients, across nodes", micro_batches * received(gradients / 4, nodes) / per_node, True),
        ]
    else:
        found.append(Flow("reduce-scatter of gradients", micro_batches * received(gradients, ranks), far))
    if whole.persistent:
        found.append(Flow("all-gather of persistent parameters", received(b * whole.persistent, ranks), far))
    return found


def traffic(shapes: Shapes, zero: Zero, machines: Cluster, micro_batches: int, checkpointing: bool) -> Traffic:
    """All of a step's; ``micro_batches``: of one rank."""
    found = flows(shapes, zero, machines.ranks, machines.nodes, micro_batches, checkpointing)
    within = sum(flow.volume for flow in found) if machines.gpus_per_node > 1 else 0.0
    between = sum(flow.volume for flow in found if flow.between)
    # Of what a ring brings to each GPU, a node's network carries one copy: its GPUs hand it on to each other.
    return Traffic(tuple(found), within, between, within / (machines.gpu.link * LINK_SHARE),
                   between / (machines.network * LINK_SHARE))  # fmt: skip
