"""Your own texts: JSONL with a ``text`` field, Parquet with a ``text`` column, or plain text with blank lines between
paragraphs; a file, or a directory of them. One sample per record or paragraph.

A line of JSONL as FineWeb-Edu and the SmolLM corpus have it (other fields than ``text`` and ``id`` are not kept):

    {"text": "The Independent Jane\\nFor all the love, romance and scandal ...", "id": "<urn:uuid:0d8a309d>"}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from salad_ds.data.preparation import existing, fingerprint, main
from salad_ds.data.shards import Sample, ShardWriter, finished, make_key
from salad_ds.errors import DataError
from salad_ds.progress import Progress

VERSION = 1
ENDINGS = (".jsonl", ".parquet", ".txt")


def prepare_text(corpus_dir: str | Path, output_dir: str | Path, limit: int = 0, samples_per_shard: int = 1024,
                 min_words: int = 1, max_words: int = 0, max_bad_share: float = 0.05) -> dict[str, Any]:
    """Write texts as text shards; returns the manifest. Does nothing where they lie there already.

    Texts of fewer than ``min_words`` or more than ``max_words`` words (0: no limit) are left out.
    """
    source = existing(corpus_dir, "text")
    files = [source] if source.is_file() else sorted(
        path for path in source.rglob("*") if path.suffix in ENDINGS and path.is_file())
    if not files or files[0].suffix not in ENDINGS:
        raise DataError(f"{source} holds no {', '.join(ENDINGS)} file", "give a text corpus")
    root = source.parent if source.is_file() else source
    made_from = {"corpus": "text", "version": VERSION, "source": fingerprint(root, files),
                 "limit": limit, "samples_per_shard": samples_per_shard, "min_words": min_words, "max_words": max_words}
    done = finished(output_dir, made_from)
    if done is not None:
        return done
    with ShardWriter(output_dir, source.stem, samples_per_shard, made_from, max_bad_share=max_bad_share) as writer, \
            Progress("text", limit or None, "texts") as progress:
        for name, text in texts(writer, root, files):
            if limit and writer.samples >= limit:
                break
            n_words = len(text.split())
            if not n_words:
                writer.reject("no text", name)
            elif n_words < min_words or (max_words and n_words > max_words):
                writer.leave_out(f"not {min_words}-{max_words or 'any'} words", name)
            elif writer.begin(make_key(name)):
                writer.add(Sample(make_key(name), {"id": name, "text": text, "language": "en"}))
            progress.update()
        return writer.close()


def texts(writer: ShardWriter, root: Path, files: list[Path]) -> Iterator[tuple[str, str]]:
    """``(id, text)`` of every record, in file order."""
    for path in files:
        base = path.relative_to(root).with_suffix("").as_posix()
        for number, record in records(path):
            name = f"{base}-{number}"
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                writer.reject("record has no text", name)
            else:
                yield str(record.get("id") or name), record["text"].strip()


def records(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet as parquet

        try:
            with parquet.ParquetFile(path) as table:
                columns = [name for name in ("id", "text") if name in table.schema_arrow.names]
                number = 0
                for batch in table.iter_batches(batch_size=1024, columns=columns):
                    for number, row in enumerate(batch.to_pylist(), number + 1):  # noqa: B020  # on over batches
                        yield number, row
        except (pyarrow.ArrowException, OSError) as error:  # a bad page is an OSError
            raise DataError(f"{path} does not read as Parquet ({str(error).splitlines()[0][:160]})",
                            "replace or remove the file") from None
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        if path.suffix == ".jsonl":
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except ValueError:
                        yield number, None
            return
        number, paragraph = 0, []
        for line in [*file, "\n"]:
            if line.strip():
                paragraph.append(" ".join(line.split()))
            elif paragraph:
                number += 1
                yield number, {"text": " ".join(paragraph)}
                paragraph = []


if __name__ == "__main__":
    main(__doc__, prepare_text, ("--min-words", {"type": int, "default": 1}),
         ("--max-words", {"type": int, "default": 0}))
