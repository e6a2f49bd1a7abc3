"""Text corpora: your own (JSONL, Parquet, paragraphs), FineWeb-Edu, SmolLM-Corpus."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

import data_prep.fineweb_edu
from data_prep.fineweb_edu import prepare_fineweb_edu
from data_prep.smollm_corpus import prepare_smollm_corpus
from data_prep.text import prepare_text
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError
from tests.data_prep.conftest import contents, files, killed


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


def test_gzip_other_columns_and_a_damaged_end(tmp_path):
    rows = "".join(json.dumps({"content": f"a text {n}", "id": n}) + "\n" for n in range(50)).encode()
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(rows))
    prepare_text(path, tmp_path / "out", column="content")
    assert all_texts(tmp_path / "out") == [f"a text {n}" for n in range(50)]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"in\.jsonl\.gz is damaged after line \d+"):
        prepare_text(path, tmp_path / "cut", column="content")
    pyarrow.parquet.write_table(pyarrow.table({"content": ["x"]}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"has no column 'text' \(it has content\)"):
        prepare_text(tmp_path / "p.parquet", tmp_path / "p")


def fineweb_row(number):
    """As published: all ten columns."""
    return {"text": f"Page {number}\nall about number {number}.", "id": f"<urn:uuid:{number:08d}-25c5-405d-a08a-0>",
            "dump": "CC-MAIN-2013-20", "url": f"http://example.org/{number}",
            "file_path": "s3://commoncrawl/crawl-data/CC-MAIN-2013-20/x.warc.gz",
            "language": "de" if number % 10 == 9 else "en", "language_score": 0.6 + number % 4 / 10,
            "token_count": 9, "score": 2.0 + number % 5 / 2, "int_score": 2 + number % 5 // 2}


@pytest.fixture
def fineweb(tmp_path):
    """Two files of 300 and 100 rows in groups of 50."""
    root = tmp_path / "fineweb-edu"
    (root / "sample/10BT").mkdir(parents=True)
    for name, numbers in (("000_00000", range(300)), ("001_00000", range(300, 400))):
        table = pyarrow.Table.from_pylist([fineweb_row(number) for number in numbers])
        pyarrow.parquet.write_table(table, root / f"sample/10BT/{name}.parquet", row_group_size=50)
    return root


def test_fineweb_edu_takes_what_is_wanted(fineweb, tmp_path):
    made = prepare_fineweb_edu(fineweb, tmp_path / "out", min_language_score=0.65)
    want = [row for row in map(fineweb_row, range(400))
            if row["int_score"] >= 3 and row["language"] == "en" and row["language_score"] >= 0.65]
    got = contents(tmp_path / "out").values()
    assert [(sample.meta["id"], sample.text, sample.meta["url"], sample.meta["score"]) for sample in got] == [
        (row["id"], row["text"], row["url"], row["score"]) for row in want]
    assert list(made["left_out"]) == ["int_score below 3", "language_score below 0.65", "language is not en"]
    assert sum(row["count"] for row in made["left_out"].values()) == 400 - len(want) and not made["rejected"]
    prepare_fineweb_edu(fineweb, tmp_path / "de", min_int_score=0, language="de")
    assert {sample.meta["language"] for sample in contents(tmp_path / "de").values()} == {"de"}
    assert set(fineweb_row(0)) >= {line.split()[0] for line in data_prep.fineweb_edu.__doc__.splitlines()
                                   if line.startswith("    ") and not line.startswith("     ")} > {"id", "int_score"}


@pytest.mark.parametrize("n", [2, 3, 7])
def test_parts_by_file_and_by_row_group(fineweb, tmp_path, n):
    """Two files: for two parts a file each, for more their eight row groups."""
    whole = prepare_fineweb_edu(fineweb, tmp_path / "1")
    for number in range(n):
        made = prepare_fineweb_edu(fineweb, tmp_path / "n", part=f"{number}/{n}")
    assert contents(tmp_path / "n") == contents(tmp_path / "1") and made["parts"] == n
    assert {k: v["count"] for k, v in made["left_out"].items()} == {
        k: v["count"] for k, v in whole["left_out"].items()}
    for number in range(n):
        made = prepare_fineweb_edu(fineweb, tmp_path / "few", part=f"{number}/{n}", limit=20)
    assert made["samples"] == 20


def test_a_single_file_of_lines_is_divided_too(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(f"paragraph {n}" for n in range(10)))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": f"line {n}"}) + "\n" for n in range(10)))
    for name in ("a.txt", "b.jsonl"):
        prepare_text(tmp_path / name, tmp_path / f"{name}1")
        for number in range(3):
            prepare_text(tmp_path / name, tmp_path / f"{name}3", part=f"{number}/3")
        assert contents(tmp_path / f"{name}3") == contents(tmp_path / f"{name}1") != {}


def test_smollm_corpus(tmp_path):
    root = tmp_path / "smollm-corpus"
    for subset in ("cosmopedia-v2", "fineweb-edu-dedup", "python-edu"):
        (root / subset).mkdir(parents=True)
    cosmopedia = [{"prompt": f"Write a story {n}", "text": f" Once upon a time {n}", "token_length": 6,
                   "audience": "general", "format": "story", "seed_data": "ultrachat"} for n in range(5)]
    web = [{"text": f"A page {n}", "id": f"<urn:uuid:{n}>", "metadata": {"int_score": 3, "language": "en"}}
           for n in range(4)] + [{"text": None, "id": "<urn:uuid:none>", "metadata": None}]
    code = [{"blob_id": "x", "repo_name": "a/b", "path": "c.py", "length_bytes": 9, "score": 4.1, "int_score": 4}]
    for subset, rows, of in (("cosmopedia-v2", cosmopedia, 104), ("fineweb-edu-dedup", web, 234),
                             ("python-edu", code, 4)):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / subset / f"train-00000-of-{of:05d}.parquet")
    made = prepare_smollm_corpus(root, tmp_path / "all")
    assert made["samples"] == 9 and made["rejected"] == {
        "record has no text": {"count": 1, "examples": ["<urn:uuid:none>"]}}
    prepare_smollm_corpus(root, tmp_path / "c", subset="cosmopedia-v2")
    got = list(contents(tmp_path / "c").values())
    assert [sample.text for sample in got] == [row["text"].strip() for row in cosmopedia]
    assert (got[0].meta["audience"], got[0].meta["format"], got[0].meta["id"]) == (
        "general", "story", "cosmopedia-v2/train-00000-of-00104-1") and "prompt" not in got[0].meta
    prepare_smollm_corpus(root / "fineweb-edu-dedup", tmp_path / "w")
    assert len(contents(tmp_path / "w")) == 4
    with pytest.raises(DataError, match="'python-edu' has no texts"):
        prepare_smollm_corpus(root, tmp_path / "p", subset="python-edu")


def test_a_killed_part_goes_on_where_it_stopped(tmp_path):
    """SIGKILL in the middle; the same command ends with the bytes of a run that was left alone."""
    rows = [{"text": f"text number {n} " * 40, "id": str(n)} for n in range(3000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=500)
    killed("text.py", 700, tmp_path / "a.parquet", tmp_path / "out", "--samples-per-shard=200", "--part=1/2")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert len(before) == 3, "and the fourth was half written"
    for out in ("out", "alone"):
        prepare_text(tmp_path / "a.parquet", tmp_path / out, samples_per_shard=200, part="1/2")
    assert files(tmp_path / "out") == files(tmp_path / "alone")
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing is written again"
