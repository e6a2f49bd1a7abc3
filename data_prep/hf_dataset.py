"""A data set of Hugging Face ``datasets`` on disk: what ``save_to_disk`` wrote, or the Parquet files of a hub
repository. The package itself is not needed.

``save_to_disk`` leaves ``dataset_info.json``, ``state.json`` and ``data-00000-of-00002.arrow``, ...; of a DatasetDict,
such a directory for each split beside ``dataset_dict.json``. A hub repository has ``data/train-00000-of-00001.parquet``
or, with configurations, ``clean/train.100-00000-of-00014.parquet``. The first row of openslr/librispeech_asr's
``clean/test-00000-of-00001.parquet``, sound shortened:

    {"file": "6930-75918-0000.flac", "audio": {"bytes": b"fLaC...", "path": "6930-75918-0000.flac"},
     "text": "CONCORD RETURNED TO ITS PLACE AMIDST THE TENTS", "speaker_id": 6930, "chapter_id": 75918,
     "id": "6930-75918-0000"}

Compressed sound goes into the shards byte for byte. Where there is only a path, it stays below SRC.

``audio``, ``text``, ``id``, ``speaker``: names of the columns; empty: those that the common data sets have (``text``,
``sentence``, ``transcription``, ``transcript``, ``normalized_text``; ``id``; ``speaker_id``, ``client_id``,
``speaker``). ``language``: the code of all of it, or ``column:NAME``. ``subset``: names of splits and directories, or
``all``. ``casing``: ``published``, or ``lower`` where all is written in capitals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow

from salad_ds.audio import FORMATS
from salad_ds.data.parts import Part, part_of
from salad_ds.data.preparation import QUOTES, existing, fingerprint, inside, main
from salad_ds.data.speech_writer import prepare_utterances
from salad_ds.data.text_files import table
from salad_ds.data.utterances import Refused, Utterance
from salad_ds.errors import DataError
from salad_ds.files import read_json

VERSION = 1
ROWS = 16
"""Rows with their sound that are Python objects at a time."""
COMMON = {"text": ("text", "sentence", "transcription", "transcript", "normalized_text"), "id": ("id",),
          "speaker": ("speaker_id", "client_id", "speaker"), "audio": ("audio",)}
SPLIT = re.compile(r"(.+?)(-\d{5}-of-\d{5}(-[0-9a-f]+)?)?")


@dataclass(frozen=True)
class Columns:
    """Names of the columns; "" for one that is not there. ``language``: the code of all rows, if not a column's."""

    audio: str
    text: str
    id: str
    speaker: str
    language: str
    language_column: str

    @property
    def all(self) -> list[str]:
        return [name for name in (self.audio, self.text, self.id, self.speaker, self.language_column) if name]


def prepare_hf_dataset(corpus_dir: str | Path, output_dir: str | Path, limit: int = 0, samples_per_shard: int = 2048,
                       join_seconds: float = 0.0, subset: str = "all", audio: str = "", text: str = "", id: str = "",
                       speaker: str = "", language: str = "en", casing: str = "published", part: str = "",
                       workers: int = 0, max_bad_share: float = 0.05) -> dict[str, Any]:
    """Write a data set as speech shards; returns the manifest. Does nothing where they lie there already.

    ``part``: a record batch of Arrow or a row group of Parquet is a unit. Raises DataError: no data set, one of other
    columns, a file is damaged, too many bad samples, ``output_dir`` holds something else.
    """
    if casing not in ("lower", "published"):
        raise DataError(f"casing {casing!r} is not lower or published", "mend the corpus's settings")
    root, own = existing(corpus_dir, "data set"), part_of(part)
    files = find_files(root, subset)
    home = root if root.is_dir() else root.parent
    columns = choose(files[0], {"audio": audio, "text": text, "id": id, "speaker": speaker}, language)
    made_from = {"corpus": "hf_dataset", "version": VERSION, "source": fingerprint(home, files), "limit": limit,
                 "samples_per_shard": samples_per_shard, "join_seconds": float(join_seconds), "subset": subset,
                 "columns": columns.all, "language": language, "casing": casing}
    return prepare_utterances(output_dir, home.absolute().name, made_from,
                              lambda: (utterances(home, unit, columns, casing) for unit in units(files, own)),
                              lambda: sum(unit.rows for unit in units(files, own)), limit=limit,
                              samples_per_shard=samples_per_shard, join_seconds=join_seconds, workers=workers,
                              max_bad_share=max_bad_share, own=own)


# ---- the files


def find_files(root: Path, subset: str) -> list[Path]:
    """The data files, in the data set's own order. Raises DataError where there are none, or none of a subset."""
    if root.is_file():
        return [root]
    files = [path for state in sorted(root.rglob("state.json")) for path in saved(state)]
    files = files or sorted(root.rglob("*.parquet"))
    if not files:
        raise DataError(f"{root} holds neither state.json nor *.parquet", "give what save_to_disk wrote, or Parquet")
    if subset == "all":
        return files
    wanted = {name.strip() for name in subset.split(",")}
    names = {path: {SPLIT.fullmatch(path.stem)[1], *path.relative_to(root).parts[:-1]} for path in files}
    there = set().union(*names.values())
    if missing := sorted(wanted - there):
        raise DataError(f"{root} has no subset {missing[0]!r} (it has {', '.join(sorted(there))})",
                        "name splits or directories, with commas, or all")
    return [path for path in files if names[path] & wanted]


def saved(state: Path) -> list[Path]:
    """The files that a ``state.json`` of save_to_disk names; none for one of something else."""
    told = read_json(state)
    if not isinstance(told, dict) or "_data_files" not in told:
        return []
    if told.get("_indices_data_files"):
        raise DataError(f"{state.parent} is an old data set with rows chosen by index", "save it again by datasets 2")
    return [inside(state.parent, row["filename"]) for row in told["_data_files"]]


def schema_of(path: Path) -> pyarrow.Schema:
    if path.suffix == ".parquet":
        with table(path) as file:
            return file.schema_arrow
    with stream(path) as batches:
        return batches.schema


class stream(table):  # noqa: N801
    """A file of record batches, as datasets keeps it, mapped into memory."""

    def __enter__(self) -> pyarrow.RecordBatchStreamReader:
        try:
            self.file = pyarrow.memory_map(str(self.path))
            return pyarrow.ipc.open_stream(self.file)
        except (pyarrow.ArrowException, OSError) as error:
            raise self.damaged(error) from None


def choose(path: Path, given: dict[str, str], language: str) -> Columns:
    """Raises DataError where a column is not there, or holds no sound."""
    schema = schema_of(path)
    there = ", ".join(f"{field.name}: {str(field.type)[:40]}" for field in schema)
    language_column = language.removeprefix("column:") if language.startswith("column:") else ""
    names = {}
    for what, wanted in {**given, "language": language_column}.items():
        found = wanted or next((name for name in COMMON.get(what, ()) if name in schema.names), "")
        if (wanted and wanted not in schema.names) or (not found and what in ("audio", "text")):
            raise DataError(f"{path} has no column {wanted!r} for {what} (it has {there})" if wanted else
                            f"{path} has no usual column for {what} (it has {there})",
                            f"name the column of {what}")
        names[what] = found
    kind = schema.field(names["audio"]).type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
            or (pyarrow.types.is_struct(kind) and {"bytes", "path"} & {field.name for field in kind})):
        raise DataError(f"{path}: column {names['audio']!r} is {kind}, not bytes or a path", "name the column of audio")
    return Columns(names["audio"], names["text"], names["id"], names["speaker"],
                   "en" if language_column else language, language_column)


@dataclass
class Unit:
    """Rows of a file from number ``first``. ``group``: of Parquet; ``batch``: of Arrow."""

    path: Path
    first: int
    rows: int
    group: int = 0
    batch: pyarrow.RecordBatch | None = None

    def records(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        number = self.first
        if self.batch is None:
            with table(self.path) as file:
                for batch in file.iter_batches(ROWS, row_groups=[self.group], columns=list(columns)):
                    yield from enumerate(batch.to_pylist(), number)
                    number += batch.num_rows
            return
        chosen = self.batch.select(columns)
        for begin in range(0, self.rows, ROWS):
            yield from enumerate(chosen.slice(begin, ROWS).to_pylist(), number + begin)


def units(files: Iterable[Path], own: Part) -> Iterator[Unit]:
    """Ours: record batches and row groups, numbered over all files."""
    number = 0
    for path in files:
        first = 0
        if path.suffix == ".parquet":
            with table(path) as file:
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            for group, size in enumerate(sizes):
                if own.has(number):
                    yield Unit(path, first, size, group=group)
                number, first = number + 1, first + size
            continue
        with stream(path) as batches:
            for batch in batches:
                if own.has(number):
                    yield Unit(path, first, batch.num_rows, batch=batch)
                number, first = number + 1, first + batch.num_rows


# ---- the rows


def utterances(root: Path, unit: Unit, columns: Columns, casing: str) -> Iterator[Utterance | Refused]:
    base = unit.path.relative_to(root).with_suffix("").as_posix().replace("/", "__")
    for number, row in unit.records(columns.all):
        name = str(row[columns.id]) if columns.id and row[columns.id] is not None else f"{base}-{number}"
        try:
            yield utterance(root, name, row, columns, casing)
        except DataError as error:
            yield Refused(error.what, name, error.mend)


def utterance(root: Path, name: str, row: dict[str, Any], columns: Columns, casing: str) -> Utterance:
    """One row. DataError: ``what`` is the reason it is counted under, ``mend`` the detail."""
    sound = row[columns.audio]
    raw = sound if isinstance(sound, bytes) else sound.get("bytes") if isinstance(sound, dict) else None
    place = sound if isinstance(sound, str) else sound.get("path") if isinstance(sound, dict) else None
    if raw:
        ending = ending_of(raw)
        path = Path(f"audio.{ending}")
    elif place:
        try:
            path = inside(root, place)
        except DataError as error:
            raise DataError("path leads out of the data set", error.what) from None
        if not path.is_file():
            raise DataError("no such file", place)
        ending = path.suffix[1:].lower()
    else:
        raise DataError("no audio", "neither bytes nor a path")
    said = " ".join(str(row[columns.text] or "").translate(QUOTES).split())
    spoken = row[columns.speaker] if columns.speaker else None
    language = row[columns.language_column] if columns.language_column else columns.language
    return Utterance(name, said.lower() if casing == "lower" else said, path, audio=raw or None,
                     speaker="" if spoken is None else str(spoken), language=str(language or "en"),
                     as_it_is=ending in FORMATS and ending != "wav")


def ending_of(raw: bytes) -> str:
    """The file name ending that the first bytes of a sound file ask for; "" for none that we know."""
    if raw.startswith(b"OggS"):
        return "opus" if raw[28:36] == b"OpusHead" else "ogg"
    if raw.startswith(b"ID3") or (raw[0] == 0xFF and len(raw) > 1 and raw[1] & 0xE6 == 0xE2):  # layer III
        return "mp3"
    return {b"fLaC": "flac", b"RIFF": "wav"}.get(raw[:4], "")


if __name__ == "__main__":
    main(__doc__, prepare_hf_dataset)
