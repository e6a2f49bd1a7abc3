"""Your own texts: JSON lines (also gzipped) or Parquet with a text in each record, or plain text with blank lines
between paragraphs; a file, or a directory of them. One sample per record or paragraph.

A line of JSON; of its other fields ``id`` and ``language`` are kept:

    {"text": "he was not an ill disposed young man", "id": "sense-1"}

``column``: the field that holds the text.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from salad_ds.data.parts import part_of
from salad_ds.data.preparation import existing, main
from salad_ds.data.text_files import Piece, find_texts, records
from salad_ds.data.text_writer import Text, prepare_texts
from salad_ds.data.utterances import Refused

VERSION = 2


def prepare_text(corpus_dir: str | Path, output_dir: str | Path, limit: int = 0, samples_per_shard: int = 1024,
                 min_words: int = 1, max_words: int = 0, column: str = "text", part: str = "",
                 max_bad_share: float = 0.05) -> dict[str, Any]:
    """Write texts as text shards; returns the manifest. Does nothing where they lie there already.

    Texts of fewer than ``min_words`` or more than ``max_words`` words (0: no limit) are left out. ``part``: a file is a
    unit; where there are fewer files than parts, a row group, or a line. Raises DataError: no such file, one that is
    damaged, too many bad records, ``output_dir`` holds something else.
    """
    source = existing(corpus_dir, "text")
    root = source.parent if source.is_file() else source
    return prepare_texts("text", VERSION, root, find_texts(source), output_dir,
                         functools.partial(texts, column=column), part_of(part), limit, samples_per_shard, min_words,
                         max_words, max_bad_share, column=column)


def texts(piece: Piece, base: str, column: str) -> Iterator[Text | Refused]:
    column = "text" if piece.path.suffix == ".txt" else column
    for number, record in records(piece, [column], ["id", "language"]):
        name = f"{base}-{number}"
        if not isinstance(record, dict) or not isinstance(record.get(column), str):
            yield Refused("record has no text", name)
        else:
            yield Text(str(record.get("id") or name), record[column], str(record.get("language") or "en"))


if __name__ == "__main__":
    main(__doc__, prepare_text)
