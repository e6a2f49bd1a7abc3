"""Which file is which split, and what its records are."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from salad_ds.errors import DataError
from salad_ds.evaluate.tasks.records import columns_of, find_files, read_records, split_of
from tests.evaluate.tasks import published


@pytest.mark.parametrize("path, split", [
    ("cloze_test_test__spring2016 - cloze_test_ALL_test.csv", "test"),
    ("cloze_test_val__spring2016 - cloze_test_ALL_val.csv", "validation"),
    ("cloze_test_val__winter2018-cloze_test_ALL_val - 1 - 1.csv", "validation"),
    ("ARC-Challenge/ARC-Challenge-Dev.jsonl", "validation"), ("ARC-Challenge/ARC-Challenge-Test.jsonl", "test"),
    ("main/train-00000-of-00001.parquet", "train"), ("hellaswag_val.jsonl", "validation"),
    ("physicaliqa-train-dev/train.jsonl", "train"), ("physicaliqa-train-dev/dev.jsonl", "validation"),
    ("data/test/anatomy.csv", "test"), ("mmsu/law-00000-of-00001.parquet", ""), ("latest.jsonl", ""),
])  # fmt: skip
def test_splits_of_published_names(path, split):
    assert split_of(Path(path)) == split


def test_of_one_table_in_two_formats_one_is_read(tmp_path):
    """OpenBookQA and ARC lie as JSON lines beside the same as tables."""
    published.jsonl(tmp_path / "Main/test.jsonl", published.OPENBOOKQA)
    (tmp_path / "Main/test.tsv").write_text("ID\tQuestion\n7-980\tThe sun\n")
    published.jsonl(tmp_path / "Main/train.jsonl", published.OPENBOOKQA[:1])
    (tmp_path / "Main/notes.txt").write_text("no records")
    assert find_files(tmp_path) == {"test": [tmp_path / "Main/test.jsonl"], "train": [tmp_path / "Main/train.jsonl"]}


def test_a_pattern_chooses_only_where_it_is_met(tmp_path):
    hard = published.jsonl(tmp_path / "ARC-Challenge/test.jsonl", published.ARC)
    published.jsonl(tmp_path / "ARC-Easy/test.jsonl", published.ARC)
    assert find_files(tmp_path, "challenge") == {"test": [hard]}
    assert find_files(tmp_path / "ARC-Challenge", "challenge") == {"test": [hard]}
    assert find_files(hard, "easy") == {"": [hard]}


def test_places_without_files(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        find_files(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no .jsonl"):
        find_files(tmp_path)


def test_the_same_records_from_every_format(tmp_path):
    rows = [{"goal": 'say "hi", twice', "sol1": "a\nb", "sol2": "ü", "label": "1"}, dict.fromkeys(
        ("goal", "sol1", "sol2", "label"), "x")]  # fmt: skip
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    files = [published.jsonl(tmp_path / "a.jsonl", rows), published.parquet(tmp_path / "a.parquet", rows),
             published.table(tmp_path / "a.csv", rows), packed]  # fmt: skip
    for path in files:
        assert columns_of(path) == ["goal", "sol1", "sol2", "label"], path
        assert list(read_records(path, list(rows[0]))) == [(1, rows[0]), (2, rows[1])], path
    only = list(read_records(files[1], ["goal", "nothing"]))
    assert only == [(1, {"goal": rows[0]["goal"]}), (2, {"goal": "x"})], "Parquet gives the columns asked for"


def test_damage_is_named(tmp_path):
    path = published.jsonl(tmp_path / "a.jsonl", [{"a": 1}, "{broken", "[1, 2]", {"a": 2}])
    assert list(read_records(path, ())) == [(1, {"a": 1}), (2, None), (3, None), (4, {"a": 2})]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="b.parquet does not read as Parquet"):
        columns_of(tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text('a,b\n1,"' + "x" * 200_000 + '"\n')
    with pytest.raises(DataError, match="c.csv is damaged after row 1"):
        list(read_records(tmp_path / "c.csv", ()))
    with pytest.raises(DataError, match="d.txt is no"):
        (tmp_path / "d.txt").write_text("x")
        columns_of(tmp_path / "d.txt")
    assert columns_of(published.jsonl(tmp_path / "e.jsonl", [])) == []
