"""Which parameters ZeRO-3 holds whole on a GPU, followed through forward and backward as DeepSpeed's coordinator does.

The rules (deepspeed/runtime/zero/partitioned_param_coordinator.py): a module's parameters are gathered when it is
called, and up to ``stage3_prefetch_bucket_size`` elements of what comes next with it, unless
``stage3_max_live_parameters`` are there already; behind a module they are dropped unless they come again within
``stage3_max_reuse_distance`` elements. Parameters of at most ``stage3_param_persistence_threshold`` elements stay.
What is gathered together arrives in one flat buffer, and is copied out of it when the first of it is wanted; the buffer
goes when the last of it has been (partition_parameters.py, AllGatherCoalescedHandle): until then all of it lies twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from salad_ds.plan.shapes import Shapes, tied
from salad_ds.plan.zero import Zero


@dataclass(frozen=True)
class Gathered:
    """Elements. ``persistent``: of parameters that stay; ``held``: most that others take, copies and buffers, by phase
    (PHASES); ``forward``, ``backward``: gathered in all, for one micro-batch."""

    persistent: int
    held: dict[str, int]
    forward: int
    backward: int

    @property
    def peak(self) -> int:
        return max(self.held.values())


PHASES = ("embedding", "forward", "head", "loss", "layers", "embeddings")
"""``embedding``: before the first layer; ``head``: while that of the LLM is gathered; ``loss``: with it;
``embeddings``: backward behind the layers; the rest as in activations.py."""


@dataclass(frozen=True)
class Unit:
    """A module with parameters of its own: ``ids`` of the tensors (tied ones share them) and ``sizes``."""

    ids: tuple[int, ...]
    sizes: tuple[int, ...]


def units_of(module: nn.Module, threshold: int) -> tuple[list[Unit], int]:
    """The modules that own parameters above the threshold, in the order in which they are called, and the elements of
    those at or below it."""
    units: list[Unit] = []
    small: dict[int, int] = {}
    for part in module.modules():
        own = [p for p in part.parameters(recurse=False)]
        large = [p for p in own if p.numel() > threshold]
        small |= {id(p): p.numel() for p in own if p.numel() <= threshold}
        if large:
            units.append(Unit(tuple(id(p) for p in large), tuple(p.numel() for p in large)))
    return units, sum(small.values())


def course(shapes: Shapes, threshold: int, checkpointing: bool) -> tuple[list[Unit], int, int]:
    """Units as one micro-batch calls them, how many of those calls are forward, and the persistent elements."""
    heard, few = units_of(shapes.adapter, threshold)
    body, fewer = units_of(shapes.body, threshold)
    head = shapes.body.get_output_embeddings().weight
    inside = body[1:] if tied(shapes.body) else body[1:-1]
    last = Unit((id(head),), (head.numel(),))
    forward = [body[0], *heard, *inside, last]
    again: list[Unit] = []
    for layer in reversed(by_layer(shapes, inside)):
        again += [*layer, *reversed(layer)] if checkpointing else reversed(layer)
    return [*forward, last, *again, *reversed(heard), body[0]], len(forward), few + fewer


def by_layer(shapes: Shapes, units: list[Unit]) -> list[list[Unit]]:
    """The units of each layer: gradient checkpointing runs one forward again before its backward."""
    layers = shapes.body.config.get_text_config().num_hidden_layers
    size = max(len(units) // layers, 1)
    return [units[at : at + size] for at in range(0, len(units), size)]


def gathered(shapes: Shapes, zero: Zero, ranks: int, checkpointing: bool) -> Gathered:
    """See Gathered; nothing is gathered by one rank, nor below stage 3."""
    held = dict.fromkeys(PHASES, 0)
    if zero.stage < 3 or ranks == 1:
        return Gathered(0, held, 0, 0)
    settings = zero.zero
    calls, forwards, persistent = course(shapes, int(settings.param_persistence_threshold), checkpointing)
    calls, forwards = [Unit((), ()), *calls], forwards + 1  # the student itself: it owns none, but prefetches
    after = next_use(calls, int(settings.max_reuse_distance))
    size = {key: numel for unit in calls for key, numel in zip(unit.ids, unit.sizes, strict=True)}
    here: set[int] = set()
    flats: list[Flat] = []
    copied = forward = backward = ahead = 0
    for at, unit in enumerate(calls):
        before, behind = phases_of(at, forwards, len(calls))
        wanted = {key for key in unit.ids if key not in here}
        ahead = max(ahead, at + 1)
        fetched = sum(size[key] for key in wanted)
        here |= wanted
        flats.append(Flat(wanted, fetched))
        for flat in flats:
            if not flat.copied and flat.left & set(unit.ids):
                flat.copied, copied = True, copied + flat.elements
        held[before] = max(held[before], copied + sum(flat.elements for flat in flats))
        for flat in flats:
            flat.left -= set(unit.ids)
        flats = [flat for flat in flats if flat.left]
        live = copied + sum(flat.elements for flat in flats if not flat.copied)
        room = min(int(settings.max_live_parameters) - live, int(settings.prefetch_bucket_size))
        bucket: set[int] = set()
        total = 0
        while ahead < len(calls) and total < room:
            new = {key for key in calls[ahead].ids if key not in here}
            here |= new
            bucket |= new
            total += sum(size[key] for key in new)
            ahead += 1
        if bucket:
            flats.append(Flat(bucket, total))
        held[behind] = max(held[behind], copied + sum(flat.elements for flat in flats))
        if at < forwards:
            forward += fetched + total
        else:
            backward += fetched + total
        for key in unit.ids:
            if not after[at] and not any(key in later.ids for later in calls[at + 1 : ahead]):
                here.discard(key)
                copied -= size[key]
    return Gathered(persistent, held, forward, backward)


@dataclass
class Flat:
    """A buffer of what was gathered together. ``left``: what of it nothing has asked for yet."""

    left: set[int]
    elements: int
    copied: bool = False


def phases_of(at: int, forwards: int, calls: int) -> tuple[str, str]:
    """Of the call ``at``: the phase while its parameters are fetched, and the one behind."""
    if at < 2:
        return "embedding", "embedding"
    if at < forwards - 1:
        return "forward", "forward"
    if at <= forwards:  # the head, in forward and in backward, which are one (distill/loss.py)
        return "head", "loss"
    return ("layers", "layers") if at < calls - 1 else ("embeddings", "embeddings")


def next_use(calls: list[Unit], distance: int) -> list[bool]:
    """Whether what a call used comes again within ``distance`` elements behind it."""
    again = []
    for at, unit in enumerate(calls):
        passed, found = 0, False
        for later in calls[at + 1 :]:
            if passed >= distance or found:
                break
            found = bool(set(later.ids) & set(unit.ids))
            passed += sum(later.sizes)
        again.append(found)
    return again
