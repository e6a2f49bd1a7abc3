"""Your own recordings: a manifest (JSONL, CSV or TSV) that names audio files and what is said in them.

A line of JSONL; the names that NeMo and Common Voice use for the same things are understood too:

    {"audio": "clips/0001.wav", "text": "he was not an ill disposed young man", "speaker": "austen"}

``audio`` (audio_filepath, path, wav, file) is relative to the manifest and stays below its directory; WAV, FLAC, MP3,
Ogg or Opus. ``text`` (transcript, sentence). Optional: ``id``, ``speaker`` (client_id), ``language`` (lang, locale),
``start`` (offset) and ``duration`` in seconds, for a part of a longer file. CSV and TSV have a header line with the
same names.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from salad_ds.audio import FORMATS, decode, probe
from salad_ds.data.preparation import JOIN, existing, fingerprint, inside, main
from salad_ds.data.shards import ShardWriter, finished
from salad_ds.data.utterances import Utterance, write_utterances
from salad_ds.errors import DataError

VERSION = 1
NAMES = {"audio": ("audio", "audio_filepath", "path", "wav", "file"), "text": ("text", "transcript", "sentence"),
         "id": ("id",), "speaker": ("speaker", "client_id"), "language": ("language", "lang", "locale"),
         "start": ("start", "offset"), "duration": ("duration",)}


def prepare_manifest(corpus_dir: str | Path, output_dir: str | Path, limit: int = 0, samples_per_shard: int = 64,
                     join_seconds: float = 0.0, max_bad_share: float = 0.05) -> dict[str, Any]:
    """Write the utterances of a manifest as speech shards; returns their manifest. Does nothing where they lie there.

    ``corpus_dir``: the manifest file, or a directory that holds one ``manifest.jsonl``, ``.csv`` or ``.tsv``.
    """
    path = find_manifest(existing(corpus_dir, "manifest"))
    made_from = {"corpus": "manifest", "version": VERSION, "source": fingerprint(path.parent, [path]),
                 "limit": limit, "samples_per_shard": samples_per_shard, "join_seconds": join_seconds}
    done = finished(output_dir, made_from)
    if done is not None:
        return done
    with ShardWriter(output_dir, path.parent.name or "manifest", samples_per_shard, made_from,
                     max_bad_share=max_bad_share) as writer:
        write_utterances(writer, utterances(writer, path), join_seconds, limit, "manifest")
        return writer.close()


def find_manifest(path: Path) -> Path:
    if path.is_file():
        return path
    named = [path / f"manifest.{ending}" for ending in ("jsonl", "csv", "tsv")]
    found = [candidate for candidate in named if candidate.is_file()]
    if len(found) != 1:
        raise DataError(f"{path} holds {len(found)} files named manifest.jsonl, .csv or .tsv",
                        "name the manifest itself")
    return found[0]


def records(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """``(line number, record)``; None for a line that is not one."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        if path.suffix.lower() in (".csv", ".tsv"):
            rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",",
                                  quoting=csv.QUOTE_NONE if path.suffix.lower() == ".tsv" else csv.QUOTE_MINIMAL)
            try:
                for row in rows:
                    yield rows.line_num, {key: value for key, value in row.items() if key}
            except csv.Error as error:  # such as a quote that is never closed: what follows cannot be trusted
                raise DataError(f"{path}, after line {rows.line_num}: {error}", "mend the manifest") from None
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                yield number, row if isinstance(row, dict) else None


def utterances(writer: ShardWriter, path: Path) -> Iterator[Utterance]:
    for number, row in records(path):
        place = f"line {number}"
        if row is None:
            writer.reject("line does not parse", place)
            continue
        try:
            yield utterance(path.parent, row)
        except DataError as error:
            writer.reject(error.mend, place, error.what)


def utterance(root: Path, row: dict[str, Any]) -> Utterance:
    """One record. DataError: ``what`` tells the case, ``mend`` is the reason it is counted under."""
    values = {name: next((row[alias] for alias in aliases if row.get(alias) not in (None, "")), None)
              for name, aliases in NAMES.items()}
    if not isinstance(values["audio"], str):
        raise DataError("", "no audio path")
    try:
        path = inside(root, values["audio"])
    except DataError as error:
        raise DataError(error.what, "path leads out of the corpus") from None
    if not path.is_file():
        raise DataError(values["audio"], "no such file")
    try:
        start = float(values["start"] or 0)
        duration = None if values["duration"] is None else float(values["duration"])
    except (TypeError, ValueError):
        raise DataError(f"{values['start']!r}, {values['duration']!r}", "start or duration is not a number") from None
    # A duration without a start describes the whole file in most manifests; only a start makes it a part.
    part = values["start"] is not None
    if not (0 <= start < float("inf")) or (part and duration is not None and not 0 < duration < float("inf")):
        raise DataError(f"{start}, {duration}", "start or duration is not possible")
    try:
        length = probe(path)[0]
    except DataError as error:
        raise DataError(error.what, "does not decode") from None
    seconds = min(duration or length, length - start) if part else length
    name = values["id"] or Path(values["audio"]).with_suffix("").as_posix() + (f"@{start:g}" if part else "")
    as_it_is = not part and path.suffix[1:].lower() in FORMATS and path.suffix.lower() != ".wav"
    return Utterance(str(name), " ".join(str(values["text"] or "").split()), seconds,
                     partial(decode, path, start, duration if part else None), str(values["speaker"] or ""),
                     str(values["language"] or "en"), "", path if as_it_is else None)


if __name__ == "__main__":
    main(__doc__, prepare_manifest, JOIN)
