"""Bytes on disks: the teacher store, the recordings and how fast they are read, checkpoints and how long they take."""

from __future__ import annotations

from dataclasses import dataclass

from salad_ds.config import Recipe, TeacherConfig, TrainConfig
from salad_ds.data.shards import ShardSet
from salad_ds.errors import SaladError
from salad_ds.plan.hardware import Cluster
from salad_ds.plan.rows import TOKENS_PER_WORD, WORDS_PER_SECOND, Rows
from salad_ds.plan.shapes import Shapes
from salad_ds.plan.zero import Zero

HOURS = {"libriheavy": 50_000, "emilia": 91_612}
"""Published hours of the corpora that recipes name: Libriheavy (arXiv 2309.08105); Emilia-YODAS-EN, such that both are
the 141,612 h of SALAD (arXiv 2510.13632)."""
AUDIO_BYTES = {"libriheavy": 14_700, "emilia": 6_600}
"""Per second as published: Libri-Light's unlab-60k is 3.05 TB of FLAC for 57,706 h (arXiv 1912.07875); Emilia's MP3 are
2.4 TB for 101,654 h (arXiv 2407.05361)."""
FLAC_BYTES = 16_000
"""Per second of speech as FLAC at 16 kHz."""

SAMPLED_FIXED, SAMPLED_PER_TOKEN = 6.0, 1.45
TOPK_FIXED, TOPK_PER_TOKEN, TOPK_DRAW = 6.0, 1.57, 1.6
"""Bytes of a stored position, and of a token kept in it: docs/bench/store.md, V = 151,936."""
KEPT_SHARE = 0.44
"""Tokens that `sampled` keeps of a position, over its resolution (22 of 50; docs/bench/store.md)."""

STATE = 12
"""Bytes that a checkpoint holds of a parameter: float32 weights and Adam's two moments."""


def kept_tokens(teacher: TeacherConfig) -> int:
    """Tokens of a position that reach the device, about."""
    return round(KEPT_SHARE * teacher.resolution) if teacher.keep == "sampled" else teacher.top_k + teacher.samples


def bytes_per_token(teacher: TeacherConfig) -> float:
    """Of the store, about: what distributions cost depends on how peaked they are."""
    if teacher.keep == "sampled":
        return SAMPLED_FIXED + SAMPLED_PER_TOKEN * KEPT_SHARE * teacher.resolution
    return TOPK_FIXED + TOPK_PER_TOKEN * teacher.top_k + TOPK_DRAW * teacher.samples


@dataclass(frozen=True)
class Corpus:
    """The recordings of a stage. ``hours``: 0 where nobody knows; ``counted``: from shards that are there."""

    hours: float
    bytes_per_second: float
    counted: bool


def recordings(recipe: Recipe, stage: TrainConfig, hours: float = 0.0) -> Corpus:
    """What the stage's speech amounts to: counted where its shards are, else as published, or as ``hours`` says."""
    seconds = size = 0.0
    for source in stage.sources:
        place = recipe.path(source.path)
        if source.kind != "speech" or "://" in str(place) or not place.is_dir():
            continue
        try:
            shards = ShardSet.open(place)
        except SaladError:
            continue
        seconds += sum(shards.entry(index).duration for index in range(len(shards)))
        size += sum(path.stat().st_size for path in place.rglob("*.tar"))
    if seconds and not hours:
        return Corpus(seconds / 3600, size / seconds, True)
    wanted = {source.path for source in stage.sources if source.kind == "speech"}
    named = [corpus for corpus in recipe.corpora if corpus.out in wanted]
    known = [(HOURS[c.kind], AUDIO_BYTES[c.kind]) for c in named if c.kind in HOURS and not c.limit]
    total = sum(each for each, _ in known)
    rate = sum(each * bytes_ for each, bytes_ in known) / total if total else FLAC_BYTES
    return Corpus(hours or float(total), rate, False)


@dataclass(frozen=True)
class Store:
    """The teacher store of a stage. ``tokens``: of distinct texts; ``seconds`` of precomputing."""

    tokens: float
    bytes: float
    seconds: float
    times_met: float
    """How often the stage meets a text of its speech: the price of a live teacher over that of a store."""


def store(recipe: Recipe, rows: Rows, positions: float, corpus: Corpus, machines: Cluster, teacher_flops: float,
          mfu: float) -> Store:
    """``positions``: of the whole stage; ``teacher_flops``: of one token."""
    spoken = corpus.hours * 3600 * WORDS_PER_SECOND * TOKENS_PER_WORD
    read = positions * (1 - rows.speech_share)
    met = rows.recorded * positions / (corpus.hours * 3600) if corpus.hours else 1.0
    speech = spoken if met > 1 else spoken * met
    tokens = (speech or positions * (rows.teacher - 1 + rows.speech_share)) + read
    seconds = tokens * teacher_flops / (machines.ranks * machines.gpu.flops * mfu)
    return Store(tokens, tokens * bytes_per_token(recipe.teacher), seconds, met)


@dataclass(frozen=True)
class Checkpoint:
    """``bytes``: of one, all ranks together; ``kept``: of all that are on the disk at a time; ``seconds``: of writing
    one, with its checksum read back."""

    bytes: float
    kept: float
    seconds: float
    model: float
    """Bytes of the student that a stage leaves."""


def checkpoint(shapes: Shapes, zero: Zero, stage: TrainConfig, machines: Cluster) -> Checkpoint:
    """ZeRO-3 writes float32 weights and moments, shard by shard; below it the weights of forward besides."""
    size = (STATE + (zero.bytes if zero.stage < 3 else 0)) * shapes.trained
    milestones = stage.steps // stage.keep_every if stage.keep_every else 0
    whole = stage.keep + 1 + milestones  # a new one is written beside the others
    return Checkpoint(size, size * whole, 2 * size / machines.storage, zero.bytes * shapes.trained + 4 * shapes.frozen)


@dataclass(frozen=True)
class Reading:
    """Of the whole job, per second of training. ``recorded``: seconds of recordings; ``bytes``; ``cores``: that decode
    and resample, over all nodes."""

    recorded: float
    bytes: float
    cores: float


CORE_POSITIONS = 38_000
"""Packed positions per second that one core decodes, cuts, resamples and collates: docs/bench/stream.md, of speech."""


def reading(rows: Rows, positions_per_second: float, corpus: Corpus) -> Reading:
    recorded = rows.recorded * positions_per_second
    cores = positions_per_second * rows.speech_share / CORE_POSITIONS
    return Reading(recorded, recorded * corpus.bytes_per_second, cores)
