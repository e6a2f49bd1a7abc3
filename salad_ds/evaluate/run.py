"""``salad-ds evaluate``: the same multiple-choice items in text and in speech, put to every model of the recipe.

Under a launcher (RANK, WORLD_SIZE) the items are divided over the ranks, each with the whole model on its device: there
is no ZeRO here. Batches are laid out before they are divided, so that the scores do not depend on the number of ranks,
nor on where a run was stopped and started again.
"""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from salad_ds.asr import identity, recogniser
from salad_ds.config import Recipe
from salad_ds.errors import DataError, RecipeError, SaladError
from salad_ds.evaluate.models import Base, Cascade, Model, Reader, Student
from salad_ds.evaluate.prompts import Sound, batches
from salad_ds.evaluate.questions import Questions, characters
from salad_ds.evaluate.results import CONDITIONS, SCHEMA, Result, Row, joined, overall, summarise
from salad_ds.evaluate.shown import table
from salad_ds.evaluate.transcripts import error_rates, transcripts
from salad_ds.files import digest_of, sole_writer
from salad_ds.measure.blocks import device_of
from salad_ds.measure.run import find_student
from salad_ds.progress import Progress
from salad_ds.table import read_made
from salad_ds.teacher.ranks import Ranks
from salad_ds.train.tracking import Tracker, open_tracker

SCORER = 1
"""Raised when the same weights and items get other scores."""

Summaries = dict[str, dict[str, Any]]


def evaluate_checkpoint(recipe: Recipe, checkpoint: str) -> dict[str, Summaries]:
    """Every model of ``evaluate.models`` on every task: written below ``evaluate/``, tracked, and printed.

    ``checkpoint``: the student, as ``measure.run.find_student`` has it. What is there already is not asked again.
    Returns ``{model: {task: summary}}`` (results.py) on rank 0, nothing on others. Raises RecipeError for a recipe
    without tasks, a context that a model cannot read, or a model that cannot be loaded.
    """
    settings = recipe.evaluate
    if not settings.tasks:
        raise RecipeError("evaluate.tasks is empty", "add a task, such as {name: wordnet, items: 100, shots: 0}")
    with Ranks() as ranks:
        device = device_of(ranks)
        found = find_student(recipe, checkpoint) if "student" in settings.models else None
        reader = Reader(recipe)
        hears = any(model != "base" for model in settings.models)
        papers = [Questions.gather(recipe, task, ranks, hears) for task in settings.tasks]
        run = Evaluation(recipe, papers, ranks)
        if {"base", "cascade"} & set(settings.models):
            run.ask(Base(recipe, reader, device))
        if "cascade" in settings.models:
            texts: dict[Sound, str] = {}
            for paper in papers:
                assert paper.speech is not None  # a cascade hears
                rows = transcripts(recipe, paper.task, paper.everything, paper.speech, ranks)
                texts |= {paper.sounds[row["id"]]: row["heard"] for row in rows}
                run.heard[paper.task.name] = {"model": settings.asr, **error_rates(rows)}
            recogniser.cache_clear()
            run.ask(Cascade(recipe, reader, device, texts, identity(settings.asr)))
        if found is not None:
            run.ask(Student(recipe, reader, device, *found))
        for model in settings.models:
            if model.startswith("hf:"):
                from salad_ds.evaluate.speech_llm import SpeechLLM

                run.ask(SpeechLLM(model.removeprefix("hf:"), device))
        if ranks.rank == 0:
            print(table(run.summaries, settings.seed))
        return run.summaries


class Evaluation:
    """Puts the papers to one model after the other. ``summaries``: of those that were asked, on rank 0. ``heard``: how
    well the cascade's recogniser understood each task."""

    def __init__(self, recipe: Recipe, papers: list[Questions], ranks: Ranks) -> None:
        self.recipe, self.papers, self.ranks = recipe, papers, ranks
        self.summaries: dict[str, Summaries] = {}
        self.heard: dict[str, dict[str, Any]] = {}
        self.base: dict[str, list[Row]] = {}
        """The base LLM's rows of each task."""

    def ask(self, model: Model) -> None:
        """All tasks of one model."""
        directory = self.recipe.path("evaluate") / model.name
        with alone(directory, self.ranks), contextlib.ExitStack() as stack:
            tracker: Tracker | None = None
            for paper in self.papers:
                result, head, there = self.prepare(model, paper)
                if not there and tracker is None:
                    tracker = stack.enter_context(open_tracker(self.recipe, f"evaluate-{model.name}"))
                    self.introduce(model, tracker)
                if not there:
                    self.answer(model, paper, result, head)
                if self.ranks.rank == 0:
                    self.sum_up(model, paper, result, head)
            own = self.summaries.get(model.name, {})
            if tracker is not None and own:
                tracker.metrics(metrics(own, self.recipe.evaluate.seed))
                for task in own:
                    tracker.artifact(directory / f"{task}.json")
        model.close()
        gc.collect()

    def introduce(self, model: Model, tracker: Tracker) -> None:
        """Tell MLflow who is asked what: a run that dies has said how many items there were."""
        tracker.tags({"salad.student": model.identity})
        tracker.follows("student", model.name)
        for paper in self.papers:
            tracker.dataset(f"evaluate.{paper.task.name}", digest_of(paper.made_from()), paper.task.source)
            tracker.metrics({f"evaluate.{paper.task.name}.of": len(paper.items)})

    def prepare(self, model: Model, paper: Questions) -> tuple[Result, dict[str, Any], bool]:
        """(files, head of the summary, whether all answers are there)."""
        made_from = {"model": model.identity, "scorer": SCORER, **paper.made_from()}
        own = [c for c in model.conditions if c == "text" or paper.speech is not None]
        head = {"schema": SCHEMA, "model": model.name, "identity": model.identity, **paper.head(), "conditions": own,
                "seed": self.recipe.evaluate.seed}  # fmt: skip
        if isinstance(model, Cascade):  # it reads with the base LLM, whose answers there are
            head |= {"conditions": list(CONDITIONS), "borrowed": ["text"], "asr": self.heard[paper.task.name]}
        result = Result(self.recipe.path("evaluate") / model.name, paper.task.name, made_from)
        return result, head, self.ranks.first(lambda: read_made(result.table, made_from) is not None)

    def answer(self, model: Model, paper: Questions, result: Result, head: dict[str, Any]) -> None:
        """Every item in every condition that the model has, by all ranks; then the rows, by rank 0."""
        ranks, asked = self.ranks, [c for c in head["conditions"] if c not in head.get("borrowed", ())]
        ids = [item.id for item in paper.items]
        ranks.first(lambda: result.begin(head))
        for condition in asked:
            prompts, shots, reasons = paper.prompts(model, condition)
            done = ranks.first(partial(answered, result, condition))
            plan = [batch for batch in batches(prompts, shots, self.recipe.evaluate.batch)
                    if any(ids[i] not in done for i in batch.items)]  # fmt: skip
            refused = [i for i, prompt in enumerate(prompts) if prompt is None and ids[i] not in done]
            log = result.log(condition, ranks.rank)
            if refused and ranks.rank == 0:
                log.append([row_of(paper, i, 0) | {"error": reasons[i]} for i in refused])
            label, mine = f"{model.name}, {paper.task.name} in {condition}", plan[ranks.rank :: ranks.size]
            with Progress(label, sum(len(b.items) for b in mine), "item", quiet=ranks.rank > 0) as progress:
                for batch in mine:
                    own = [prompt for i in batch.items if (prompt := prompts[i]) is not None]
                    rows = [row_of(paper, i, shots[i]) for i in batch.items]
                    for row, scores in zip(rows, model.score(own, batch.shared), strict=True):
                        row["logprob"] = [round(score.logprob, 6) for score in scores]
                        row["tokens"] = [score.tokens for score in scores]
                        if not all(map(math.isfinite, row["logprob"])):
                            row |= {"error": "its score is not a number", "logprob": None}
                    log.append(rows)
                    progress.update(len(rows))
            log.close()
        ranks.gather(None)  # all rows are on disk
        if ranks.rank == 0:
            parts = {c: result.done(c) for c in asked}
            if "borrowed" in head:
                parts = {"text": borrowed(self.base[paper.task.name]), **parts}
            result.finish(joined(ids, parts), list(parts))

    def sum_up(self, model: Model, paper: Questions, result: Result, head: dict[str, Any]) -> None:
        answers = read_made(result.table, result.made_from)
        if answers is None:
            raise DataError(f"{result.table} has gone while it was used", "start salad-ds evaluate again")
        rows = answers.to_pylist()
        if type(model) is Base:
            self.base[paper.task.name] = rows
        base = self.base.get(paper.task.name) if model.family == Base.family else None
        summary = summarise(head, rows, base)
        result.close(summary)
        self.summaries.setdefault(model.name, {})[paper.task.name] = {**summary, "complete": True}


def answered(result: Result, condition: str) -> set[str]:
    """Ids of the items that have an answer, or a reason against one."""
    return set(result.done(condition))


def row_of(paper: Questions, i: int, shots: int) -> Row:
    item = paper.items[i]
    return {"id": item.id, "domain": item.domain, "answer": item.answer, "shots": shots,
            "characters": characters(item.options)}  # fmt: skip


def borrowed(rows: list[Row]) -> dict[str, Row]:
    """The base LLM's rows as the text condition of the cascade."""
    found = {}
    for row in rows:
        found[row["id"]] = {name: row[name] for name in ("id", "domain", "answer", "shots", "characters", "error")}
        if not row["error"]:
            found[row["id"]] |= {"logprob": row["text_logprob"], "tokens": row["text_tokens"]}
    return found


def metrics(tasks: Summaries, seed: int) -> dict[str, float]:
    """``evaluate.TASK.text_accuracy``, ``.speech_accuracy``, ``.gap``, ``.base_gap``, ``.items`` of
    ``.of``, and the same without a task: the means over all."""
    found: dict[str, float] = {}
    for prefix, summary in [*((f"evaluate.{task}", one) for task, one in tasks.items()),
                            ("evaluate", overall(tasks, seed))]:  # fmt: skip
        found |= {f"{prefix}.{name}": summary[name] for name in ("items", "of")}
        found |= {f"{prefix}.{c}_accuracy": summary[c]["accuracy"] for c in CONDITIONS if c in summary}
        found |= {f"{prefix}.{name}": summary[name]["mean"] for name in ("gap", "base_gap") if name in summary}
    return found


@contextlib.contextmanager
def alone(directory: Path, ranks: Ranks) -> Iterator[None]:
    """Be the only job that writes a model's answers. Raises SaladError, on every rank, while another one does."""
    with contextlib.ExitStack() as stack:

        def lock() -> None:
            if not stack.enter_context(sole_writer(directory)):
                raise SaladError(f"another evaluation writes into {directory}", "wait for it to end")

        ranks.first(lock)
        yield
