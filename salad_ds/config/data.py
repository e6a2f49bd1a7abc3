"""Corpora, where shards lie, and how samples become micro-batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class CorpusConfig:
    """One corpus to be written as shards by ``prepare``."""

    kind: str = MISSING
    """A file of data_prep/, such as ``libriheavy``, ``hf_dataset``, ``manifest`` (speech), ``fineweb_edu`` or ``text``:
    see data_prep/README.md."""
    source: str = MISSING
    """Where the corpus lies: a directory or file, or ``packaged:<asset>``; of ``emilia``, also a URL."""
    out: str = MISSING
    """Directory of shards, relative to ``workdir``."""
    limit: int = 0
    """At most this many samples; 0 for all. ``emilia``, whose tars are read in place, has ``settings: {tars: ...}``."""
    samples_per_shard: int | None = None
    """By default the kind's own."""
    split: str = "all"
    """``train``, ``test`` (an eighth of the recordings, by a hash of their id) or ``all``."""
    join_seconds: float = 0.0
    """Join neighbouring utterances of one speaker up to this many seconds; 0 leaves them as they are."""
    workers: int = 0
    """Processes; 0 for one per core. The shards do not depend on it."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What this kind alone has, such as ``{subset: small, gap_seconds: 0.5}`` of libriheavy: the arguments of its
    function, by name. ``python data_prep/KIND.py --help`` lists them."""


@dataclass
class StorageConfig:
    """Reading shards that do not lie on a local or network file system: every directory of shards may be a URL
    (``s3://bucket/corpus``), and so may a shard in a manifest."""

    allow: list[str] = field(default_factory=list)
    """Schemes of URLs besides ``file``, ``s3``, ``gs``, ``gcs``, ``az``, ``abfs``, ``abfss``, ``hf``, ``http``,
    ``https`` and ``memory``, by name. ``pipe`` runs the rest of its URL in a shell: for manifests that you trust."""
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of fsspec's file systems, by scheme: ``{s3: {endpoint_url: "https://…"}}``. They are recorded with the
    run: keys and tokens belong into the environment, and are refused here."""
    retries: int = 7
    """How often a request that failed for a passing reason is repeated, with pauses from 0.1 to 10 s."""
    timeout: float = 60.0
    """Seconds that one request may take."""


@dataclass
class SourceConfig:
    """One source of a training mix."""

    kind: str = MISSING
    """``speech`` (needs word times) or ``text``."""
    path: str = MISSING
    """Directory of shards, relative to ``workdir`` unless absolute."""
    weight: float = 1.0
    """Share of the positions (text tokens and speech frames), relative to the other sources."""


LOADING = ("workers", "prefetch", "max_bad_share")
"""Keys of DataConfig on which no result depends: a stage may go on under other values."""


@dataclass
class DataConfig:
    """How samples become micro-batches."""

    context: int = 2048
    """Positions (text tokens and speech frames) of one row of a micro-batch."""
    text_words: list[int] = field(default_factory=lambda: [10, 30])
    """Shortest and longest text span, in words."""
    speech_words: list[int] = field(default_factory=lambda: [5, 15])
    """Shortest and longest speech span, in words."""
    max_bad_share: float = 0.05
    """A stage stops when a larger share of its samples, and five or more, cannot be used; 0: at the first."""
    span_encoding: str = "separate"
    """How a speech span reaches the encoder. ``separate``: cut from the recording and encoded by itself, so that it
    holds nothing but its own sound. ``slice``: the recording is encoded once, whole, and the span takes its frames;
    they also tell of what was said before the span (causal encoders: mimi) or around it (whisper, hf), words that the
    student is to predict among them, and the recording must be as short as the encoder hears (whisper: 30 s).
    ``words``: each word is cut and encoded by itself, and a span is the frames of its words: they tell of nothing else,
    and can be cached. What comes whole (``generate``, ``serve``, ``evaluate``) is another thing to such a student."""
    features: str = "audio"
    """``audio``: sound is decoded and encoded in every step. ``cache``: frames are read from the sidecars that
    ``salad-ds encode`` writes; needs ``span_encoding: slice`` or ``words``."""
    cache_dtype: str = "float16"
    """Of cached frames: ``float16`` or ``float32``, which trains as from audio to the last digits. Codes have their
    own."""
    workers: int = 2
    """Processes per rank that read, decode, cut and resample beside the training process; 0 does it within. What is
    trained does not depend on it."""
    prefetch: int = 2
    """Optimizer steps that lie ready in host memory ahead of the one that is trained."""
    shuffle_shards: int = 16
    """Shards of a source whose samples are mixed at a time; a reader keeps their indexes and word times in memory."""
