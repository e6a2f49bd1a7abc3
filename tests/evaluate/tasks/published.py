"""Small files in the layouts in which the benchmarks are published.

The records of OpenBookQA, ARC, HellaSwag and PIQA are quoted from the public data sets, most of them from their papers
and documentation; those of StoryCloze are ours, because its own may not be handed on. A few records each: they show the
layout, they are no sample of the benchmark.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

OPENBOOKQA = [
    {"id": "7-980", "question": {"stem": "The sun is responsible for", "choices": [
        {"text": "puppies learning new tricks", "label": "A"},
        {"text": "children growing up and getting old", "label": "B"},
        {"text": "flowers wilting in a vase", "label": "C"},
        {"text": "plants sprouting, blooming and wilting", "label": "D"}]}, "answerKey": "D"},
    {"id": "7-584", "question": {"stem": "When standing miles away from Mount Rushmore", "choices": [
        {"text": "the mountains seem very close", "label": "A"}, {"text": "the mountains are boring", "label": "B"},
        {"text": "the mountains look the same as from up close", "label": "C"},
        {"text": "the mountains seem smaller than in photographs", "label": "D"}]}, "answerKey": "D"},
    {"id": "7-870", "question": {"stem": "When food is reduced in the stomach", "choices": [
        {"text": "the mind needs time to digest", "label": "A"},
        {"text": "take a second to digest what I said", "label": "B"},
        {"text": "nutrients are being deconstructed", "label": "C"},
        {"text": "reader's digest is a body of works", "label": "D"}]}, "answerKey": "C"},
]  # fmt: skip
ARC = [
    {"id": "MCAS_2000_4_6", "question": {"stem": "Which technology was developed most recently?", "choices": [
        {"text": "cellular telephone", "label": "A"}, {"text": "television", "label": "B"},
        {"text": "refrigerator", "label": "C"}, {"text": "airplane", "label": "D"}]}, "answerKey": "A"},
    {"id": "MEA_2013_8_15", "question": {"stem": "A ball is thrown downward onto a concrete floor and bounces upward. "
                                                 "What supplies the upward force that makes the ball bounce?",
        "choices": [{"text": "the floor", "label": "1"}, {"text": "the pull of gravity", "label": "2"},
                    {"text": "the air friction on the ball", "label": "3"}]}, "answerKey": "1"},
    {"id": "Mercury_7071540", "question": {"stem": "An organism, such as a nematode worm, may have only 1000 cells. It "
                                                   "should be classified as being", "choices": [
        {"text": "a virus.", "label": "A"}, {"text": "a bacteria.", "label": "B"},
        {"text": "unicellular.", "label": "C"}, {"text": "multicellular.", "label": "D"}]}, "answerKey": "D"},
]  # fmt: skip
HELLASWAG = [
    {"ind": 24, "activity_label": "Roof shingle removal", "ctx_a": "A man is sitting on a roof.", "ctx_b": "he",
     "ctx": "A man is sitting on a roof. he", "split": "val", "split_type": "indomain", "label": 3,
     "endings": ["is using wrap to wrap a pair of skis.", "is ripping level tiles off.",
                 "is holding a rubik's cube.", "starts pulling up roofing on a roof."],
     "source_id": "activitynet~v_-JhWjGDPHMY"},
    {"ind": 2, "activity_label": "Home and garden", "ctx_a": "[header] How to wash a cup [title] Rinse it. [step] Hold "
     "the cup under water.", "ctx_b": "", "ctx": "", "split": "val", "split_type": "zeroshot", "label": 0,
     "endings": ["Add a drop of soap. [substeps] Rub it with a sponge.", "Throw it at the wall.", "Paint it.",
                 "Wait for a year."], "source_id": "wikihow~2"},
]  # fmt: skip
PIQA = [
    {"id": "f6be5fcc-d686-4549-8207-7904068693d7", "goal": "When boiling butter, when it's ready, you can",
     "sol1": "Pour it onto a plate", "sol2": "Pour it into a jar"},
    {"id": "ee9783b5-76a7-4beb-bbbb-9b179b11c43e", "goal": "To permanently attach metal legs to a chair, you can",
     "sol1": "Weld the metal together to get it to stay firmly in place",
     "sol2": "Nail the metal together to get it to stay firmly in place"},
]  # fmt: skip
PIQA_LABELS = [1, 0]
STORYCLOZE = [
    {"InputStoryid": f"0a1b2c3d-0000-4000-8000-00000000000{n}",
     **{f"InputSentence{i}": sentence for i, sentence in enumerate(sentences, 1)},
     "RandomFifthSentenceQuiz1": first, "RandomFifthSentenceQuiz2": second, "AnswerRightEnding": right}
    for n, (sentences, first, second, right) in enumerate([
        (["Ann wanted a dog.", "She went to the shelter.", "A small brown one ran up to her.", "It licked her hand."],
         "Ann took the dog home.", "Ann bought a boat.", 1),
        (["Tom baked a cake.", "He forgot it in the oven.", "Smoke filled the kitchen.", "Tom opened the windows."],
         "The cake was delicious.", "Tom threw the cake away.", 2),
        (["The boys built a kite.", "They went to a hill.", "There was no wind all day.", "They sat in the grass."],
         "The kite flew very high.", "They went home without flying it.", 2),
    ], 1)
]  # fmt: skip
VOICEBENCH = [
    {"prompt": "The summer solstice in the northern hemisphere is four months before\nA. May\nB. July\nC. April\n"
     "D. October\nWhat is the answer to the above multiple choice question? Select one of the following: A, B, C, or "
     "D.",
     "reference": "D"},
    {"prompt": "An electric car runs on electricity via\nA. gasoline\nB. a power station\nC. electrical conductors\n"
     "D. fuel\nWhat is the answer to the above multiple choice question? Select one of the following: A, B, C, or D.",
     "reference": "C"},
    {"prompt": "The main component in dirt is\nA. microorganisms\nB. broken stones\nC. pollution\nD. bacteria\n"
     "What is the answer to the above multiple choice question? Select one of the following: A, B, C, or D.",
     "reference": "B"},
]  # fmt: skip


def jsonl(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def parquet(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


def table(path: Path, records: list[dict[str, Any]], head: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        if head:
            writer.writeheader()
        writer.writerows(records)
    return path


def as_columns(record: dict[str, Any], stem: str) -> dict[str, Any]:
    """The hub's shape of a record of OpenBookQA or ARC."""
    question = record["question"]
    choices = {name: [choice[name] for choice in question["choices"]] for name in ("text", "label")}
    return {"id": record["id"], stem: question["stem"], "choices": choices, "answerKey": record["answerKey"]}


def piqa(directory: Path, name: str, records: list[dict[str, Any]], labels: list[Any]) -> Path:
    (directory / f"{name}-labels.lst").write_text("".join(f"{label}\n" for label in labels))
    return jsonl(directory / f"{name}.jsonl", records)


def wav(wave: np.ndarray, rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV")
    return buffer.getvalue()
