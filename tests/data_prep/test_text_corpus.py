"""Your own texts: JSONL, Parquet, paragraphs."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from data_prep.text import prepare_text
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError


def all_texts(directory):
    shards = ShardSet.open(directory)
    assert shards.kind == "text"
    return [shards.read(i).text for i in range(len(shards))]


def test_all_formats_of_one_directory(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    record = json.dumps({"text": " one two\nthree ", "id": "<urn:uuid:1>"})
    (source / "a.jsonl").write_text(record + "\n\n{broken\n[1]\n")
    (source / "b.txt").write_text("A paragraph\nof two lines.\n\n\n\nAnother one.")
    table = pyarrow.table({"text": [f"row {n} here" for n in range(2500)], "score": [1.0] * 2500})
    pyarrow.parquet.write_table(table, source / "c.parquet")
    made = prepare_text(source, tmp_path / "out", samples_per_shard=1000)
    got = all_texts(tmp_path / "out")
    assert got[:4] == ["one two\nthree", "A paragraph of two lines.", "Another one.", "row 0 here"]
    assert len(got) == 2503 and got[-1] == "row 2499 here" and len(made["shards"]) == 3
    assert made["rejected"] == {"record has no text": {"count": 2, "examples": ["a-3", "a-4"]}}
    assert ShardSet.open(tmp_path / "out").read(0).meta["id"] == "<urn:uuid:1>"


def test_bounds_and_limit(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(" ".join(["word"] * n) for n in range(1, 11)))
    made = prepare_text(tmp_path / "a.txt", tmp_path / "out", limit=3, min_words=3, max_words=8)
    assert [len(text.split()) for text in all_texts(tmp_path / "out")] == [3, 4, 5]
    assert made["left_out"]["not 3-8 words"]["count"] == 2


def test_a_directory_without_texts_is_refused(tmp_path):
    with pytest.raises(DataError, match="no .jsonl"):
        prepare_text(tmp_path, tmp_path / "out")


def test_a_damaged_parquet_is_named(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a text"] * 100}), source / "a.parquet")
    whole = (source / "a.parquet").read_bytes()
    broken = [whole[: len(whole) // 2], b"no Parquet at all", b"", whole[:4] + bytes(60) + whole[64:]]
    for number, content in enumerate(broken):
        (source / "a.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.parquet does not read as Parquet"):
            prepare_text(source, tmp_path / f"out{number}")
