"""``salad-ds measure``: M, F and calibration of a student on corpora of speech and of text, overall and by group.

The main set, ``measure.speech``, becomes ``measure/<checkpoint>.json``; each of ``measure.sets``
``measure/<checkpoint>/<name>.json``. What is found of an utterance is written as it is measured (blocks.py) to
``<name>.rows.jsonl`` (the main set: ``speech.rows.jsonl``), from which the results are summed up, in its order.

Of text, F is measured on every token of every text. For M the texts are spoken, once for all students, and their
character error rate stands beside their M where ``synth.asr`` has heard them.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from salad_ds.config import MeasureSetConfig, Recipe
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError
from salad_ds.files import read_json, write_json
from salad_ds.measure.bench import Bench, Loader
from salad_ds.measure.blocks import BlockFile, Row
from salad_ds.measure.divergences import divergences, forgettings
from salad_ds.measure.groups import Groups
from salad_ds.measure.sequences import Block, Order, Told
from salad_ds.measure.spoken import speak_texts, spoken_settings
from salad_ds.measure.statistics import QUANTITIES, Columns, columns, grouped, ratio, summary
from salad_ds.measure.words import Words
from salad_ds.teacher.ranks import Ranks
from salad_ds.train.tracking import open_tracker

SCHEMA = 1
DEFINITION = {
    "unit": "nats per predicted text token",
    "se": "standard error over utterances (ratio estimator)",
    "wrong_speech": "the next utterance's speech, cut or repeated to the same length",
    "silence": "zeros of the same length",
    "overconfidence": "NLL of the true next token - entropy of the student's distribution: 0 when calibrated",
}


def measure(recipe: Recipe, checkpoint: str, load: Loader, identity: str) -> dict[str, dict[str, Any]]:
    """Measure one student on everything that the recipe's ``measure`` names; writes, tracks and returns the results by
    name (``speech``: the main set).

    ``load`` builds the student when it is needed; ``identity`` names its weights: a measurement of the same weights on
    the same data is not repeated. Under a launcher every rank calls this; each holds the whole student, and a share of
    the utterances. Raises DataError where nothing can be measured, CheckpointError and RecipeError for a student or a
    teacher that is not this recipe's.
    """
    with Ranks() as ranks:
        if recipe.threads and ranks.size > 1:
            torch.set_num_threads(recipe.threads)
        bench = Bench(recipe, checkpoint, load, identity, ranks)
        jobs: list[Main | Named | Words] = [Main(bench)] if recipe.measure.speech else []
        jobs += [Named(bench, one) for one in recipe.measure.sets]
        jobs += [Words(bench)] if recipe.measure.words else []
        sources = ranks.first(lambda: [job.made_from() for job in jobs])
        results = ranks.first(lambda: [finished(job.path, made) for job, made in zip(jobs, sources, strict=True)])
        if all(result is not None for result in results):
            return {job.name: result for job, result in zip(jobs, results, strict=True)}  # type: ignore[misc]
        with open_tracker(recipe, f"measure-{checkpoint}") as tracker:
            tracker.tags({"salad.student": identity})
            tracker.follows("student", checkpoint)
            if recipe.measure.speech:
                tracker.dataset(recipe.measure.speech, sources[0]["speech"], recipe.path(recipe.measure.speech))
            for number, (job, made) in enumerate(zip(jobs, sources, strict=True)):
                if results[number] is None:
                    job.measure(made)
                    result = results[number] = ranks.first(partial(write, job, made))
                    if ranks.rank == 0:
                        tracker.metrics(job.metrics(result))
                        tracker.artifact(job.path)
        return {job.name: result for job, result in zip(jobs, results, strict=True)}  # type: ignore[misc]


def finished(path: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """The result at ``path``, where it was made from this."""
    found = read_json(path) if path.is_file() else {}
    return found if found.get("made_from") == made_from else None


def write(job: Main | Named | Words, made_from: dict[str, Any]) -> dict[str, Any]:
    """Sum up what was measured; on one rank."""
    head = {"schema": SCHEMA, "checkpoint": job.bench.checkpoint, "made_from": made_from}
    result = {**head, **job.result(made_from)}
    write_json(job.path, result)
    return result


class Main:
    """``measure.speech``: the result has every utterance."""

    name = "speech"

    def __init__(self, bench: Bench) -> None:
        self.bench, self.settings = bench, bench.recipe.measure
        self.path = bench.recipe.path(f"measure/{bench.checkpoint}.json")
        self.source = bench.recipe.path(self.settings.speech)

    def made_from(self) -> dict[str, Any]:
        return self.bench.made_from(self.settings.items, speech=ShardSet.open(self.source).identity(),
                                    quantities=list(QUANTITIES))

    def measure(self, made_from: dict[str, Any]) -> None:
        order = self.bench.order(self.settings.speech, cached=True)
        file = self.bench.file(self.name, made_from)
        measure_speech(self.bench, order, self.settings.items, file, "measure")

    def result(self, made_from: dict[str, Any]) -> dict[str, Any]:
        file = self.bench.file(self.name, made_from)
        rows = list(file.rows())
        if not rows:
            raise nothing(self.source, file)
        numbers = columns(rows, ("tokens", "heard", *QUANTITIES))
        return {**summary(numbers), "definition": DEFINITION, "skipped": file.skipped(), "utterances": rows}

    def metrics(self, result: dict[str, Any]) -> dict[str, float]:
        counts = {"items": result["items"], "tokens": result["tokens"], "passed_over": sum(result["skipped"].values())}
        errors = {f"{name}_se": result[name]["se"] for name in QUANTITIES}
        return {**{name: result[name]["mean"] for name in QUANTITIES}, **errors, **counts}


class Named:
    """One of ``measure.sets``: quantities overall and by group; the utterances stay in the file of rows."""

    def __init__(self, bench: Bench, settings: MeasureSetConfig) -> None:
        self.bench, self.settings, self.name = bench, settings, settings.name
        self.path = bench.path(f"{self.name}.json")
        self.source = bench.recipe.path(settings.path)
        self.kind = ShardSet.open(self.source).kind
        self.groups = Groups(bench.recipe, settings.by)

    def made_from(self) -> dict[str, Any]:
        others: dict[str, Any] = {self.kind: ShardSet.open(self.source).identity(), **self.groups.made_from(),
                                  "quantities": list(QUANTITIES)}
        if self.kind == "text":
            others["synth"] = spoken_settings(self.bench.recipe)
        return self.bench.made_from(self.settings.items, self.settings.by, **others)

    def measure(self, made_from: dict[str, Any]) -> None:
        bench, items, label = self.bench, self.settings.items, f"measure {self.name} of"
        order = bench.order(self.settings.path, self.kind)
        file = bench.file(self.name, made_from)
        if self.kind == "speech":
            measure_speech(bench, order, items, file, label, self.groups.of)
            return
        texts = bench.file(f"{self.name}.texts", made_from)
        measure_texts(bench, order, items, texts, f"read {self.name} by", self.groups.of)
        place = bench.ranks.first(lambda: speak_texts(bench.recipe, self.name, order, items))
        if place is None:
            bench.ranks.first(file.begin)
            return
        belongs = bench.ranks.first(lambda: {row["key"]: row["group"] for row in texts.rows()})
        spoken = bench.order(str(place))
        measure_speech(bench, spoken, 0, file, label, lambda key, _: belongs.get(key, ""))

    def result(self, made_from: dict[str, Any]) -> dict[str, Any]:
        file = self.bench.file(self.name, made_from)
        head = {"set": self.name, "kind": self.kind, "path": self.settings.path, "by": self.settings.by}
        parts, skipped = of_speech(file), file.skipped()
        if self.kind == "text":
            texts = self.bench.file(f"{self.name}.texts", made_from)
            parts["reading"] = of_texts(texts)
            skipped |= texts.skipped()
        if not parts["overall"]["items"] and not parts.get("reading", {}).get("overall", {}).get("items"):
            raise nothing(self.source, file)
        return {**head, **parts, "definition": DEFINITION, "skipped": skipped}

    def metrics(self, result: dict[str, Any]) -> dict[str, float]:
        found = {f"{self.name}_{name}": result["overall"][name]["mean"] for name in QUANTITIES}
        if "reading" in result:
            found[f"{self.name}_forgetting_of_texts"] = result["reading"]["overall"]["forgetting"]["mean"]
        return {name: value for name, value in found.items() if value == value}


def nothing(source: Path, file: BlockFile) -> DataError:
    why = "; ".join(f"{count} {reason}" for reason, count in file.skipped().items())
    return DataError(f"no utterance of {source} can be measured" + (f": {why}" if why else ""),
                     "measure longer utterances, or align them first")


# ---- rows


def measure_speech(bench: Bench, order: Order, items: int, file: BlockFile, label: str, group_of: Any = None) -> None:
    """QUANTITIES of up to ``items`` utterances into ``file``. ``group_of``: (key, metadata) → its group."""

    def work(block: Block) -> tuple[list[Row], Told]:
        found, unheard = order.items(block)
        records = divergences(bench.model, bench.teacher, found, bench.recipe.measure.batch)
        rows = [asdict(record) for record in records]
        if group_of is not None:
            for row, item in zip(rows, found, strict=True):
                meta = order.meta(item.index)
                row["group"] = group_of(row["key"], meta)
                row["cer"] = meta.get("cer")
        return rows, unheard

    bench.run(file, order, items, work, label)


def measure_texts(bench: Bench, order: Order, items: int, file: BlockFile, label: str, group_of: Any) -> None:
    """F of up to ``items`` texts, on all of each, into ``file``."""

    def work(block: Block) -> tuple[list[Row], Told]:
        found, unread = order.load(block)
        sequences = [sequence for _, sequence in found]
        sums = forgettings(bench.model, bench.teacher, sequences, bench.recipe.measure.batch)
        metas = [order.meta(plan.index) for _, plan in block.plans]  # a text has no sound that could be missing
        return [{"key": sequence.key, "tokens": tokens, "forgetting": total, "group": group_of(sequence.key, meta)}
                for sequence, meta, (tokens, total) in zip(sequences, metas, sums, strict=True)], unread

    bench.run(file, order, items, work, label)


# ---- sums


def of_speech(file: BlockFile) -> dict[str, Any]:
    """Quantities of the utterances in ``file``, overall and by group, with the character error rate of those that have
    one."""
    table, groups = columns(file.rows(), ("tokens", "heard", *QUANTITIES, "cer")), names_in(file)

    def told(part: Columns) -> dict[str, Any]:
        known = part["cer"][part["cer"] == part["cer"]]
        return {**summary(part), **({"cer": ratio(known, known * 0 + 1)} if len(known) else {})}

    return {"overall": told(table), "groups": {name: told(part) for name, part in grouped(table, groups).items()}}


def of_texts(file: BlockFile) -> dict[str, Any]:
    """F of the texts in ``file``, on all of their tokens."""
    table, groups = columns(file.rows(), ("tokens", "forgetting")), names_in(file)

    def told(part: Columns) -> dict[str, Any]:
        return {"items": len(part["tokens"]), "tokens": int(part["tokens"].sum()),
                "forgetting": ratio(part["forgetting"], part["tokens"])}

    return {"overall": told(table), "groups": {name: told(part) for name, part in grouped(table, groups).items()}}


def names_in(file: BlockFile) -> list[str]:
    return [row["group"] for row in file.rows()]
