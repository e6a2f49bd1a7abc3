"""FineWeb-Edu (HuggingFaceFW/fineweb-edu, arXiv 2406.17557): 1.3 trillion tokens of educational web pages, ODC-By.

``data/<dump>/train-*.parquet``, or a sample of it: ``sample/10BT/000_00000.parquet``. The first row of that file; text
and ``file_path`` are shortened here:

    text            The Independent Jane
                    For all the love, romance and scandal in Jane Austen's books, ...
    id              <urn:uuid:0d8a309d-25c5-405d-a08a-c11239f0d717>
    dump            CC-MAIN-2013-20
    url             http://austenauthors.net/the-independent-jane
    file_path       s3://commoncrawl/crawl-data/CC-MAIN-2013-20/...
    language        en
    language_score  0.97432
    token_count     845
    score           2.75
    int_score       3

``min_int_score`` (0-5; published are 3 and more, 2 and more in fineweb-edu-score-2), ``language`` and
``min_language_score`` say what is taken; ``url``, ``score`` and ``dump`` are kept beside the text.
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

VERSION = 1
KEPT = ("url", "dump", "score")


def prepare_fineweb_edu(corpus_dir: str | Path, output_dir: str | Path, limit: int = 0, samples_per_shard: int = 8192,
                        min_int_score: int = 3, language: str = "en", min_language_score: float = 0.0,
                        min_words: int = 1, max_words: int = 0, part: str = "",
                        max_bad_share: float = 0.05) -> dict[str, Any]:
    """Write FineWeb-Edu as text shards; returns the manifest. Does nothing where they lie there already.

    ``part``: a file is a unit; where there are fewer files than parts, a row group. Raises DataError: the corpus is not
    there, a file is damaged or has no such columns, ``output_dir`` holds something else.
    """
    source = existing(corpus_dir, "corpus")
    root = source.parent if source.is_file() else source
    settings = {"min_int_score": min_int_score, "language": language, "min_language_score": float(min_language_score)}
    return prepare_texts("fineweb_edu", VERSION, root, find_texts(source, (".parquet",)), output_dir,
                         functools.partial(texts, **settings), part_of(part), limit, samples_per_shard, min_words,
                         max_words, max_bad_share, **settings)


def texts(piece: Piece, base: str, min_int_score: int, language: str,
          min_language_score: float) -> Iterator[Text | Refused]:
    needed = ("text", "id", "int_score", "language", "language_score")
    for number, row in records(piece, needed, KEPT):
        name = row["id"] or f"{base}-{number}"
        if not isinstance(row["text"], str):
            yield Refused("record has no text", name)
        elif (row["int_score"] or 0) < min_int_score:
            yield Refused(f"int_score below {min_int_score}", name, bad=False)
        elif row["language"] != language:
            yield Refused(f"language is not {language}", name, str(row["language"]), bad=False)
        elif (row["language_score"] or 0.0) < min_language_score:
            yield Refused(f"language_score below {min_language_score:g}", name, bad=False)
        else:
            yield Text(name, row["text"], row["language"], {key: row[key] for key in KEPT if row.get(key) is not None})


if __name__ == "__main__":
    main(__doc__, prepare_fineweb_edu)
