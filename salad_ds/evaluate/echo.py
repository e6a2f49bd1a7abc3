"""Open-ended generation: what a student says, greedily, after hearing natural speech.

Two prompts (echo.yaml). ``echo`` asks for the words of an utterance of ``measure.speech``. They are its reference:
errors per word (WER) and per character (CER) are counted, both sides as they are spoken (``synth.normalize.plain``),
when the student is given

    reading   the words: what its LLM makes of the prompt at all
    hearing   their sound
    another   the sound of another utterance, held against the words that it did not hear: a student that has no more
              errors here than when hearing does not use its speech

``continue`` lets it go on after what it heard, without a reference. Error rates are over the words of all utterances;
their intervals (95 %) come from resampling utterances, that of a difference pairwise.

``evaluate/echo-CHECKPOINT.parquet`` has every answer (echo_results.COLUMNS), ``evaluate/echo-CHECKPOINT.json`` the
summary, which is there, not ``complete``, before the first answer. Answers are logged a block at a time by all ranks,
and a run that is started again goes on behind the last whole block.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from salad_ds.config import Recipe
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError, RecipeError, SaladError
from salad_ds.evaluate.echo_results import COLUMNS, QUESTIONS, SCHEMA, Files, metrics, scored, shown, summarise
from salad_ds.evaluate.results import Row, RowLog
from salad_ds.evaluate.spoken_answers import Question, answers
from salad_ds.evaluate.tasks.items import Template
from salad_ds.evaluate.tasks.templates import templates
from salad_ds.evaluate.utterances import Speech, Utterance, chosen
from salad_ds.files import read_json, write_json, writing_alone
from salad_ds.measure.bench import Loader
from salad_ds.measure.blocks import device_of
from salad_ds.measure.run import find_student
from salad_ds.model.build import require_recipe
from salad_ds.model.processing import AUDIO_MARK
from salad_ds.progress import Progress
from salad_ds.table import read_made, write_table
from salad_ds.teacher.ranks import Ranks
from salad_ds.train.tracking import open_tracker

VERSION = 1
"""Raised when the same weights and speech get other answers or other numbers."""
PROMPTS = Path(__file__).with_name("echo.yaml")
BLOCK = 8
"""Utterances that are answered before their answers are made safe."""


def echo(recipe: Recipe, checkpoint: str) -> dict[str, Any]:
    """Ask one student (as ``measure.run.find_student`` has it) about ``evaluate.echo`` utterances; written, tracked,
    printed. Returns the summary (echo_results.summarise).

    Under a launcher every rank calls this and holds the whole student. What is there already is not asked again. Raises
    RecipeError where the recipe asks for nothing, DataError where fewer than two utterances can be used.
    """
    settings = recipe.evaluate
    if not settings.echo or not recipe.measure.speech:
        raise RecipeError("evaluate.echo is 0, or measure.speech is empty", "say how many utterances of which speech")
    with Ranks() as ranks, contextlib.ExitStack() as stack:
        device_of(ranks)  # makes it the current one
        name, load, identity = find_student(recipe, checkpoint)
        shards = ShardSet.open(recipe.path(recipe.measure.speech))
        prompts = templates(PROMPTS)
        made_from = {
            "student": identity, "speech": ranks.first(shards.identity), "version": VERSION,
            "prompts": {prompt: asdict(template) for prompt, template in prompts.items()},
            "settings": [settings.echo, settings.echo_words, settings.echo_tokens, settings.context, settings.seed],
        }  # fmt: skip
        files = Files(recipe, name, made_from)
        busy = SaladError(f"another run writes {files.table}", "wait for it to end")
        ranks.first(lambda: stack.enter_context(writing_alone(
            files.table.parent, busy, f".{files.table.stem}.*.part", name=f".{files.table.stem}.lock")))
        if not ranks.first(lambda: finished(files)):
            utterances, skipped = ranks.first(lambda: chosen(shards, recipe, list(prompts.values())))
            head = {"schema": SCHEMA, "checkpoint": name, "of": len(utterances), "skipped": skipped,
                    "words_heard": settings.echo_words, "most_tokens": settings.echo_tokens, "seed": settings.seed,
                    "made_from": made_from}  # fmt: skip
            ranks.first(lambda: write_json(files.summary, {**head, "complete": False}))
            ask(recipe, files, Speech(shards, utterances), prompts, load, ranks)
            ranks.first(lambda: finish(recipe, files, head, utterances))
        summary = ranks.first(lambda: read_json(files.summary))
        if ranks.rank == 0:
            print(f"{name}: {shown(summary)}")
        return summary


def finished(files: Files) -> bool:
    """Whether table and summary are there, made from what is wanted."""
    summary = read_json(files.summary) if files.summary.is_file() else {}
    return bool(summary.get("complete")) and read_made(files.table, files.made_from) is not None


def ask(recipe: Recipe, files: Files, speech: Speech, prompts: dict[str, Template], load: Loader,
        ranks: Ranks) -> None:  # fmt: skip
    """Log the answers that are not there, by all ranks."""
    numbers, there = range(len(speech.utterances)), ranks.first(lambda: set(files.done()))
    blocks = [numbers[i : i + BLOCK] for i in range(0, len(numbers), BLOCK)]
    todo = [block for block in blocks
            if any(row_id(speech.utterances[i], *QUESTIONS[0]) not in there for i in block)]  # fmt: skip
    mine = todo[ranks.rank :: ranks.size]
    log = RowLog(files.logs, f"answers.{ranks.rank}", files.made_from)
    if mine:
        model, tokenizer = load()
        require_recipe(model, tokenizer, recipe.model)
    with Progress(f"echo of {files.name}", sum(map(len, mine)), "utterance", quiet=ranks.rank > 0) as progress:
        for block in mine:
            pairs = list(asked(speech, block, prompts))
            questions = [question for _, question in pairs if question is not None]
            found = iter(answers(model, tokenizer, questions, recipe.evaluate.echo_tokens, recipe.evaluate.batch))
            log.append([row if question is None else row | scored(row["reference"], next(found))
                        for row, question in pairs])  # fmt: skip
            progress.update(len(block))
    log.close()
    ranks.gather(None)  # all answers are on disk


def asked(speech: Speech, block: Sequence[int], prompts: dict[str, Template]) -> Iterator[tuple[Row, Question | None]]:
    """Every question about the utterances of a block, with the row of its answer; None for what cannot be heard."""
    for number in block:
        own = speech.utterances[number]
        for prompt, given in QUESTIONS:
            source, template = speech.other(number) if given == "another" else own, prompts[prompt]
            row: Row = {"id": row_id(own, prompt, given), "key": own.key, "prompt": prompt, "given": given,
                        "heard": source.text, "reference": own.text if prompt == "echo" else "", "error": ""}
            if given == "reading":
                yield row, Question(template.read(own.text), None, template.between)
                continue
            try:
                yield row, Question(template.heard(AUDIO_MARK), speech.clip(source), template.between)
            except DataError as error:
                yield row | {"error": error.what}, None


def row_id(one: Utterance, prompt: str, given: str) -> str:
    return f"{one.key}/{prompt}/{given}"


def finish(recipe: Recipe, files: Files, head: dict[str, Any], utterances: Sequence[Utterance]) -> None:
    """Write the table and the summary, track them, and drop the logs; on one rank."""
    done = files.done()
    rows = [done[row_id(one, *question)] for one in utterances for question in QUESTIONS]
    values = {name: (kind, [row.get(name) for row in rows]) for name, kind in COLUMNS.items()}
    table = write_table(files.table, values, files.made_from)
    summary = {**head, **summarise(table.to_pylist(), head["seed"]), "complete": True}
    write_json(files.summary, summary)
    shutil.rmtree(files.logs, ignore_errors=True)
    with open_tracker(recipe, f"echo-{files.name}") as tracker:
        tracker.metrics(metrics(summary))
        tracker.artifact(files.table)
        tracker.artifact(files.summary)
