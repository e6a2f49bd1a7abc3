"""What the page makes of tables: curves that grow again are told from those that a law describes. The committed page is
what the committed tables give."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from salad_ds.evidence.grid import Experiment
from salad_ds.evidence.page import laws, table, write_page

DOCS = Path(__file__).parents[2] / "docs"


def curve(alpha, m):
    return [{"alpha": alpha, "seed": 0.0, "step": float(i), "targets": 1000.0 * i, "m": value, "m_se": 0.01,
             "wrong": 2.0} for i, value in enumerate(m)]  # fmt: skip


def test_a_curve_that_grows_again_has_no_law():
    falling = 0.3 + 0.5 * np.arange(1, 9) ** -0.7
    rows = [*curve("0", [1.4, 0.7, 0.6, 0.8, 0.9, 1.0]), *curve("1", [1.4, *falling])]
    grown, fallen = [line.split(" | ") for line in laws(rows, ["alpha"]) if line.startswith("| alpha ")]
    assert grown == ["| alpha 0, seed 0", "0.600", "2,000", "**1.000**", "–", "–", "–", "–", "–", "5 |"]
    assert fallen[:4] == ["| alpha 1, seed 0", f"{falling[-1]:.3f}", "8,000", f"{falling[-1]:.3f}"]
    assert float(fallen[6].split()[0]) == pytest.approx(0.7, abs=0.05) and fallen[-2:] == ["1.00", "8 |"]


def test_too_few_probes_and_none():
    assert laws(curve("0", [1.4, 0.7, 0.6]), ["alpha"])[3].split(" | ")[4:] == ["–"] * 5 + ["2 |"]
    assert laws(curve("0", [1.4]), ["alpha"]) == [] == laws([], ["alpha"])


def test_columns_are_there_where_something_was_measured():
    numbers = dict.fromkeys(("m", "m_se", "wrong", "silence", "f", "gain", "gain_se", "steps", "targets", "seconds",
                             "tokens", "items", "m_on_new", "m_se_on_new"), 1.0)  # fmt: skip
    words = dict.fromkeys(("read", "heard", "other", "sure_reading"), float("nan"))
    done = {"alpha": "0", "seed": 0.0, "status": "done", **numbers, **words, "sure_hearing": -0.25}
    stopped = {name: float("nan") for name in done} | {"alpha": "1", "seed": 0.0, "status": "at step 3 of 9"}
    head, _, first, second = table(Experiment("t", "q", {"alpha": {}}), [done, stopped], [], {}).splitlines()
    assert "| below deaf | M new | F | too sure: hearing | words: read |" in head
    assert "| – | 1.000 ± 1.000 | 1.000 | -0.250 | – |" in first, "no deaf student to compare with"
    assert second.startswith("| 1 | 0 | at step 3 of 9 | – |") and second.count("|") == head.count("|")


def test_a_student_is_held_against_the_deaf_one_of_its_seed():
    numbers = dict.fromkeys(("m_se", "wrong", "silence", "f", "gain", "gain_se", "steps", "targets", "seconds",
                             "tokens", "items", "read", "heard", "other"), 1.0)  # fmt: skip
    deaf = {seed: {"m": m, "tokens": 1.0, "items": 1.0} for seed, m in ((0.0, 0.4), (1.0, 0.5))}
    rows = [{"alpha": "0", "seed": seed, "status": "done", "m": 0.2, **numbers} for seed in (0.0, 1.0, 2.0)]
    lines = table(Experiment("t", "q", {"alpha": {}}), rows, [], deaf).splitlines()[2:]
    assert [line.split(" | ")[6] for line in lines] == ["**50 %**", "**60 %**", "–"]


def test_the_shipped_page_is_what_its_tables_give(tmp_path, monkeypatch):
    """But for the laws: an optimiser's last digits differ between processors."""
    monkeypatch.setattr("salad_ds.evidence.page.law_of", lambda points: [])
    shutil.copytree(DOCS / "evidence", tmp_path / "evidence", ignore=shutil.ignore_patterns("*.png"))
    shutil.copy(DOCS / "evidence.md", tmp_path)
    write_page(tmp_path / "evidence", tmp_path / "evidence.md")
    law = re.compile(r"^(\| .*, seed \d+(?: \| [\d.,*]+){3}) \| .*$", re.MULTILINE)
    shipped = law.sub(r"\1 |", (DOCS / "evidence.md").read_text())
    assert (tmp_path / "evidence.md").read_text() == shipped, "python -m salad_ds.evidence page"
