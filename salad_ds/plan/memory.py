"""Bytes per GPU, part by part, and what lies in the memory of its host.

What DeepSpeed 0.19 allocates was read from its sources (runtime/zero/stage3.py, stage_1_and_2.py) and is held against
measured training in docs/bench/memory.md. Shape letters: P trained parameters, N ranks, b bytes of a parameter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from salad_ds.plan.gathered import Gathered, gathered
from salad_ds.plan.shapes import Shapes
from salad_ds.plan.zero import Zero

ADAM = 8
"""Bytes of Adam's two moments of a parameter, float32."""
MASTER = 4
"""Bytes of the float32 weights that are updated."""


@dataclass
class Memory:
    """Bytes by what they are for. ``standing``: all the time; ``passing``: in the phases of a step, of which only
    one is at a time; ``host``: per GPU, in the memory of its node (or on its NVMe, where the name says so)."""

    standing: dict[str, float] = field(default_factory=dict)
    passing: dict[str, dict[str, float]] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)

    @property
    def peak(self) -> float:
        return sum(self.standing.values()) + max(self.phases().values(), default=0.0)

    def phases(self) -> dict[str, float]:
        """Bytes of every phase beside what stands."""
        return {name: sum(parts.values()) for name, parts in self.passing.items()}

    @property
    def on_host(self) -> float:
        return sum(self.host.values())

    @property
    def phase(self) -> str:
        """The phase of the peak."""
        return max(self.passing, key=lambda name: self.phases()[name])


def memory(shapes: Shapes, zero: Zero, ranks: int, activations: dict[str, int], *, checkpointing: bool, passes: int = 1,
           cuda: bool = True, said: float = 0.0, hearing: float = 0.0, teaching: float = 0.0, ahead: float = 0.0,
           ) -> Memory:
    """Memory of one rank. ``activations``: peak of one micro-batch, by phase (activations.py); ``passes``:
    micro-batches of a step; ``said``: what a live teacher said of one, ``teaching``: peak while it reads; ``hearing``:
    peak of the encoder; ``ahead``: micro-batches that lie ready."""
    b, shard = zero.bytes, shapes.trained / ranks
    whole = gathered(shapes, zero, ranks, checkpointing)
    found = Memory()
    parameters(found, shapes, zero, ranks, whole)
    updating = optimizer(found, shapes, zero, shard, cuda)
    bucket = b * float(zero.zero.reduce_bucket_size)
    late = 0.0
    if zero.stage == 3:
        found.standing["gradient bucket"] = bucket
        # A reduce-scatter puts what is in the bucket into another order first; gloo then reduces a copy of that.
        copies = 0 if ranks == 1 else 1 if cuda else 2
        reducing = copies * b * min(float(zero.zero.reduce_bucket_size), shapes.trained)
    else:
        reducing = bucket * (2 if zero.zero.overlap_comm else 1)
        owned = b * shapes.trained if zero.stage < 2 else b * shard
        late = owned if zero.optimizer_at == "gpu" else 0.0  # made in backward, gone with the update
        updating += late
    for phase, name in PHASES.items():
        parts = {"activations": float(activations[phase]), "gathered parameters": b * whole.held[phase],
                 "teacher's words": said}  # fmt: skip
        if phase == "loss":
            kept = activations["kept"]
            parts |= {"activations": float(kept), "logits and gradients of it": float(activations[phase] - kept)}
        if phase in ("layers", "embeddings"):
            parts["gradients on their way"] = reducing
        # Below stage 3: those of the passes before, and by the end of the layers nearly all of this one's, which are
        # copied when it is over (independent_gradient_partition_epilogue).
        parts["own gradients"] = late * ((passes > 1) + {"layers": 1, "embeddings": 2}.get(phase, 0))
        found.passing[name] = parts
    found.passing["updating"] = {"float32 gradients and Adam": updating}
    found.passing["embedding"] = {"gathered parameters": b * whole.held["embedding"]}
    found.passing["gathering the head"] = {"activations": float(activations["kept"]), "teacher's words": said,
                                           "gathered parameters": b * whole.held["head"]}  # fmt: skip
    if hearing:
        found.passing["hearing"] = {"encoder's activations": hearing, "own gradients": late if passes > 1 else 0.0}
    if teaching:
        found.passing["teaching"] = {"teacher's activations": teaching, "teacher's words": said}
    found.standing["encoder"] = 4.0 * shapes.frozen
    if ahead:
        found.standing["micro-batches ahead"] = ahead
    return found


PHASES = {"forward": "forward", "loss": "loss", "layers": "backward", "embeddings": "end of backward"}
"""Of activations.measured, as they are shown."""


def parameters(found: Memory, shapes: Shapes, zero: Zero, ranks: int, whole: Gathered) -> None:
    b = zero.bytes
    if zero.stage < 3:
        found.standing["parameters"] = b * shapes.trained
        return
    where = found.standing if zero.parameters_at == "gpu" else found.host
    where["parameters" if zero.parameters_at != "nvme" else "parameters on NVMe"] = b * shapes.trained / ranks
    found.standing["persistent parameters"] = b * whole.persistent
    if zero.hpz > 1:
        found.standing["second copy (hpZ)"] = b * shapes.trained / zero.hpz


def optimizer(found: Memory, shapes: Shapes, zero: Zero, shard: float, cuda: bool) -> float:
    """Adds gradients, master weights and moments; returns what the update takes for a moment."""
    b = zero.bytes
    group = min(shard, float(zero.zero.sub_group_size)) if zero.stage == 3 else shard
    temporary = (4 if cuda else 8) * group  # Adam's denominator: torch's foreach keeps one, its plain loop two
    if zero.optimizer_at == "gpu":
        if zero.stage == 3:
            found.standing["gradients"] = b * shard
        found.standing["optimizer"] = (ADAM + MASTER) * shard  # float32 training keeps a second copy, too
        return 4 * group + temporary
    on = found.host
    name = "optimizer on NVMe" if zero.optimizer_at == "nvme" else "optimizer"
    on[name] = (ADAM + 4 + 4) * shard  # with a float32 gradient that stays
    on["gradients"] = b * shard
    on["update"] = 8 * group
    return 0.0
