"""Misalignment M, forgetting F and calibration of a student, with the controls that say whether it *uses* the speech it
is given.

For a text ``w``, the same content ``c`` with spans replaced by speech, the teacher Q (text LLM) and the student P, at
every position whose next token is text (SALAD, arXiv 2510.13632; nats, divided by the number of such tokens):

    M  = KL( P(w[i+1] | w[≤i]) ‖ P(w[i+1] | c[≤i]) )      misalignment: the student reading against the student hearing
    F  = KL( Q(w[i+1] | w[≤i]) ‖ P(w[i+1] | w[≤i]) )      forgetting: text only
    L  = KL( Q(w[i+1] | w[≤i]) ‖ P(w[i+1] | c[≤i]) )      what training minimises

M is measured three times: with the right speech, with another utterance's in its place (same length), and with silence.
A student that hears has the first well below the other two; one that ignores what it is given has all three alike.

Calibration of the entropy, for x = w[≤i] (reading) and x = c[≤i] (hearing), at the same positions (Braverman et al.,
arXiv 1906.05664, who also take contexts that the model has generated; here they are the true ones):

    NLL            = −log P(w[i+1] | x)
    overconfidence = NLL − H( P(· | x) )                  0 on average: calibrated; above: too sure; below: too vague

Its mean is the derivative of the mean NLL by log β, at β = 1, of softmax(β · logits): where it is positive, a
temperature above 1 would lower the NLL.

Here they are computed, for some utterances; sets.py measures corpora, train/probes.py measures within training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from salad_ds.config import Recipe, SourceConfig, plain
from salad_ds.data.collate import MicroBatch, Sequence, collate
from salad_ds.data.shards import ShardSet
from salad_ds.distill import DenseTargets, DistillOutput, HiddenTargets, fused_linear_distill
from salad_ds.errors import CheckpointError
from salad_ds.files import digest_of
from salad_ds.measure.blocks import BlockFile, Row, device_of, run_blocks
from salad_ds.measure.sequences import Block, Item, Order, Told, heard_targets, planner_for, silent
from salad_ds.model.adapter_weights import model_identity
from salad_ds.model.salad import SaladForConditionalGeneration, load_student
from salad_ds.teacher.identity import remembered_sha256, teacher_identity
from salad_ds.teacher.live import LiveTeacher, lone_teacher
from salad_ds.teacher.ranks import Ranks

Ask = Callable[[list[Sequence]], tuple[MicroBatch, Tensor]]
"""Sequences → their micro-batch (a row each) and the [N, H] hidden states at its text targets."""


@dataclass(frozen=True)
class Utterance:
    """Sums over the ``tokens`` text targets of one utterance, nats. ``heard``: targets that have speech before them.
    What was not asked for (a control, the calibration) is NaN."""

    key: str
    tokens: int
    heard: int
    misalignment: float
    misalignment_wrong_speech: float
    misalignment_silence: float
    forgetting: float
    distillation: float
    nll_hearing: float
    nll_reading: float
    overconfidence_hearing: float
    overconfidence_reading: float


@dataclass(frozen=True)
class Head:
    """A student's output layer, whole: ``weight`` [V, H]; logits are ``cap(scale · hidden @ weight.T)``."""

    weight: Tensor
    scale: float = 1.0
    softcap: float | None = None

    def says(self, hidden: Tensor) -> HiddenTargets:
        """The distributions at ``hidden`` [N, H], as something to be compared with."""
        return HiddenTargets(hidden, self.weight, self.scale, self.softcap)

    def kl(self, truth: HiddenTargets | DenseTargets, hidden: Tensor) -> Tensor:
        """[N] KL(truth ‖ the distribution at ``hidden``), nats, float32."""
        return self.against(truth, hidden).kl

    def against(
        self, truth: HiddenTargets | DenseTargets, hidden: Tensor, labels: Tensor | None = None
    ) -> DistillOutput:
        """``kl`` as above, ``entropy`` of the truth; with ``labels`` [N], their ``nll`` by the distribution at
        ``hidden``."""
        return fused_linear_distill(
            hidden, self.weight, truth, labels, logit_scale=self.scale, logit_softcap=self.softcap
        )

    def entropy(self, hidden: Tensor) -> Tensor:
        """[N] entropy of the distributions at ``hidden``, nats, float32."""
        # As the truth, held against a student of width 1, whose product costs next to nothing.
        narrow, weight = hidden.new_zeros(len(hidden), 1), self.weight.new_zeros(len(self.weight), 1)
        return fused_linear_distill(narrow, weight, self.says(hidden)).entropy


def head_of(model: SaladForConditionalGeneration) -> Head:
    """The output layer of a student whose weights are whole."""
    head = model.get_output_embeddings()
    return Head(head.weight, head.logit_scale, head.logit_softcap)


@dataclass(frozen=True)
class States:
    """[N, H] hidden states of a student at the N text targets of the same utterances, under every condition. ``batch``:
    the utterances as they are heard; None: a control that was not run."""

    batch: MicroBatch
    reading: Tensor
    right: Tensor
    wrong: Tensor | None
    silence: Tensor | None


def states_of(ask: Ask, items: list[Item], wrong: bool = True, silence: bool = True) -> States:
    """What the student makes of the texts, of the right speech and of the controls."""
    own = [item.sequence for item in items]
    batch, right = ask(own)
    text, read = ask([sequence.as_text() for sequence in own])
    # As text every row 0, 1, 2, … of a sequence is predicted: sequence s begins where the ones before it end.
    counts = [int((text.target_owner == i).sum()) for i in range(len(items))]
    begins = torch.tensor([0, *np.cumsum(counts)[:-1]])
    reading = read[(begins[batch.target_owner] + batch.target_rows).to(read.device)]
    return States(batch, reading, right, ask([item.wrong for item in items])[1] if wrong else None,
                  ask([silent(sequence) for sequence in own])[1] if silence else None)  # fmt: skip


def plainly(model: SaladForConditionalGeneration) -> Ask:
    """Ask a student whose weights lie whole on one device."""

    def ask(sequences: list[Sequence]) -> tuple[MicroBatch, Tensor]:
        batch = collate([[sequence] for sequence in sequences], model.config.start_token_id)
        here = batch.to(next(model.parameters()).device)
        return batch, model(**here.model_inputs(), features=model.encoder.hear(here)).hidden

    return ask


@torch.no_grad()
def divergences(
    model: SaladForConditionalGeneration,
    teacher: LiveTeacher,
    items: list[Item],
    batch: int,
    controls: bool = True,
) -> list[Utterance]:
    """M, F, L, the controls and the calibration of every utterance. Without ``controls`` the last two are NaN and cost
    nothing."""
    model.eval()
    ask, head, records = plainly(model), head_of(model), []
    for begin in range(0, len(items), batch):
        part = items[begin : begin + batch]
        states = states_of(ask, part, controls, controls)
        truth = teacher.targets(states.batch.teacher_requests()).to(head.weight.device)
        records += compare(states, head, truth, [item.sequence for item in part], calibration=controls)
    return records


def compare(
    states: States,
    head: Head,
    truth: HiddenTargets | DenseTargets,
    sequences: list[Sequence],
    calibration: bool = False,
) -> list[Utterance]:
    """The sums of each utterance. ``truth``: what the teacher says at the targets. ``calibration``: NLL and
    overconfidence too, for one more product with the head: that of the entropy, hearing."""
    student, owner = head.says(states.reading), states.batch.target_owner
    labels = states.batch.labels.to(states.right.device) if calibration else None
    hearing, reading = head.against(student, states.right, labels), head.against(truth, states.reading, labels)
    blank = torch.full((len(owner),), float("nan"))
    values = {
        "misalignment": hearing.kl,
        "misalignment_wrong_speech": blank if states.wrong is None else head.kl(student, states.wrong),
        "misalignment_silence": blank if states.silence is None else head.kl(student, states.silence),
        "forgetting": reading.kl,
        "distillation": head.kl(truth, states.right),
        "nll_hearing": hearing.nll if calibration else blank,
        "nll_reading": reading.nll if calibration else blank,
        "overconfidence_hearing": hearing.nll - head.entropy(states.right) if calibration else blank,
        "overconfidence_reading": reading.nll - hearing.entropy if calibration else blank,  # the truth there: reading
    }
    values = {name: value.double().cpu() for name, value in values.items()}
    return [
        Utterance(
            sequence.key,
            int((owner == i).sum()),
            heard_targets(sequence.pieces),
            **{name: float(value[owner == i].sum()) for name, value in values.items()},
        )
        for i, sequence in enumerate(sequences)
    ]


@torch.no_grad()
def forgettings(
    model: SaladForConditionalGeneration, teacher: LiveTeacher, sequences: list[Sequence], batch: int
) -> list[tuple[int, float]]:
    """(text targets, sum of KL(Q ‖ P) over them) of every text: F where there is no speech."""
    model.eval()
    ask, head, found = plainly(model), head_of(model), []
    for begin in range(0, len(sequences), batch):
        spoken, hidden = ask(sequences[begin : begin + batch])
        truth = teacher.targets(spoken.teacher_requests()).to(head.weight.device)
        kl, owner = head.kl(truth, hidden).double().cpu(), spoken.target_owner
        found += [(int((owner == i).sum()), float(kl[owner == i].sum())) for i in range(len(spoken.texts))]
    return found


def misalignment_of_shards(recipe: Recipe, checkpoint_dir: Path, shard_dir: Path) -> list[dict[str, Any]]:
    """The distillation loss L of a student on every utterance of a shard directory, as Stage II's probe needs it.

    One dictionary per utterance: ``key``, ``m`` (nats per text target) and ``tokens`` (how many those are). Under a
    launcher every rank calls this, measures its share and returns all. What is measured is kept beside the shards, so
    that a killed run goes on.
    """
    recipe = replace(recipe, data=replace(recipe.data, features="audio"))  # new speech, heard once: nothing to cache
    settings, batch = recipe.select, recipe.measure.batch
    with Ranks() as ranks:
        made_from = ranks.first(lambda: {
            "student": weights_identity(checkpoint_dir),
            "teacher": teacher_identity(recipe.teacher.llm or recipe.model.llm),
            "speech": ShardSet.open(shard_dir).identity(),
            "settings": what_counts(recipe, settings.seed),
        })  # fmt: skip
        file = BlockFile(shard_dir.parent / f"measured-{digest_of(made_from)[:12]}.rows.jsonl", made_from)
        device = device_of(ranks)
        model, tokenizer = load_student(str(checkpoint_dir))
        model.to(device)
        planner = planner_for(recipe, [SourceConfig(kind="speech", path=str(shard_dir.resolve()))], model, tokenizer)
        teacher, order = lone_teacher(recipe, device), Order(planner, settings.seed)

        def work(block: Block) -> tuple[list[Row], Told]:
            items, unheard = order.items(block, controls=False)
            return [asdict(one) for one in divergences(model, teacher, items, batch, controls=False)], unheard

        run_blocks(ranks, file, order, 0, work, "probe", recipe.data.max_bad_share)
        rows = ranks.first(lambda: [(row["key"], row["distillation"], row["tokens"]) for row in file.rows()])
    return [{"key": key, "m": total / tokens, "tokens": tokens} for key, total, tokens in rows]


def what_counts(recipe: Recipe, *others: Any) -> str:
    """Digest of the settings that a measured utterance depends on: how it is cut and heard, not how it is read."""
    reading = ("workers", "prefetch", "max_bad_share", "shuffle_shards")
    data = {key: value for key, value in plain(recipe.data).items() if key not in reading}
    return digest_of([model_identity(recipe.model, fresh=False), data, *others])


def weights_identity(directory: Path) -> str:
    """A digest of every byte of a saved student's weights, its config and its tokenizer.

    Each file is read once for every time it changes. Raises CheckpointError for a directory without weights.
    """
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise CheckpointError(f"{directory} has no weights", "give a directory written by train")
    others = [path for name in ("config.json", "tokenizer.json") if (path := directory / name).is_file()]
    return digest_of({file.name: remembered_sha256(file) for file in [*others, *weights]})
