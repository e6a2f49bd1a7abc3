"""What the page makes of tables: curves that grow again are told from those that a law describes. The committed page is
what the committed tables give."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from salad_ds.evidence.deaf import Deaf, deaf_student
from salad_ds.evidence.grid import Experiment
from salad_ds.evidence.page import laws, table, told_apart, write_page

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


def row(seed=0.0, alpha="0", **others):
    ones = dict.fromkeys(("m_se", "wrong", "silence", "f", "gain", "gain_se", "steps", "targets", "seconds", "tokens",
                          "items", "read", "heard", "other"), 1.0)  # fmt: skip
    return {"alpha": alpha, "seed": seed, "status": "done", "m": 0.2, **ones} | others


def cells_of(lines):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()]


def test_columns_are_there_where_something_was_measured():
    nothing = dict.fromkeys(("read", "heard", "other", "sure_reading"), float("nan"))
    done = row(m=1.0, **nothing, m_on_new=1.5, m_se_on_new=0.5, wrong_on_new=2.5, change_on_new=-0.25,
               change_se_on_new=0.125, sure_hearing=-0.25)  # fmt: skip
    stopped = {name: float("nan") for name in done} | {"alpha": "1", "seed": 0.0, "status": "at step 3 of 9"}
    text = table(Experiment("t", "q", {"alpha": {}}), [done, stopped], [], Deaf())
    head, _, first, second = cells_of(text)
    assert head == ["alpha", "seed", "M", "wrong", "silence", "below", "M new / wrong", "F", "too sure: hearing",
                    "words: read", "heard", "other", "steps", "targets", "min"], "no deaf student to compare with"
    told = dict(zip(head, first, strict=True))
    assert told["M new / wrong"] == "1.500 ± 0.500 / 2.500 (-0.250 ± 0.125)" and told["words: read"] == "–"
    assert told["too sure: hearing"] == "-0.250" and second[:4] == ["1", "0", "at step 3 of 9", "–"]
    assert len(second) == len(head)


def test_bold_is_below_both_controls_where_both_are_known():
    """Seed 0 hears; 1 is below wrong speech alone; 2 has no deaf student; 3 has one of other steps."""
    deaf = Deaf({seed: row(seed, m=m, steps=steps) for seed, m, steps in
                 ((0.0, 0.4, 1.0), (1.0, 0.21, 1.0), (3.0, 0.4, 2.0))})  # fmt: skip
    rows = [row(seed) for seed in (0.0, 1.0, 2.0, 3.0)]
    head, _, *lines = cells_of(table(Experiment("t", "q", {"alpha": {}}), rows, [], deaf))
    beside = [(line[head.index("below")], line[head.index("below deaf")]) for line in lines]
    plain = "100 ± 100 %"
    assert beside == [(f"**{plain}**", "**50 %**"), (plain, "5 %"), (plain, "–"), (plain, "–")]


def test_the_step_is_told_at_which_both_were_passed():
    probes = [{"alpha": "0", "seed": 0.0, "step": step, "m": m, "wrong": 1.0}
              for step, m in ((25.0, 0.5), (50.0, 0.4), (75.0, 0.3))]  # fmt: skip
    deaf = Deaf({0.0: row()}, {(0.0, 25.0): 0.6, (0.0, 50.0): 0.5, (0.0, 75.0): 0.45})
    assert deaf.passed(probes) == 75.0, "at 25 and 50 the deaf one is nearly as good"
    assert deaf.passed(probes[:2]) is None and Deaf().passed(probes) is None
    assert deaf.passed([one | {"seed": 1.0} for one in probes]) is None


def test_the_deaf_student_is_read_from_the_tables_of_its_experiment(tmp_path):
    (tmp_path / "search.csv").write_text("set-up,seed,status,m,tokens,items,steps\nbase,0,done,.2,9,9,9\n"
                                         "deaf,0,done,.4,9,9,9\ndeaf,1,not run,,,,\n")
    (tmp_path / "search-curves.csv").write_text("set-up,seed,step,m\nbase,0,5,.1\ndeaf,0,5,.8\n")
    found = deaf_student(tmp_path)
    assert found.rows.keys() == {0.0} and found.probes == {(0.0, 5.0): 0.8}
    assert found.below({"seed": 0.0, "m": 0.1, "tokens": 9.0, "items": 9.0, "steps": 9.0}) == pytest.approx(0.75)
    assert deaf_student(tmp_path / "nowhere") == Deaf()


def test_curves_of_other_targets_are_not_drawn_among_the_others():
    rows = [row(alpha=alpha, run=run, tokens=tokens) for alpha, run, tokens in
            (("0", "a", 9.0), ("1", "b", 9.0), ("2", "c", 8.0))]  # fmt: skip
    curves = [{"run": run} for run in "abcd"]
    drawn, others = told_apart(curves, rows)
    assert drawn == [{"run": "a"}, {"run": "b"}, {"run": "d"}] and others == ["2"], "d is under way"
    assert told_apart(curves, []) == (curves, [])


def test_the_shipped_page_is_what_its_tables_give(tmp_path, monkeypatch):
    """But for the laws: an optimiser's last digits differ between processors."""
    monkeypatch.setattr("salad_ds.evidence.page.law_of", lambda points: [])
    shutil.copytree(DOCS / "evidence", tmp_path / "evidence", ignore=shutil.ignore_patterns("*.png"))
    shutil.copy(DOCS / "evidence.md", tmp_path)
    write_page(tmp_path / "evidence", tmp_path / "evidence.md")
    law = re.compile(r"^(\| .*, seed \d+(?: \| [\d.,*]+){3}) \| .*$", re.MULTILINE)
    shipped = law.sub(r"\1 |", (DOCS / "evidence.md").read_text())
    assert (tmp_path / "evidence.md").read_text() == shipped, "python -m salad_ds.evidence page"
