"""HellaSwag (MIT): how does what somebody does, or a how-to, go on?

``hellaswag_val.jsonl`` (10,042 items; ``hellaswag_train.jsonl``: 39,905; the test set's labels are not public):

    {"ind": 24, "activity_label": "Roof shingle removal", "ctx_a": "A man is sitting on a roof.", "ctx_b": "he",
     "ctx": "A man is sitting on a roof. he", "split": "val", "split_type": "indomain", "label": 3,
     "endings": ["is using wrap to wrap a pair of skis.", "is ripping level tiles off.",
     "is holding a rubik's cube.", "starts pulling up roofing on a roof."], "source_id": "activitynet~v_-JhWjGDPHMY"}

The hub's Parquet (Rowan/hellaswag ``data/validation-00000-of-00001.parquet``) has the same columns, ``label`` as text.

Asked is ``Roof shingle removal: A man is sitting on a roof. He``, cleaned as lm-evaluation-harness cleans it: what is
in brackets (``[header]``, ``[step]``, of the WikiHow part) goes, ``[title]`` becomes a full stop.
"""

from __future__ import annotations

import re
from pathlib import Path

from salad_ds.evaluate.tasks.items import Item, Unusable, continuation, number_of, text_of
from salad_ds.evaluate.tasks.layouts import Layout, Record


def cleaned(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def parse(record: Record, where: tuple[Path, int]) -> Item:
    label = record["label"]
    if label in ("", None):
        raise Unusable("no answer (of the hidden test set?)")
    asked = f"{text_of(record, 'activity_label')}: {record['ctx_a']} {record['ctx_b'].capitalize()}"
    options = tuple(continuation(cleaned(ending)) for ending in record["endings"])
    source = str(record.get("source_id") or "").split("~")[0]
    return Item(str(record["ind"]), cleaned(asked).strip(), options, number_of(label, "label"), source)


HELLASWAG = (
    Layout("HellaSwag", ("ind", "activity_label", "ctx_a", "ctx_b", "endings", "label"), parse, ("source_id",)),
)  # fmt: skip
