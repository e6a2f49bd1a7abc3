"""The command line of the experiments: what is done is listed, the page is written from what lies there, errors are a
line."""

from __future__ import annotations

import sys

import pytest

from salad_ds.evidence.__main__ import main


def test_cells_are_listed_and_the_page_is_written(recipes, tmp_path, monkeypatch, capsys):
    def command(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["evidence", *map(str, words), "--recipes", str(recipes)])
        main()
        return capsys.readouterr().out

    listed = command("list", "alpha").splitlines()
    assert len(listed) == 2 and all(line[18:].startswith(" alpha alpha=") for line in listed)
    assert {line.split()[0] for line in listed} <= {"done", "not", "at"}, "done, not run, at step 3 of 60"
    out, page = tmp_path / "tables", tmp_path / "evidence.md"
    assert command("page", "alpha", "--collect", "--out", out, "--page", page).strip() == str(page)
    assert "Does it run?" in page.read_text() and "| 0 | 1 | not run | – |" in page.read_text()
    assert (out / "alpha.csv").is_file()
    with pytest.raises(SystemExit) as ended:
        command("list", "no-such-experiment")
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "no-such-experiment" in told and "Traceback" not in told
