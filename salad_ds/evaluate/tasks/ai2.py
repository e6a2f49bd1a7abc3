"""OpenBookQA and ARC: science questions of the Allen Institute, in its JSON lines and in the hub's Parquet.

OpenBookQA, ``OpenBookQA-V1-Sep2018/Data/Main/train.jsonl`` (Apache-2.0; 4,957 / 500 / 500 items):

    {"id": "7-980", "question": {"stem": "The sun is responsible for", "choices": [
     {"text": "puppies learning new tricks", "label": "A"},
     {"text": "children growing up and getting old", "label": "B"},
     {"text": "flowers wilting in a vase", "label": "C"},
     {"text": "plants sprouting, blooming and wilting", "label": "D"}]}, "answerKey": "D"}

ARC, ``ARC-V1-Feb2018-2/ARC-Challenge/ARC-Challenge-Test.jsonl`` (CC-BY-SA-4.0; 1,119 / 299 / 1,172 items), has the same
fields, of three to five choices, in some items labelled 1 to 4:

    {"id": "MCAS_2000_4_6", "question": {"stem": "Which technology was developed most recently?", "choices": [
     {"text": "cellular telephone", "label": "A"}, {"text": "television", "label": "B"},
     {"text": "refrigerator", "label": "C"}, {"text": "airplane", "label": "D"}]}, "answerKey": "A"}

The hub's Parquet (allenai/openbookqa ``main/test-00000-of-00001.parquet``, allenai/ai2_arc ``ARC-Challenge/...``) has
``question_stem`` or ``question``, and columns turned into lists:

    {"id": "7-980", "question_stem": "The sun is responsible for", "choices": {"text": ["puppies learning new tricks",
     "children growing up and getting old", ...], "label": ["A", "B", "C", "D"]}, "answerKey": "D"}
"""

from __future__ import annotations

from pathlib import Path

from salad_ds.evaluate.tasks.items import Item, Unusable, continuation, text_of
from salad_ds.evaluate.tasks.layouts import Layout, Record


def parse_lines(record: Record, where: tuple[Path, int]) -> Item:
    question = record["question"]
    choices = question["choices"]
    return item(record, text_of(question, "stem"), [choice["label"] for choice in choices],
                [choice["text"] for choice in choices])  # fmt: skip


def parse_columns(record: Record, where: tuple[Path, int]) -> Item:
    stem = "question_stem" if "question_stem" in record else "question"
    return item(record, text_of(record, stem), record["choices"]["label"], record["choices"]["text"])


def item(record: Record, asked: str, labels: list[str], texts: list[str]) -> Item:
    answer = text_of(record, "answerKey")
    if labels.count(answer) != 1:
        raise Unusable("the answer is none of the options", f"{answer!r} of {', '.join(labels)}")
    return Item(text_of(record, "id"), asked, tuple(map(continuation, texts)), labels.index(answer))


LINES = Layout("the authors' JSON lines", ("id", "question", "answerKey"), parse_lines)
STEM_COLUMNS = Layout("the hub's columns", ("id", "question_stem", "choices", "answerKey"), parse_columns)
QUESTION_COLUMNS = Layout("the hub's columns", ("id", "question", "choices", "answerKey"), parse_columns)
OPENBOOKQA = (STEM_COLUMNS, LINES)
ARC = (QUESTION_COLUMNS, LINES)
