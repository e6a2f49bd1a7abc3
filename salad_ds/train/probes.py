"""M, F and L within training: the same few held-out utterances, every N steps, inside the engine that trains.

The student stays as it is sharded: each rank asks it about its share of the utterances, filled up so that every rank
makes the same forward passes (a sharded forward is a collective). Then the head is gathered, once, for the comparisons
of hidden states; no more than a chunk of logits ever exists.

What the teacher says is exact, whatever ``teacher.mode`` is: before training the first rank lets a short-lived teacher
read the texts, and its hidden states lie on disk with its head (``measure/probe-<digest>.safetensors``). A small store
in the form that training uses would cost the same reading and put the noise of its draws into F and L, which are small
numbers here; whole distributions would take V instead of H numbers per token.

Nothing that is trained depends on it: no gradients, no random numbers, no dropout, and the engine is handed back in
training mode between two steps.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from salad_ds.config import Recipe, SourceConfig, TrainConfig
from salad_ds.data.collate import MicroBatch, Sequence, collate
from salad_ds.data.features import FrameFormat
from salad_ds.data.plan import Planner
from salad_ds.distill import DenseTargets, HiddenTargets
from salad_ds.errors import DataError
from salad_ds.files import atomic_path, digest_of
from salad_ds.measure.divergences import Head, Utterance, compare, states_of
from salad_ds.measure.sequences import Item, held_out
from salad_ds.measure.statistics import QUANTITIES, columns, summary
from salad_ds.model.build import gathered
from salad_ds.model.encoder import SpeechEncoder
from salad_ds.model.salad import SaladForConditionalGeneration
from salad_ds.teacher.forward import shared_vocabulary
from salad_ds.teacher.identity import teacher_identity
from salad_ds.teacher.live import LiveTeacher, lone_teacher
from salad_ds.teacher.ranks import Ranks
from salad_ds.train.together import gathered as gathered_objects

SCHEMA = 1
SHOWN = ("misalignment", "misalignment_wrong_speech", "speech_gain_over_wrong", "forgetting", "distillation")


class Probes:
    """Made before the engine is started, by every rank. Raises DataError where no utterance can be measured.

    ``model``: the student, for its arithmetic; ``cached``: as the stage's planner has it.
    """

    def __init__(self, recipe: Recipe, stage: TrainConfig, model: SaladForConditionalGeneration, tokenizer: Any,
                 cached: FrameFormat | None, device: torch.device) -> None:
        source = SourceConfig(kind="speech", path=recipe.measure.speech)
        planner = Planner([source], recipe.path, recipe.data, tokenizer, model.hearing, cached)
        self.items = held_out(planner, stage.probe_items, recipe.measure.seed)
        if not self.items:
            raise DataError(f"no utterance of {recipe.path(recipe.measure.speech)} can be probed",
                            "measure longer utterances, align them first, or set probe_every to 0")
        self.batch, self.device, self.dummy = recipe.measure.batch, device, planner.dummy()
        self.start, self.rank, self.ranks = model.config.start_token_id, dist.get_rank(), dist.get_world_size()
        output = model.get_output_embeddings()
        self.scale, self.softcap, self.dtype = output.logit_scale, output.logit_softcap, output.weight.dtype
        self.said = Said(prepared(recipe, [item.sequence.ids for item in self.items], device))

    def __call__(self, engine: Any, encoder: SpeechEncoder) -> dict[str, float]:
        """The quantities now, with standard errors over utterances. A collective, between two steps."""
        began = time.perf_counter()
        mine = list(enumerate(self.items))[self.rank :: self.ranks]
        share = -(-len(self.items) // self.ranks)
        devices = [self.device] if self.device.type == "cuda" else []
        training = engine.module.training
        engine.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=devices):
                filled = [*[item for _, item in mine], *[self.items[0]] * (share - len(mine))]
                found = self.compared(engine, encoder, filled)
                records = list(zip([number for number, _ in mine], found, strict=False))
        finally:
            engine.train(training)
        pairs = sorted((pair for part in gathered_objects(records) for pair in part), key=lambda pair: pair[0])
        rows = [asdict(one) for _, one in pairs]
        result = summary(columns(rows, ("tokens", "heard", *QUANTITIES)))
        numbers = {"items": float(result["items"]), "tokens": float(result["tokens"])}
        for name in SHOWN:
            numbers |= {name: result[name]["mean"], f"{name}_se": result[name]["se"]}
        return {**numbers, "seconds": time.perf_counter() - began}

    def compared(self, engine: Any, encoder: SpeechEncoder, items: list[Item]) -> list[Utterance]:
        """Three forward passes for each batch, then all comparisons, with the whole head."""

        def ask(sequences: list[Sequence]) -> tuple[MicroBatch, Tensor]:
            # The dummy clip lets every pass call the same modules, as ZeRO-3 has seen them called in training.
            batch = collate([[sequence] for sequence in sequences], self.start, dummy=self.dummy)
            here = batch.to(self.device)
            hidden = engine(**here.model_inputs(), features=encoder.hear(here)).hidden
            return batch, hidden.to(self.dtype)  # autocast may have changed it

        batches = [items[begin : begin + self.batch] for begin in range(0, len(items), self.batch)]
        states = [states_of(ask, part, silence=False) for part in batches]
        engine.empty_partition_cache()  # ZeRO-3 fetches ahead, the head too, which these passes did not reach
        weight, records = engine.module.get_output_embeddings().weight, []
        with gathered(weight):
            head = Head(weight, self.scale, self.softcap)
            for part, state in zip(batches, states, strict=True):
                truth = self.said.targets(state.batch.teacher_requests(), self.device)
                records += compare(state, head, truth, [item.sequence for item in part])
        return records


class Said:
    """What the teacher says about the probes' texts, from the file that ``prepared`` made; read when it is asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["salad_ds"])
        self.places = {tuple(ids): str(place) for place, ids in enumerate(about["texts"])}
        self.vocab, self.scale, self.softcap = about["vocab"], about["logit_scale"], about["logit_softcap"]

    def targets(self, requests: list[tuple[tuple[int, ...], Tensor]],
                device: torch.device) -> HiddenTargets | DenseTargets:
        """At the rows of the texts, as of a live teacher. The head is on the device only as long as the targets are."""
        with safe_open(self.path, "pt") as file:
            rows = torch.cat([file.get_tensor(self.places[ids])[rows] for ids, rows in requests]).to(device)
            if "head" not in file.keys():  # noqa: SIM118 (safe_open is no dictionary)
                return DenseTargets(rows[:, : self.vocab].float().log_softmax(-1))
            head = file.get_tensor("head").to(device)
        return HiddenTargets(rows, head, self.scale, self.softcap)


def prepared(recipe: Recipe, texts: list[tuple[int, ...]], device: torch.device) -> Path:
    """The file of what the teacher says about ``texts``; made, where there is none, by the first rank alone."""
    with Ranks() as ranks:
        reference = recipe.teacher.llm or recipe.model.llm
        made_from = ranks.first(lambda: {"schema": SCHEMA, "teacher": teacher_identity(reference),
                                         "texts": digest_of(texts), "vocab": shared_vocabulary(recipe)})
        path = recipe.path(f"measure/probe-{digest_of(made_from)[:12]}.safetensors")
        ranks.first(lambda: None if path.is_file() else listen(lone_teacher(recipe, device), texts, path, made_from))
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return path


def listen(teacher: LiveTeacher, texts: list[tuple[int, ...]], path: Path, made_from: dict[str, Any]) -> None:
    """Let the teacher read ``texts``: a tensor per text, [L - 1, H] hidden states beside one ``head`` [V, H], or
    [L - 1, V] logits where they are no product with a head."""
    forward = teacher.teacher
    said: dict[str, Tensor] = {}
    for number, ids in enumerate(texts):
        said[str(number)] = forward.rows([ids])[0].cpu().contiguous()
    if forward.head is not None:
        said["head"] = forward.head[: teacher.vocab].cpu().contiguous().clone()
    about = {"made_from": made_from, "texts": texts, "vocab": teacher.vocab, "logit_scale": forward.logit_scale,
             "logit_softcap": forward.logit_softcap}
    with atomic_path(path) as part:
        save_file(said, part, {"salad_ds": json.dumps(about)})
