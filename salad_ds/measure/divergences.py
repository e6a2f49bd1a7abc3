"""Misalignment M and forgetting F of a student, with the controls that say whether it *uses* the speech it is given.

For a text ``w``, the same content ``c`` with spans replaced by speech, the teacher Q (text LLM) and the student P, at
every position whose next token is text (SALAD, arXiv 2510.13632; nats, divided by the number of such tokens):

    M  = KL( P(w[i+1] | w[≤i]) ‖ P(w[i+1] | c[≤i]) )      misalignment: the student reading against the student hearing
    F  = KL( Q(w[i+1] | w[≤i]) ‖ P(w[i+1] | w[≤i]) )      forgetting: text only
    L  = KL( Q(w[i+1] | w[≤i]) ‖ P(w[i+1] | c[≤i]) )      what training minimises

M is measured three times: with the right speech, with another utterance's in its place (same length), and with silence.
A student that hears has the first well below the other two; one that ignores what it is given has all three alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from salad_ds.config import Recipe, SourceConfig
from salad_ds.data.collate import Sequence, collate
from salad_ds.data.features import require_features, wanted_format
from salad_ds.data.order import permuted, stable_seed
from salad_ds.data.plan import Planner
from salad_ds.data.shards import ShardSet
from salad_ds.distill import DenseTargets, fused_linear_distill
from salad_ds.errors import CheckpointError, DataError
from salad_ds.files import digest_of, read_json, write_json
from salad_ds.measure.statistics import ratio
from salad_ds.model.build import require_recipe
from salad_ds.model.salad import SaladForConditionalGeneration, load_student
from salad_ds.progress import Progress
from salad_ds.teacher.forward import check_tokenizer, default_device
from salad_ds.teacher.identity import remembered_sha256, teacher_identity
from salad_ds.teacher.live import LiveTeacher, lone_teacher
from salad_ds.text import tokenizer_identity
from salad_ds.train.tracking import open_tracker

SCHEMA = 1
DRAWS = 8
"""Interleavings tried for an utterance."""
QUANTITIES = ("misalignment", "misalignment_wrong_speech", "misalignment_silence", "forgetting", "distillation")


Loader = Callable[[], tuple[SaladForConditionalGeneration, PreTrainedTokenizerBase]]


@dataclass(frozen=True)
class Utterance:
    """Sums over the ``tokens`` text targets of one utterance, nats. ``heard``: targets that have speech before them."""

    key: str
    tokens: int
    heard: int
    misalignment: float
    misalignment_wrong_speech: float
    misalignment_silence: float
    forgetting: float
    distillation: float


def measure(recipe: Recipe, checkpoint: str, load: Loader, identity: str) -> dict[str, Any]:
    """Measure one student on the recipe's held-out speech; writes, tracks and returns ``measure/<checkpoint>.json``.

    ``load`` builds the student when it is needed; ``identity`` names its weights: a measurement of the same weights on
    the same data is not repeated.
    """
    settings, path = recipe.measure, recipe.path(f"measure/{checkpoint}.json")
    made_from = {
        "student": identity,
        "settings": recipe.digest("measure", "data", "model"),
        "teacher": teacher_identity(recipe.teacher.llm or recipe.model.llm),
        "speech": ShardSet.open(recipe.path(settings.speech)).identity(),
    }
    if path.is_file() and read_json(path).get("made_from") == made_from:
        return read_json(path)
    with open_tracker(recipe, f"measure-{checkpoint}") as tracker:
        result = {"schema": SCHEMA, "checkpoint": checkpoint, "made_from": made_from, **fresh(recipe, checkpoint, load)}
        write_json(path, result)
        tracker.metrics({name: result[name]["mean"] for name in QUANTITIES})
        tracker.artifact(path)
    return result


def fresh(recipe: Recipe, checkpoint: str, load: Loader) -> dict[str, Any]:
    """The measurement itself."""
    settings = recipe.measure
    source = SourceConfig(kind="speech", path=settings.speech)
    model, tokenizer = load()
    require_recipe(model, tokenizer, recipe.model)
    check_tokenizer(recipe.teacher.llm or recipe.model.llm, tokenizer_identity(tokenizer))
    planner = planner_for(recipe, [source], model, tokenizer)
    sequences = held_out_sequences(planner, settings.items, settings.seed)
    if not sequences:
        raise DataError(
            f"no utterance of {recipe.path(settings.speech)} can be measured"
            + (f": {planner.skipped}" if planner.skipped.counts else ""),
            "measure longer utterances, or align them first",
        )
    teacher = lone_teacher(recipe, next(model.parameters()).device)
    records = divergences(model, teacher, sequences, settings.batch, f"measure {checkpoint}")
    return {
        **summary(records),
        "definition": {
            "unit": "nats per predicted text token",
            "se": "standard error over utterances (ratio estimator)",
            "wrong_speech": "the next utterance's speech, cut or repeated to the same length",
            "silence": "zeros of the same length",
        },
        "skipped": dict(planner.skipped.counts),
        "utterances": [vars(record) for record in records],
    }


def planner_for(
    recipe: Recipe,
    sources: list[SourceConfig],
    model: SaladForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
) -> Planner:
    """A planner with the arithmetic of this student's encoder and adapter, and with cached frames where the recipe asks
    for them."""
    cached = wanted_format(model.encoder, recipe.data)  # type: ignore[arg-type]
    if cached is not None:
        require_features([recipe.path(source.path) for source in sources], cached)
    return Planner(sources, recipe.path, recipe.data, tokenizer, model.hearing, cached)


def held_out_sequences(planner: Planner, items: int, seed: int) -> list[Sequence]:
    """Up to ``items`` interleaved utterances that have a text target behind some speech, in a seeded order.

    A short utterance whose interleaving ends in speech, or has none, is drawn again up to DRAWS times.
    """
    size = len(planner.shards[0])
    chosen: list[Sequence] = []
    for i in range(size):
        index = permuted(i, size, stable_seed(seed, "measure"))
        for draw in range(DRAWS):
            plan = planner.plan(0, draw, index, stable_seed(seed, "measure"))
            if plan is None or heard_targets(plan.pieces):
                break
        if plan is None or not heard_targets(plan.pieces):
            continue
        sequence = planner.load(plan)
        if sequence is not None:
            chosen.append(sequence)
        if len(chosen) == items:
            break
    return chosen


def heard_targets(pieces: list[Any]) -> int:
    """Text targets with speech somewhere before them."""
    spoken = next((i for i, piece in enumerate(pieces) if piece.speech), len(pieces))
    return sum(piece.last - piece.first for piece in pieces[spoken:] if not piece.speech)


def divergences(
    model: SaladForConditionalGeneration,
    teacher: LiveTeacher,
    sequences: list[Sequence],
    batch: int,
    label: str,
    controls: bool = True,
) -> list[Utterance]:
    """M (with its controls), F and L of every sequence. Without ``controls`` those are NaN and cost nothing."""
    records: list[Utterance] = []
    others = wrong_speech(sequences)
    model.eval()
    with Progress(label, len(sequences), "utterance") as progress:
        for begin in range(0, len(sequences), batch):
            part = sequences[begin : begin + batch]
            swapped = others[begin : begin + batch]
            with torch.no_grad():
                records += _batch(model, teacher, part, swapped, controls)
            progress.update(len(part))
    return records


def _batch(
    model: SaladForConditionalGeneration,
    teacher: LiveTeacher,
    part: list[Sequence],
    swapped: list[Sequence],
    controls: bool,
) -> list[Utterance]:
    spoken = collate([[sequence] for sequence in part], model.config.start_token_id)
    owner, rows = spoken.target_owner, spoken.target_rows
    weight = model.get_output_embeddings().weight
    reading, hearing = text_hidden(model, part, owner, rows), hidden_states(model, part)

    def kl(p: DenseTargets | Any, hidden: Tensor) -> Tensor:
        head = model.get_output_embeddings()
        return fused_linear_distill(
            hidden, weight, p, logit_scale=head.logit_scale, logit_softcap=head.logit_softcap
        ).kl

    student = DenseTargets(model.logits(reading).log_softmax(-1))
    truth = teacher.targets(spoken.teacher_requests()).to(weight.device)
    blank = torch.full((len(owner),), float("nan"))
    values = {
        "misalignment": kl(student, hearing),
        "misalignment_wrong_speech": kl(student, hidden_states(model, swapped)) if controls else blank,
        "misalignment_silence": kl(student, hidden_states(model, [silent(sequence) for sequence in part]))
        if controls
        else blank,
        "forgetting": kl(truth, reading),
        "distillation": kl(truth, hearing),
    }
    return [
        Utterance(
            sequence.key,
            int((owner == i).sum()),
            heard_targets(sequence.pieces),
            **{name: float(value[owner == i].double().sum()) for name, value in values.items()},
        )
        for i, sequence in enumerate(part)
    ]


def hidden_states(model: SaladForConditionalGeneration, part: list[Sequence]) -> Tensor:
    """[N, H] at the text targets of interleaved sequences, one row of the batch each."""
    batch = collate([[sequence] for sequence in part], model.config.start_token_id).to(next(model.parameters()).device)
    return model(**batch.model_inputs(), features=model.encoder.hear(batch)).hidden  # type: ignore[operator]


def text_hidden(model: SaladForConditionalGeneration, part: list[Sequence], owner: Tensor, rows: Tensor) -> Tensor:
    """[N, H] of the student reading the same texts, at the rows that the interleaved sequences predict."""
    batch = collate([[sequence.as_text()] for sequence in part], model.config.start_token_id).to(
        next(model.parameters()).device
    )
    hidden = model(**batch.model_inputs()).hidden
    # As text every row 0, 1, 2, … of a sequence is predicted: sequence s begins where the ones before it end.
    begins = torch.tensor([0, *np.cumsum([int((batch.target_owner == i).sum()) for i in range(len(part))])[:-1]])
    return hidden[begins[owner] + rows]


def wrong_speech(sequences: list[Sequence]) -> list[Sequence]:
    """Each sequence with the speech of the next one in place of its own, repeated or cut to the same lengths.

    Where spans are slices of an encoding it is the other's frames that are repeated or cut: the same whether they are
    cached or come from its sound.
    """
    swapped = []
    for i, sequence in enumerate(sequences):
        donor = next(
            (other for other in sequences[i + 1 :] + sequences[:i] if heard(other) and other.ids != sequence.ids),
            sequence,
        )
        if sequence.frames:
            changed = replace(sequence, frames=instead(donor.frames, sequence.frames))
        elif sequence.slices:
            changed = replace(
                sequence, waves=donor.waves, slices=instead(donor.slices, sequence.slices), samples=donor.samples
            )
        else:
            changed = replace(sequence, waves=instead(donor.waves, sequence.waves))
        swapped.append(changed)
    return swapped


def heard(sequence: Sequence) -> bool:
    """Whether it has any speech."""
    return bool(sequence.waves or sequence.frames)


def instead(other: list[np.ndarray], own: list[np.ndarray]) -> list[np.ndarray]:
    """The arrays of ``other``, one behind the other and again from the beginning, cut to the lengths of ``own``."""
    whole, ends = np.concatenate(other), np.cumsum([0] + [len(part) for part in own])
    return [np.take(whole, np.arange(a, b), axis=0, mode="wrap") for a, b in zip(ends[:-1], ends[1:], strict=True)]


def silent(sequence: Sequence) -> Sequence:
    """The sequence with silence in place of its sound: of each span, or of the recording that spans are slices of."""
    if sequence.slices:
        return replace(sequence, waves=[np.zeros(sequence.samples, np.float32)], frames=[])
    return replace(sequence, waves=[np.zeros_like(wave) for wave in sequence.waves])


def summary(records: list[Utterance]) -> dict[str, Any]:
    """Every quantity per text target with its standard error; the paired differences that tell whether speech is used;
    M over the targets behind speech only (before the first speech span M is zero by definition)."""
    tokens = np.array([record.tokens for record in records], dtype=float)
    heard = np.array([record.heard for record in records], dtype=float)
    sums = {name: np.array([getattr(record, name) for record in records]) for name in QUANTITIES}
    result: dict[str, Any] = {
        "items": len(records),
        "tokens": int(tokens.sum()),
        "tokens_after_speech": int(heard.sum()),
    }
    result |= {name: ratio(sums[name], tokens) for name in QUANTITIES}
    result["misalignment_after_speech"] = ratio(sums["misalignment"], heard)
    for control in ("wrong_speech", "silence"):
        gain = sums[f"misalignment_{control}"] - sums["misalignment"]
        result[f"speech_gain_over_{control.removesuffix('_speech')}"] = ratio(gain, tokens)
    return result


def misalignment_of_shards(recipe: Recipe, checkpoint_dir: Path, shard_dir: Path) -> list[dict[str, Any]]:
    """The distillation loss L of a student on every utterance of a shard directory, as Stage II's probe needs it.

    One dictionary per utterance: ``key``, ``m`` (nats per text target) and ``tokens`` (how many those are).
    """
    model, tokenizer = load_student(str(checkpoint_dir))
    model.to(default_device())
    recipe = replace(recipe, data=replace(recipe.data, features="audio"))  # new speech, heard once: nothing to cache
    planner = planner_for(recipe, [SourceConfig(kind="speech", path=str(shard_dir.resolve()))], model, tokenizer)
    sequences = held_out_sequences(planner, len(planner.shards[0]), recipe.select.seed)
    teacher = lone_teacher(recipe, next(model.parameters()).device)
    records = divergences(model, teacher, sequences, recipe.measure.batch, "probe", controls=False)
    return [
        {"key": record.key, "m": record.distillation / record.tokens, "tokens": record.tokens} for record in records
    ]


def weights_identity(directory: Path) -> str:
    """A digest of every byte of a saved student's weights, its config and its tokenizer.

    Each file is read once for every time it changes. Raises CheckpointError for a directory without weights.
    """
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise CheckpointError(f"{directory} has no weights", "give a directory written by train")
    others = [path for name in ("config.json", "tokenizer.json") if (path := directory / name).is_file()]
    return digest_of({file.name: remembered_sha256(file) for file in [*others, *weights]})
