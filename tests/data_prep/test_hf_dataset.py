"""Data sets of Hugging Face on disk, in the layouts that ``datasets`` and the hub have."""

import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from data_prep.hf_dataset import ending_of, prepare_hf_dataset
from salad_ds.audio import decode
from salad_ds.errors import DataError
from tests.data_prep.conftest import RATE, contents, files

pytestmark = pytest.mark.assets
SOUND = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
SCHEMA = pyarrow.schema([("file", pyarrow.string()), ("audio", SOUND), ("text", pyarrow.string()),
                         ("speaker_id", pyarrow.int64()), ("chapter_id", pyarrow.int64()), ("id", pyarrow.string())])
FEATURES = {"file": {"dtype": "string", "_type": "Value"}, "audio": {"sampling_rate": RATE, "_type": "Audio"},
            "text": {"dtype": "string", "_type": "Value"}, "speaker_id": {"dtype": "int64", "_type": "Value"},
            "chapter_id": {"dtype": "int64", "_type": "Value"}, "id": {"dtype": "string", "_type": "Value"}}


def encoded(wave, kind="FLAC", subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.fixture
def rows(spoken):
    return [{"file": f"6930-75918-{n:04d}.flac", "text": text.upper(), "speaker_id": 6930, "chapter_id": 75918,
             "audio": {"bytes": encoded(wave, subtype="PCM_16"), "path": f"6930-75918-{n:04d}.flac"},
             "id": f"6930-75918-{n:04d}"} for n, (wave, text) in enumerate(spoken)]


def save_to_disk(root, rows, shards=2, batch=2):
    """The files that datasets 5.2 leaves; a test below compares them, where it is installed."""
    root.mkdir(parents=True)
    schema = SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
    names = [f"data-{n:05d}-of-{shards:05d}.arrow" for n in range(shards)]
    for number, name in enumerate(names):
        own = rows[number * len(rows) // shards:(number + 1) * len(rows) // shards]
        with pyarrow.OSFile(str(root / name), "wb") as file, pyarrow.ipc.new_stream(file, schema) as stream:
            for begin in range(0, len(own), batch):
                stream.write_table(pyarrow.Table.from_pylist(own[begin:begin + batch], schema))
    (root / "state.json").write_text(json.dumps({
        "_data_files": [{"filename": name} for name in names], "_fingerprint": "f7b995744625e474",
        "_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False,
        "_split": None}, indent=2))
    (root / "dataset_info.json").write_text(json.dumps(
        {"citation": "", "description": "", "features": FEATURES, "homepage": "", "license": ""}, indent=2))
    return root


def parquet(path, rows, group=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, SCHEMA), path, row_group_size=group)
    return path


def test_saved_to_disk(rows, tmp_path, spoken):
    made = prepare_hf_dataset(save_to_disk(tmp_path / "in", rows), tmp_path / "out", casing="lower")
    got = contents(tmp_path / "out")
    assert list(got) == [row["id"] for row in rows] and made["rejected"] == {}
    for row, sample, (_, text) in zip(rows, got.values(), spoken, strict=True):
        assert sample.audio == row["audio"]["bytes"] and sample.audio_format == "flac"
        assert sample.text == text and sample.meta["speaker"] == "6930"


def test_splits_of_a_dict_and_of_a_hub_repository(rows, tmp_path):
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    save_to_disk(tmp_path / "dict/train", rows[:3], shards=1)
    save_to_disk(tmp_path / "dict/test", rows[3:], shards=1)
    parquet(tmp_path / "hub/data/train-00000-of-00002.parquet", rows[:2])
    parquet(tmp_path / "hub/data/train-00001-of-00002.parquet", rows[2:3])
    parquet(tmp_path / "hub/data/test-00000-of-00001.parquet", rows[3:])
    for layout in ("dict", "hub"):
        prepare_hf_dataset(tmp_path / layout, tmp_path / f"{layout}-train", subset="train")
        prepare_hf_dataset(tmp_path / layout, tmp_path / f"{layout}-all")
        assert list(contents(tmp_path / f"{layout}-train")) == [row["id"] for row in rows[:3]]
        assert sorted(contents(tmp_path / f"{layout}-all")) == [row["id"] for row in rows]
    with pytest.raises(DataError, match=r"no subset 'dev' \(it has data, test, train\)"):
        prepare_hf_dataset(tmp_path / "hub", tmp_path / "x", subset="dev")


def test_other_columns_formats_and_paths(spoken, tmp_path):
    """As Common Voice has it, in every format; one only by its path."""
    kinds = [("FLAC", "PCM_16"), ("WAV", "PCM_16"), ("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS")]
    raw = [encoded(wave.astype(np.float32) / 32768, *kind) for (wave, _), kind in zip(spoken, kinds, strict=True)]
    (tmp_path / "in/clips").mkdir(parents=True)
    (tmp_path / "in/clips/5.mp3").write_bytes(raw[2])
    table = pyarrow.table({
        "client_id": [*"aabbc", "c"],
        "clip": pyarrow.array([{"bytes": one, "path": None} for one in raw] + [
            {"bytes": None, "path": "clips/5.mp3"}], SOUND),
        "sentence": [text for _, text in spoken] + [spoken[2][1]], "locale": ["en"] * 6})
    pyarrow.parquet.write_table(table, tmp_path / "in/validated.parquet")
    prepare_hf_dataset(tmp_path / "in", tmp_path / "out", audio="clip", language="column:locale")
    got = list(contents(tmp_path / "out").values())
    assert [sample.audio_format for sample in got] == ["flac", "flac", "mp3", "ogg", "opus", "mp3"]
    assert [sample.meta["id"] for sample in got] == [f"validated-{n}" for n in range(6)]
    assert [sample.audio for sample in got[2:]] == [*raw[2:], raw[2]]
    np.testing.assert_array_equal(np.rint(decode(got[1].audio)[0] * 32768), spoken[1][0])
    assert [got[4].meta[name] for name in ("speaker", "language")] == ["c", "en"] and got[4].text == spoken[4][1]
    for settings, told in (({}, r"no usual column for audio \(it has client_id: string, clip: struct"),
                           ({"audio": "clip", "text": "txt"}, "no column 'txt' for text"),
                           ({"audio": "sentence", "text": "locale", "language": "column:lang"},
                            "no column 'lang' for language")):
        with pytest.raises(DataError, match=told):
            prepare_hf_dataset(tmp_path / "in", tmp_path / "x", **settings)


def test_bad_rows_are_counted_and_a_damaged_file_is_named(rows, tmp_path):
    (tmp_path / "outside.flac").write_bytes(rows[0]["audio"]["bytes"])
    bad = [{"audio": None}, {"audio": {"bytes": b"", "path": None}}, {"audio": {"bytes": None, "path": "no.flac"}},
           {"audio": {"bytes": None, "path": "../outside.flac"}}, {"audio": {"bytes": b"fLaC" + bytes(90), "path": ""}},
           {"audio": {"bytes": b"\xff", "path": ""}}, {"text": None}, {}]
    more = [rows[0] | one | {"id": f"bad{n}"} for n, one in enumerate(bad[:-1])] + [rows[0]]
    path = parquet(tmp_path / "in/data/train-00000-of-00001.parquet", rows + more)
    made = prepare_hf_dataset(tmp_path / "in", tmp_path / "out", max_bad_share=1.0)
    assert made["samples"] == 5
    assert {reason: row["count"] for reason, row in made["rejected"].items()} == {
        "no audio": 2, "does not decode": 2, "no such file": 1, "path leads out of the data set": 1,
        "empty transcript": 1, "duplicate key": 1}
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="train-00000-of-00001.parquet does not read as Parquet"):
        prepare_hf_dataset(tmp_path / "in", tmp_path / "y")
    arrow = save_to_disk(tmp_path / "saved", rows, shards=1) / "data-00000-of-00001.arrow"
    arrow.write_bytes(arrow.read_bytes()[:-20000])
    with pytest.raises(DataError, match="data-00000-of-00001.arrow does not read"):
        prepare_hf_dataset(tmp_path / "saved", tmp_path / "z")


def test_parts_processes_and_joining(rows, tmp_path):
    save_to_disk(tmp_path / "arrow", rows)
    parquet(tmp_path / "parquet/train-00000-of-00001.parquet", rows)
    for layout in ("arrow", "parquet"):
        options = {"join_seconds": 12.0, "samples_per_shard": 2}
        prepare_hf_dataset(tmp_path / layout, tmp_path / f"{layout}1", **options)
        prepare_hf_dataset(tmp_path / layout, tmp_path / f"{layout}w", workers=2, **options)
        assert files(tmp_path / f"{layout}1") == files(tmp_path / f"{layout}w")
        for number in (2, 0, 1):
            prepare_hf_dataset(tmp_path / layout, tmp_path / f"{layout}3", part=f"{number}/3", **options)
        assert contents(tmp_path / f"{layout}3") == contents(tmp_path / f"{layout}1")
        assert any("parts" in sample.meta for sample in contents(tmp_path / f"{layout}1").values())


@pytest.mark.parametrize("raw, ending", [(b"fLaC..", "flac"), (b"RIFF....", "wav"), (b"ID3\x04", "mp3"),
                                         (b"\xff\xfb\x90", "mp3"), (b"\xff\xf3\x84", "mp3"), (b"\xff\xf1\x50", ""),
                                         (b"\xff", ""), (b"OggS" + bytes(24) + b"OpusHead", "opus"),
                                         (b"OggS" + bytes(24) + b"\x01vorbis", "ogg"), (b"<html>", "")])
def test_formats_are_known_by_their_first_bytes(raw, ending):
    assert ending_of(raw) == ending


def test_what_datasets_itself_writes(rows, tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    one = datasets.Dataset(datasets.table.InMemoryTable(pyarrow.Table.from_pylist(rows, datasets.Features(
        {name: datasets.Audio(RATE) if name == "audio" else datasets.Value(FEATURES[name]["dtype"])
         for name in FEATURES}).arrow_schema)))
    one.save_to_disk(tmp_path / "theirs", num_shards=2)
    datasets.DatasetDict(train=one).save_to_disk(tmp_path / "dict")
    (tmp_path / "hub").mkdir()
    one.to_parquet(tmp_path / "hub/train-00000-of-00001.parquet")
    ours = save_to_disk(tmp_path / "ours", rows)
    for path in sorted((tmp_path / "theirs").iterdir()):
        if path.suffix == ".json":  # not the fingerprint
            want, got = (json.loads((tmp_path / side / path.name).read_text()) for side in ("theirs", "ours"))
            assert {**want, "_fingerprint": ""} == {**got, "_fingerprint": ""}
    assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in (tmp_path / "theirs").iterdir())
    prepare_hf_dataset(ours, tmp_path / "out-ours")
    for layout in ("theirs", "dict", "hub"):
        prepare_hf_dataset(tmp_path / layout, tmp_path / f"out-{layout}")
        ours, theirs = contents(tmp_path / "out-ours"), contents(tmp_path / f"out-{layout}")
        assert [(one.key, one.audio, one.text) for one in ours.values()] == [
            (one.key, one.audio, one.text) for one in theirs.values()]
