"""VoiceBench's spoken multiple choice: MMSU (MMLU-Pro, twelve domains, 3,074 items) and OpenBookQA (455 items).

``hlt-lab/voicebench`` (Apache-2.0), ``mmsu/law-00000-of-00001.parquet`` and eleven more, and
``openbookqa/test-00000-of-00001.parquet``: columns ``audio`` ({bytes, path}), ``prompt``, ``reference``. A prompt
(as VoiceBench's own code quotes one), its reference, and what we take to be its sound (not checked by us against
the published files): the prompt from its first to its last word, options and closing question included.

    The summer solstice in the northern hemisphere is four months before
    A. May
    B. July
    C. April
    D. October
    What is the answer to the above multiple choice question? Select one of the following: A, B, C, or D.

    D

With the published speech, therefore, all of the prompt is asked, in both conditions, and the text of an option is
scored as its continuation (template ``voicebench``). With our own speech only the question is asked, as in MMLU.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.hf_dataset import ending_of
from salad_ds.audio import FORMATS
from salad_ds.data.text_files import table
from salad_ds.data.utterances import Refused, Utterance
from salad_ds.evaluate.tasks.items import Item, Unusable, continuation, text_of
from salad_ds.evaluate.tasks.layouts import Layout, Record
from salad_ds.evaluate.tasks.records import bare, read_records

CLOSING = re.compile(r"\s+What is the answer to the above multiple choice question\?.*\Z", re.DOTALL)
LETTERS = string.ascii_uppercase[:10]
"""MMLU-Pro has up to ten options."""
ROWS = 16
"""Recordings in memory at a time."""


def split_prompt(prompt: str) -> tuple[str, list[str]]:
    """``(question, options)`` of a prompt. An option may have several lines. The options are the last run of lines
    ``A. …``, ``B. …``, ...: a question may have a line that begins like one. Raises Unusable where there are none."""
    lines = [line.strip() for line in CLOSING.sub("", prompt.strip()).split("\n")]
    starts = [number for number, line in enumerate(lines) if re.match(r"A[.)]\s", line)]
    for start in reversed(starts):
        options: list[str] = []
        for line in lines[start:]:
            if len(options) < len(LETTERS) and (match := re.match(rf"{LETTERS[len(options)]}[.)]\s+(.*)", line)):
                options.append(match[1])
            elif line:
                options[-1] += f" {line}"
        if len(options) > 1:
            return "\n".join(lines[:start]).strip(), options
    raise Unusable("no options in the prompt", prompt[-60:])


def parse(record: Record, where: tuple[Path, int]) -> Item:
    """The question alone."""
    question, options = split_prompt(text_of(record, "prompt"))
    answer = text_of(record, "reference").rstrip(".)")
    if answer not in LETTERS[: len(options)] or len(answer) != 1:
        raise Unusable("the answer is none of the options", repr(record["reference"])[:40])
    domain = re.sub(r"-\d{5}-of-\d{5}.*", "", bare(where[0]))
    return Item("", question, tuple(map(continuation, options)), LETTERS.index(answer), domain,
                f"{where[0]}:{where[1]}")  # fmt: skip


def parse_whole(record: Record, where: tuple[Path, int]) -> Item:
    """All that is said."""
    found = parse(record, where)
    return Item(found.id, text_of(record, "prompt"), found.options, found.answer, found.domain, found.audio)


def without_sound(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, Record | None]]:
    return read_records(path, NEEDS)


NEEDS = ("prompt", "reference")
QUESTION = Layout("VoiceBench", NEEDS, parse)
WHOLE = Layout("VoiceBench, as it is spoken", (*NEEDS, "audio"), parse_whole, read=without_sound)


def recordings(task: str, speech: Path, items: list[Item]) -> Iterator[Utterance | Refused]:
    """The recording of each item, in the order of the files."""
    wanted = {item.audio: item for item in items}
    root = speech if speech.is_dir() else speech.parent
    for name in sorted({audio.rpartition(":")[0] for audio in wanted}):
        number = 0
        with table(root / name) as file:
            for batch in file.iter_batches(ROWS, columns=["audio"]):
                for place in range(batch.num_rows):
                    number += 1
                    if item := wanted.get(f"{name}:{number}"):
                        yield recording(item, batch.column(0)[place].as_py())


def recording(item: Item, audio: Any) -> Utterance | Refused:
    raw = audio.get("bytes") if isinstance(audio, dict) else audio
    if not isinstance(raw, bytes) or not raw:
        return Refused("no recording", item.id)
    ending = ending_of(raw)
    return Utterance(item.id, " ".join(item.asked.split()), Path(f"audio.{ending}"), audio=raw,
                     as_it_is=ending in FORMATS and ending != "wav")  # fmt: skip
