"""Your own recordings: a manifest (JSONL, CSV or TSV) that names audio files and what is said in them.

A line of JSONL; the names that NeMo, Common Voice and Hugging Face use for the same things are understood too:

    {"audio": "clips/0001.wav", "text": "he was not an ill disposed young man", "speaker": "austen"}

``audio`` (audio_filepath, file_name, path, wav, file) is relative to the manifest and stays below its directory; WAV,
FLAC, MP3, Ogg or Opus. ``text`` (transcript, transcription, sentence). Optional: ``id``, ``speaker`` (client_id),
``language`` (lang, locale), ``start`` (offset) and ``duration`` in seconds, for a part of a longer file. CSV and TSV
have a header line with the same names. Where the times of the words are known, JSONL may have them as ``words``, one
for each whitespace word, in seconds from the start of the utterance; a score between 0 and 1 may follow:

    {"audio": "clips/0001.wav", "text": "he was not", "words": [[0.11, 0.25], [0.25, 0.48, 0.9], [0.52, 0.8]]}

They become the shard's word times, which are then not aligned; where they do not fit, the utterance is taken without.
"""

from __future__ import annotations

import csv
import itertools
import json
import posixpath
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from salad_ds.audio import FORMATS, probe
from salad_ds.data.given_words import ENGINE, given_words
from salad_ds.data.parts import Part, part_of
from salad_ds.data.preparation import existing, fingerprint, inside, main
from salad_ds.data.speech_writer import prepare_utterances
from salad_ds.data.utterances import Refused, Utterance, decode_part
from salad_ds.errors import DataError

VERSION = 3
BLOCK = 64
"""Lines of a unit whose neighbours may be joined."""
Line = tuple[int, dict[str, Any] | None]  # its number, and the record
NAMES = {"audio": ("audio", "audio_filepath", "file_name", "path", "wav", "file"),
         "text": ("text", "transcript", "transcription", "sentence"),
         "id": ("id",), "speaker": ("speaker", "client_id"), "language": ("language", "lang", "locale"),
         "start": ("start", "offset"), "duration": ("duration",)}


def prepare_manifest(corpus_dir: str | Path, output_dir: str | Path, limit: int = 0, samples_per_shard: int = 64,
                     join_seconds: float = 0.0, part: str = "", workers: int = 0,
                     max_bad_share: float = 0.05) -> dict[str, Any]:
    """Write the utterances of a manifest as speech shards; returns their manifest. Does nothing where they lie there.

    ``corpus_dir``: the manifest file, or a directory that holds one ``manifest.jsonl``, ``.csv`` or ``.tsv``. ``part``:
    a line is a unit; where neighbours are joined, BLOCK lines are. Raises DataError: no manifest, one that does not
    parse from some line on, too many bad lines, ``output_dir`` holds something else.
    """
    path, own = find_manifest(existing(corpus_dir, "manifest")), part_of(part)
    made_from = {"corpus": "manifest", "version": VERSION, "source": fingerprint(path.parent, [path]),
                 "limit": limit, "samples_per_shard": samples_per_shard, "join_seconds": float(join_seconds)}
    block = BLOCK if join_seconds else 1
    return prepare_utterances(output_dir, path.parent.name or "manifest", made_from,
                              lambda: (utterances(path.parent, run) for run in runs(path, own, block)),
                              lambda: sum(map(len, runs(path, own, block))), limit=limit,
                              samples_per_shard=samples_per_shard, join_seconds=join_seconds, workers=workers,
                              max_bad_share=max_bad_share, own=own, words_engine=ENGINE)


def find_manifest(path: Path) -> Path:
    if path.is_file():
        return path
    named = [path / f"manifest.{ending}" for ending in ("jsonl", "csv", "tsv")]
    found = [candidate for candidate in named if candidate.is_file()]
    if len(found) != 1:
        raise DataError(f"{path} holds {len(found)} files named manifest.jsonl, .csv or .tsv",
                        "name the manifest itself")
    return found[0]


def records(path: Path) -> Iterator[Line]:
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


def runs(path: Path, own: Part, block: int) -> Iterator[list[Line]]:
    """Our lines: ``block`` neighbours at a time are a unit.

    Single lines (no joining) are numbered by their names as they are first met, so that a line that is there twice is
    met twice in one part.
    """
    if block > 1:
        lines = records(path)
        for number in itertools.count():
            run = list(itertools.islice(lines, block))
            if not run:
                return
            if own.has(number):
                yield run
    numbers: dict[str, int] = {}
    for line in records(path):
        name = f"line {line[0]}" if line[1] is None else name_of(line[1])
        if own.whole or own.has(numbers.setdefault(name, len(numbers))):
            yield [line]


def utterances(root: Path, lines: list[Line]) -> Iterator[Utterance | Refused]:
    for number, row in lines:
        place = f"line {number}"
        if row is None:
            yield Refused("line does not parse", place)
            continue
        try:
            found = utterance(root, row)
        except DataError as error:
            yield Refused(error.mend, place, error.what)
            continue
        yield from timed(found, row.get("words"), place)


def timed(found: Utterance, words: Any, place: str) -> Iterator[Utterance | Refused]:
    """``found`` with its word times, or without, if they cannot be its."""
    if words is not None and found.text:
        try:
            seconds = probe(found.file)[0] if found.seconds is None else found.seconds
        except DataError:
            yield found  # which is refused when it is decoded
            return
        try:
            found = replace(found, words=given_words(words, found.text, seconds))
        except DataError as error:
            yield Refused(error.what, place, error.mend, bad=False, utterances=0)
    yield found


def values_of(row: dict[str, Any]) -> dict[str, Any]:
    return {name: next((row[alias] for alias in aliases if row.get(alias) not in (None, "")), None)
            for name, aliases in NAMES.items()}


def name_of(row: dict[str, Any]) -> str:
    """The id of a record, or its file with the place where it starts."""
    values = values_of(row)
    if values["id"] is not None:
        return str(values["id"])
    name = posixpath.normpath(posixpath.splitext(str(values["audio"]))[0])
    try:
        return name if values["start"] is None else f"{name}@{float(values['start']):g}"
    except (TypeError, ValueError):
        return name


def utterance(root: Path, row: dict[str, Any]) -> Utterance:
    """One record. DataError: ``what`` tells the case, ``mend`` is the reason it is counted under."""
    values = values_of(row)
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
    seconds = duration if part else None
    if part and duration is None:
        try:
            seconds = probe(path)[0] - start
        except DataError as error:
            raise DataError(error.what, "does not decode") from None
    as_it_is = not part and path.suffix[1:].lower() in FORMATS and path.suffix.lower() != ".wav"
    return Utterance(name_of(row), " ".join(str(values["text"] or "").split()), path,
                     partial(decode_part, path, start, duration) if part else None, seconds,
                     str(values["speaker"] or ""), str(values["language"] or "en"), as_it_is=as_it_is)


if __name__ == "__main__":
    main(__doc__, prepare_manifest)
