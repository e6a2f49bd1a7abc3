"""SmolLM-Corpus (HuggingFaceTB/smollm-corpus): what SmolLM learnt from, ODC-By. Two of its three subsets are texts.

``cosmopedia-v2/train-00000-of-00104.parquet``: 39 million textbooks, stories and posts that a language model wrote.
Columns of a row:

    prompt        string  what the text was asked for with: "Write ..."
    text          string
    token_length  int64   of the text, by Mistral's tokenizer
    audience      string  general, college_students, ...
    format        string  textbook, blogpost, story, ...
    seed_data     string  where the seed of the prompt was from

``fineweb-edu-dedup/train-00000-of-00234.parquet``: ``text``, ``id`` and ``metadata``, a struct of FineWeb-Edu's other
columns (see fineweb_edu.py). ``python-edu`` has names of files and no text: it is not read.

``subset``: ``cosmopedia-v2``, ``fineweb-edu-dedup``, or ``all`` of them that are there. Only ``text`` becomes the
sample; ``audience``, ``format`` and ``seed_data`` are kept beside it, the prompt is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from salad_ds.data.parts import part_of
from salad_ds.data.preparation import existing, main, of_subset
from salad_ds.data.text_files import Piece, find_texts, records
from salad_ds.data.text_writer import Text, prepare_texts
from salad_ds.data.utterances import Refused
from salad_ds.errors import DataError

VERSION = 1
SUBSETS = "cosmopedia-v2", "fineweb-edu-dedup"
KEPT = ("audience", "format", "seed_data")


def prepare_smollm_corpus(corpus_dir: str | Path, output_dir: str | Path, limit: int = 0,
                          samples_per_shard: int = 8192, subset: str = "all", min_words: int = 1, max_words: int = 0,
                          part: str = "", max_bad_share: float = 0.05) -> dict[str, Any]:
    """Write SmolLM-Corpus as text shards; returns the manifest. Does nothing where they lie there already.

    ``part``: a file is a unit; where there are fewer files than parts, a row group. Raises DataError: the corpus is not
    there, ``subset`` names another, a file is damaged or has no text, ``output_dir`` holds something else.
    """
    source = existing(corpus_dir, "corpus")
    root = source.parent if source.is_file() else source
    files = find_texts(source, (".parquet",))
    if subset != "all":
        if others := {name.strip() for name in subset.split(",")} - set(SUBSETS):
            raise DataError(f"subset {sorted(others)[0]!r} has no texts, or is not SmolLM-Corpus's",
                            f"use {', '.join(SUBSETS)} or all")
        files = of_subset(root, files, subset)
    else:
        files = [path for path in files if "python-edu" not in path.parts]
    return prepare_texts("smollm_corpus", VERSION, root, files, output_dir, texts, part_of(part), limit,
                         samples_per_shard, min_words, max_words, max_bad_share, subset=subset)


def texts(piece: Piece, base: str) -> Iterator[Text | Refused]:
    for number, row in records(piece, ["text"], ["id", *KEPT]):
        name = row.get("id") or f"{base}-{number}"
        if not isinstance(row["text"], str):
            yield Refused("record has no text", name)
        else:
            yield Text(name, row["text"], extra={key: row[key] for key in KEPT if row.get(key) is not None})


if __name__ == "__main__":
    main(__doc__, prepare_smollm_corpus)
