"""Misalignment and forgetting: on what, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class MeasureSetConfig:
    """One more corpus to measure M and F on."""

    name: str = MISSING
    """Of the result, ``measure/<checkpoint>/<name>.json``."""
    path: str = MISSING
    """Directory of shards, relative to ``workdir``: speech with word times; or text, whose F is measured on all of it
    and which is spoken once by ``synth`` for M."""
    items: int = 256
    """At most this many utterances or texts; 0 for all."""
    by: str = ""
    """A field of the samples' metadata, such as ``domain`` or ``speaker``, to tell groups apart; ``cluster`` also finds
    the clusters of the selection, by the text; ``drawn`` tells the texts that it drew from those that it left
    (before there is a selection, ``run`` passes such a set over)."""


@dataclass
class MeasureConfig:
    """M and F with their controls, on held-out speech."""

    speech: str = ""
    """Directory of held-out speech shards with word times, relative to ``workdir``."""
    items: int = 64
    """At most this many utterances; 0 for all."""
    sets: list[MeasureSetConfig] = field(default_factory=list)
    """Further corpora, also by group."""
    words: int = 0
    """Utterances of ``speech`` on which the prediction of the words behind a spoken span is measured; 0 for none."""
    seed: int = 0
    """Of the order of the utterances and of their interleaving."""
    batch: int = 4
    """Sequences per forward pass."""
