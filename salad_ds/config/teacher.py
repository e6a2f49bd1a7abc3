"""What the frozen LLM says about every text, and how much of it is kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TeacherConfig:
    """The frozen LLM whose next-token distributions the student learns."""

    mode: str = "store"
    """``store``: targets precomputed by ``salad-ds precompute``; ``live``: a teacher beside the student."""
    llm: str | None = None
    """By default ``model.llm``: SALAD distils an LLM into its own speech-adapted copy."""
    store: str = "teacher"
    """Directory of the store, relative to ``workdir``."""
    keep: str = "topk"
    """What a store keeps of a position. ``topk``: the ``top_k`` likeliest tokens, the mass of all others and
    ``samples`` draws from them, some 200 bytes. ``sampled``: the tokens of at least 1/``resolution`` and draws for the
    others, each standing for about as much, some 35 bytes. Both have the whole distribution as their mean."""
    top_k: int = 128
    """Of ``keep: topk``: tokens kept exactly."""
    samples: int = 12
    """Of ``keep: topk``: tokens drawn from the tail, with the tail's true mass; 0 for a store without any."""
    resolution: int = 50
    """Of ``keep: sampled``: 50 keeps what has 2 % or more. Bytes grow with it, noise falls with its root."""
    tail: str = "draws"
    """What a student learns of the tokens outside the top. ``draws``: their distribution, without bias; ``ghost``:
    their mass, as of one event; ``renormalise``: nothing, the top is scaled to 1 (both biased, and of ``keep: topk``
    alone)."""
    seed: int = 0
    """Of the draws."""
    batch_tokens: int = 2048
    """Tokens (padding included) of one forward pass of the teacher. A GPU wants 16384 or more."""
    placement: str = "device"
    """Where the teacher's weights lie: ``device``, whole on every rank's; ``offload``, whole in host memory, streamed
    layer by layer (each rank holds a copy); ``sharded``, ZeRO-3 shards on the devices of all ranks;
    ``sharded_offload``, such shards in the memory of their hosts. For ``precompute`` and for ``mode: live`` alike."""
    prefetch: int = 4
    """Micro-batches that lie ready on the device, with their targets, ahead of the one that is trained."""
    workers: int = 2
    """Threads per rank that read and decode stored targets."""
