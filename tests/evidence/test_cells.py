"""A real cell: stopped with a checkpoint, taken up, never done twice; its numbers in the tables and on the page."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from salad_ds.errors import SaladError, Stopped
from salad_ds.evidence.cells import RESULT, Grid, run
from salad_ds.evidence.collect import collect, read_csv, status_of
from salad_ds.evidence.grid import cells, load_experiment
from salad_ds.evidence.page import write_page
from salad_ds.evidence.prepare import prepare


def stop_behind_a_checkpoint(place):
    """SIGTERM to this process, as a person or a scheduler sends it, once the cell has a checkpoint."""
    until = time.monotonic() + 120
    while not list(place.glob("stage1/checkpoints/step-*")) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.assets
def test_a_grid_fills_in_pieces_and_its_page_says_what_is_there(recipes, tmp_path, capfd):
    prepare([], recipes)
    every = cells("alpha", load_experiment("alpha", recipes))
    grid = Grid(recipes / "recipe.yaml", [], every[:1])  # of two seeds the first
    place = grid.place(grid.cells[0])
    thread = threading.Thread(target=stop_behind_a_checkpoint, args=(place,))
    thread.start()
    with pytest.raises(Stopped, match="0 of 1 runs"):
        run(grid, jobs=2, minutes=0)
    thread.join()
    assert not (place / RESULT).exists() and not (place / "stage1/done.json").exists()
    assert status_of(grid, grid.cells[0]).startswith("at step ")
    assert run(grid, jobs=2, minutes=0) == 1
    assert "stage1: continuing after step" in (place / "log.txt").read_text()
    steps = [json.loads(line)["step"] for line in (place / "stage1/log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 61))
    before = (place / "log.txt").stat().st_mtime_ns
    assert run(grid, jobs=1, minutes=0) == 0 and (place / "log.txt").stat().st_mtime_ns == before
    assert grid.result(replace(every[0], overrides=(*every[0].overrides, "stages.stage1.lr_llm=0.5"))) is None

    out, page = tmp_path / "docs/evidence", tmp_path / "docs/evidence.md"
    collect(replace(grid, cells=every), "alpha", load_experiment("alpha", recipes), out)
    write_page(out, page, recipes)
    assert grid.label(every[0]).resolve() == place.resolve(), "people find it by its name"
    text, measured = page.read_text(), json.loads((place / RESULT).read_text())["measured"]
    assert f"| 0 | 0 | {measured['misalignment']['mean']:.3f} ± " in text and "| 0 | 1 | not run | – |" in text
    assert "1 of 2 cells" in text and "Not run: more voices." in text and "![Small](evidence/alpha.png)" in text
    row = read_csv(out / "alpha.csv")[0]
    assert row["m"] == pytest.approx(measured["misalignment"]["mean"], rel=1e-4) and row["steps"] == 60
    assert [row["step"] for row in read_csv(out / "alpha-curves.csv")] == [0, 12, 24, 36, 48, 60]
    assert text.count("| alpha 0, seed 0 | ") == 1, "its curve"
    before = [path.read_bytes() for path in sorted(out.glob("*.csv"))]
    elsewhere = Grid(recipes / "recipe.yaml", [f"workdir={tmp_path / 'elsewhere'}"], every)
    collect(elsewhere, "alpha", load_experiment("alpha", recipes), out)
    assert [path.read_bytes() for path in sorted(out.glob("*.csv"))] == before, "where no run lies, tables stay"
    other = replace(elsewhere, shared=[*elsewhere.shared, "stages.stage1.lr_llm=0.5"])
    collect(other, "alpha", load_experiment("alpha", recipes), tmp_path / "other")
    assert {row["status"] for row in read_csv(tmp_path / "other/alpha.csv")} == {"not run"}
    said = text.replace("<!-- said alpha -->\n", "<!-- said alpha -->\nNLL overfits.\n")
    page.write_text(said)
    write_page(out, page, recipes)
    assert page.read_text() == said, "what a person wrote stays"

    same = replace(every[0], experiment="other", levels={"loss": "nll"})  # another experiment's, the same settings
    grid = Grid(recipes / "recipe.yaml", [], [same])
    assert run(grid, jobs=1, minutes=0) == 0 and grid.result(same) is not None

    first = cells("active", load_experiment("active", recipes))
    chain = Grid(recipes / "recipe.yaml", [], first)
    assert run(chain, jobs=2, minutes=0) == 1, "its first stage is the run above"
    assert (chain.place(first[0]) / "stage1").resolve() == (place / "stage1").resolve()
    collect(chain, "active", load_experiment("active", recipes), out)
    write_page(out, page, recipes)
    (row,) = read_csv(out / "active.csv")
    assert row["steps"] == 2 and {name for name in row if name.startswith("m_on_")} == {
        "m_on_selected", "m_on_all-drawn", "m_on_all-left"}  # fmt: skip
    sets = chain.result(first[0])["sets"]
    assert row["m_on_all-left"] == pytest.approx(sets["all"]["groups"]["left"]["misalignment"]["mean"], rel=1e-4)
    assert "| M selected | M all-drawn | M all-left | F |" in page.read_text()


def test_a_cell_that_fails_is_told_with_its_log(recipes, monkeypatch):
    grid = Grid(recipes / "recipe.yaml", [], cells("alpha", load_experiment("alpha", recipes))[:1])
    monkeypatch.setattr(Grid, "commands", lambda self, cell: iter([["no-such-verb"]]))
    (grid.place(grid.cells[0]) / RESULT).unlink(missing_ok=True)
    with pytest.raises(SaladError, match="alpha alpha=0,seed=0: no-such-verb ended with exit code 2") as caught:
        run(grid, jobs=1, minutes=0)
    assert "log.txt" in caught.value.mend
