"""A real cell: stopped with a checkpoint, taken up, never done twice; its numbers in the tables and on the page."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import replace

import pytest

from salad_ds.errors import SaladError, Stopped
from salad_ds.evidence.cells import RESULT, Grid, Running, run, startable
from salad_ds.evidence.collect import collect, lines_in, lines_of, read_csv, status_of
from salad_ds.evidence.grid import Cell, cells, load_experiment, load_setup
from salad_ds.evidence.page import write_page
from salad_ds.evidence.prepare import only, prepare


def stop_behind_a_checkpoint(place, over):
    """SIGTERM to this process, as a person or a scheduler sends it, once the cell has a checkpoint. None when the run
    is ``over``: nobody would catch it."""
    until = time.monotonic() + 900
    while not list(place.glob("stage1/checkpoints/step-*")) and time.monotonic() < until:
        if over.wait(0.05):
            return
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.assets
def test_a_grid_fills_in_pieces_and_its_page_says_what_is_there(recipes, tmp_path, capfd):
    prepare([], recipes)
    every = cells("alpha", load_experiment("alpha", recipes))
    grid = Grid(recipes / "recipe.yaml", [], every[:1])  # of two seeds the first
    place = grid.place(grid.cells[0])
    over = threading.Event()
    thread = threading.Thread(target=stop_behind_a_checkpoint, args=(place, over))
    thread.start()
    try:
        with pytest.raises(Stopped, match="0 of 1 runs"):
            run(grid, jobs=2, minutes=0)
    finally:
        over.set()
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
    assert "| M selected / wrong | M all-drawn / wrong | M all-left / wrong | F |" in page.read_text()


def test_a_cell_waits_for_its_first_stage_however_that_is_spelt(recipes):
    rates = "stages.stage1.lr_llm=0.25", "stages.stage1.lr_adapter=0.25"
    first = Cell("a", {}, 0, rates)
    behind = Cell("a", {}, 0, (*rates, "select.gamma=1"), first)
    same = Cell("b", {}, 0, rates[::-1])  # another experiment's: it is the one that is run
    grid = Grid(recipes / "recipe.yaml", [], [same, behind])
    assert grid.place(first) == grid.place(same)
    assert startable(grid, [same, behind], []) is same and startable(grid, [behind], []) is behind
    running = Running(grid, same)
    running.log.close()
    assert startable(grid, [behind], [running]) is None


def test_runs_fill_their_teacher_store_one_after_the_other(recipes, monkeypatch):
    monkeypatch.setattr(Grid, "commands", lambda self, cell: iter([["precompute"], ["train"]]))
    monkeypatch.setattr(Running, "start", lambda self: started.append(self.commands.popleft()[0]))
    started: list[str] = []
    cell = cells("alpha", load_experiment("alpha", recipes))[0]
    one = Running(Grid(recipes / "recipe.yaml", [], [cell]), cell)
    assert not one.ended(filled=True) and started == []
    assert not one.ended(filled=False) and started == ["precompute"]
    assert not one.ended(filled=True) and started == ["precompute", "train"], "no verb but precompute waits"
    one.wait()


def test_nothing_runs_on_when_the_grid_breaks_down(recipes, monkeypatch):
    """An error that nobody foresaw: the children are stopped, not left behind."""
    cell = replace(cells("alpha", load_experiment("alpha", recipes))[0], overrides=("stages.stage1.lr_llm=0.125",))
    grid, jobs = Grid(recipes / "recipe.yaml", [], [cell]), []

    def sleep(self: Running) -> None:
        self.verb, self.job = "train", subprocess.Popen(["sleep", "600"])
        jobs.append(self.job)

    def broken(self: Running, filled: bool) -> bool:
        self.start()
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(Running, "start", sleep)
    monkeypatch.setattr(Running, "ended", broken)
    with pytest.raises(KeyError):
        run(grid, jobs=1, minutes=0)
    assert [job.poll() for job in jobs] == [-signal.SIGTERM]


def test_speech_is_made_for_the_cells_that_are_run_alone(recipes):
    every = cells("alpha", load_experiment("alpha", recipes))
    assert Grid(recipes / "recipe.yaml", [], every).speech == {"speech/few", "speech/held"}
    setup = replace(load_setup(recipes), recorded=["speech/person", "speech/other"],
                    silenced={"speech/quiet": "speech/person", "speech/mute": "speech/few"})  # fmt: skip
    found = only(setup, {"speech/held", "speech/quiet"})
    assert list(found.spoken) == ["speech/held"] and found.recorded == ["speech/person"]
    assert found.silenced == {"speech/quiet": "speech/person"}
    assert list(only(setup, {"speech/mute"}).spoken) == ["speech/few"]


def test_old_numbers_of_other_settings_do_not_stay_in_the_tables(recipes, tmp_path):
    experiment = load_experiment("alpha", recipes)
    grid = Grid(recipes / "recipe.yaml", [f"workdir={tmp_path / 'work'}"], cells("alpha", experiment)[:1])
    for path in collect(grid, "alpha", experiment, tmp_path / "out"):
        path.write_text(path.read_text().replace("not run", "done"))  # as if it had been run elsewhere
    run_of = grid.place(grid.cells[0])

    def statuses() -> list[str]:
        collect(grid, "alpha", experiment, tmp_path / "out")
        return [row["status"] for row in lines_in(tmp_path / "out/alpha.csv")]

    assert statuses() == ["done"]
    run_of.mkdir(parents=True)
    (run_of / RESULT).write_text('{"digest": "of other settings"}')
    for name in ("few", "held"):
        spoken = Grid(recipes / "recipe.yaml", [], []).root.path(f"speech/{name}")
        shutil.copytree(spoken, tmp_path / f"work/speech/{name}")
    assert statuses() == ["not run"]


def test_a_log_that_a_kill_cut_off_is_read_as_far_as_it_goes(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert lines_of(tmp_path / "log.jsonl") == [{"step": 1}, {"step": 2}] and lines_of(tmp_path / "none") == []


def test_a_cell_that_fails_is_told_with_its_log(recipes, monkeypatch):
    grid = Grid(recipes / "recipe.yaml", [], cells("alpha", load_experiment("alpha", recipes))[:1])
    monkeypatch.setattr(Grid, "commands", lambda self, cell: iter([["no-such-verb"]]))
    (grid.place(grid.cells[0]) / RESULT).unlink(missing_ok=True)
    with pytest.raises(SaladError, match="alpha alpha=0,seed=0: no-such-verb ended with exit code 2") as caught:
        run(grid, jobs=1, minutes=0)
    assert "log.txt" in caught.value.mend
