import pyarrow as pa
import pytest

from salad_ds import table
from salad_ds.errors import DataError
from salad_ds.table import read_made, read_table, write_rows, write_table

COLUMNS = {"row": (pa.int64(), [0, 1]), "text": (pa.string(), ["a", "ü"]), "m": (pa.float64(), [0.5, None])}


def test_the_same_rows_give_the_same_bytes(tmp_path):
    write_table(tmp_path / "a.parquet", COLUMNS, {"seed": 1, "k": [2]})
    write_table(tmp_path / "b.parquet", COLUMNS, {"k": [2], "seed": 1})
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    table, made_from = read_table(tmp_path / "a.parquet")
    assert table.to_pylist() == [{"row": 0, "text": "a", "m": 0.5}, {"row": 1, "text": "ü", "m": None}]
    assert made_from == {"seed": 1, "k": [2]}


def test_what_is_written_is_returned_as_it_will_be_read(tmp_path):
    columns = {**COLUMNS, "words": (pa.list_(pa.string()), [["a"], []])}
    written = write_table(tmp_path / "a.parquet", columns, {})
    assert written.schema.equals(read_table(tmp_path / "a.parquet")[0].schema, check_metadata=True)


def test_a_table_made_from_something_else_is_not_taken(tmp_path):
    write_table(tmp_path / "a.parquet", COLUMNS, {"seed": 1})
    assert read_made(tmp_path / "a.parquet", {"seed": 1}) is not None
    assert read_made(tmp_path / "a.parquet", {"seed": 2}) is None
    assert read_made(tmp_path / "none.parquet", {}) is None


def test_a_damaged_or_foreign_table_is_named(tmp_path):
    for raw in (b"", b"PAR1 no"):
        (tmp_path / "x.parquet").write_bytes(raw)
        with pytest.raises(DataError, match="x.parquet"):
            read_table(tmp_path / "x.parquet")
        assert read_made(tmp_path / "x.parquet", {}) is None


def test_rows_that_come_one_by_one_are_written_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "ROWS", 4)
    kinds = {"row": pa.int64(), "text": pa.string()}
    for name in ("a", "b"):
        write_rows(tmp_path / name, kinds, ((i, f"t{i}") for i in range(10)), {"seed": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pa.parquet.ParquetFile(tmp_path / "a").num_row_groups == 3
    found, made_from = read_table(tmp_path / "a")
    assert found.to_pylist() == [{"row": i, "text": f"t{i}"} for i in range(10)] and made_from == {"seed": 1}
    assert read_made(tmp_path / "a", {"seed": 1}, ["row"]).column_names == ["row"]
    write_rows(tmp_path / "none", kinds, iter(()), {})
    assert read_table(tmp_path / "none")[0].num_rows == 0
