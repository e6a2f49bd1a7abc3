"""A real sweep on the small selection: nothing is spoken or measured twice."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf

from salad_ds.config import plain
from salad_ds.data.shards import Sample, ShardSet, ShardWriter
from salad_ds.errors import DataError, RecipeError
from salad_ds.select import probe as probing
from salad_ds.select import sweep as sweeping
from salad_ds.select.run import select
from salad_ds.select.sweep import check_budgets, combinations, name_of, sweep, values_of
from salad_ds.table import read_table
from salad_ds.teacher.ranks import Ranks

pytestmark = pytest.mark.assets
OVERRIDES = ["select.clusters=2,3", "select.policy=active,uniform", "select.gamma=0,1", "threads=1"]


def files(place):
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*"))
            if path.is_file() and path.name != ".lock"}


@pytest.fixture(scope="module")
def work(unmeasured, tmp_path_factory):
    """(recipe file, recipe) of a copy of the small selection, before it is selected from."""
    directory = tmp_path_factory.mktemp("sweep")
    shutil.copytree(unmeasured.path("."), directory / "work", ignore=shutil.ignore_patterns("stage2"))
    recipe = replace(unmeasured, workdir=str(directory / "work"))
    OmegaConf.save(OmegaConf.create(plain(recipe)), directory / "recipe.yaml")
    return str(directory / "recipe.yaml"), recipe


def spied(monkeypatch):
    """The rows that are spoken and measured from now on, call by call."""
    calls = []

    def counting(recipe, texts, rows, *rest):
        calls.append(list(rows))
        return probing.speak_and_measure(recipe, texts, rows, *rest)

    monkeypatch.setattr(sweeping, "speak_and_measure", counting)
    return calls


def test_overrides_are_multiplied_and_only_settings_of_selection_are():
    assert values_of("select.gamma=0,5") == ["select.gamma=0", "select.gamma=5"]
    assert values_of("synth.voices=[a,b]") == ["synth.voices=[a,b]"]
    assert combinations(["select.gamma=0, 5", "threads=1", "select.clusters=4,8"]) == [
        ["select.gamma=0", "threads=1", "select.clusters=4"], ["select.gamma=0", "threads=1", "select.clusters=8"],
        ["select.gamma=5", "threads=1", "select.clusters=4"], ["select.gamma=5", "threads=1", "select.clusters=8"]]
    with pytest.raises(RecipeError, match="nothing is swept"):
        combinations(["select.gamma=5", "synth.voices=[a,b]"])


def test_one_table_tells_every_combination_and_no_text_is_spoken_twice(work, monkeypatch, capsys):
    path, recipe = work
    calls = spied(monkeypatch)
    table = sweep(path, OVERRIDES)
    place = recipe.path("stage2/sweep")
    rows = {row["name"]: row for row in table.to_pylist()}
    budget = recipe.select.budget_items
    cer = f"-cer{recipe.select.max_cer:g}-probes3"
    assert set(rows) == {f"K{k}-{law}-{budget}texts{cer}" for k in (2, 3) for law in ("active-gamma0", "active-gamma1",
                                                                                    "uniform")}
    assert len(capsys.readouterr().out.splitlines()) == 7
    # the texts of the recipe's own three clusters are known; of the two, those are new that no other probe has
    assert len(calls) == 1
    own = set(read_table(recipe.path("stage2/selection/probes.parquet"))[0]["row"].to_pylist())
    probes = read_table(next(place.glob("K2-*")) / "probes.parquet")[0].to_pylist()
    assert set(calls[0]) == {row["row"] for row in probes} - own
    for name, row in rows.items():
        clusters = read_table(place / name / "clusters.parquet")[0].to_pydict()
        p, drawn, m = (np.array(clusters[column]) for column in ("p_target", "drawn", "m"))
        assert row["clusters"] == len(p) and row["texts"] == drawn.sum() == budget
        assert row["effective_clusters"] == pytest.approx(np.exp(-sum(q * np.log(q) for q in p if q > 0)))
        assert row["m"] == pytest.approx((m * drawn).sum() / drawn.sum()) and row["largest_share"] == p.max()
        assert 0 < row["hours"] < 0.1 and row["set_aside"] == sum(map(bool, clusters["set_aside"]))
    for k in (2, 3):  # γ = 0 and uniform are one law
        same = [place / f"K{k}-{law}-{budget}texts{cer}/selected.parquet" for law in ("active-gamma0", "uniform")]
        assert read_table(same[0])[0].equals(read_table(same[1])[0])
    theirs, ours = (set(read_table(where / "selected.parquet")[0]["row"].to_pylist()) for where in
                    (recipe.path("stage2/selection"), place / f"K3-active-gamma1-{budget}texts{cer}"))
    assert rows[f"K3-active-gamma1-{budget}texts{cer}"]["overlap"] == len(theirs & ours) / len(theirs | ours)


def test_again_it_does_nothing_and_what_is_lost_comes_back_byte_for_byte(work, monkeypatch):
    path, recipe = work
    place, calls = recipe.path("stage2/sweep"), spied(monkeypatch)
    before = files(place)
    sweep(path, OVERRIDES)
    assert not calls and files(place) == before
    for lost in [place / "sweep.parquet", *place.glob("K2-*/*.parquet"), *place.glob("clusters-*/*.parquet")]:
        lost.unlink()
    sweep(path, OVERRIDES)
    assert not calls and files(place) == before
    shutil.rmtree(place / "probes")
    sweep(path, OVERRIDES)
    assert len(calls) == 0, "the records stand in the tables of the selections"
    for lost in [*place.glob("K2-*/probes.parquet")]:
        lost.unlink()
    sweep(path, OVERRIDES)
    assert len(calls) == 1 and files(place) == before


def test_the_recipe_s_own_selection_among_them_overlaps_with_itself(work, monkeypatch):
    path, recipe = work
    calls = spied(monkeypatch)
    table = sweep(path, [f"select.gamma={recipe.select.gamma:g},4"])
    assert not calls, "the same clusters have the same probes"
    assert table["overlap"].to_pylist()[0] == 1.0
    assert len(table) == 2 and read_table(recipe.path("stage2/sweep/sweep.parquet"))[0].equals(table)


def test_names_say_what_counts(work):
    recipe = work[1]
    made = replace(recipe, select=replace(recipe.select, policy="uniform", gamma=3.0, max_cer=0.15, probe_items=8))
    assert name_of(made) == f"K3-uniform-{recipe.select.budget_items}texts"
    made.select.budget_items, made.select.policy, made.select.shrink, made.select.seed = 0, "active", True, 2
    assert name_of(made) == "K3-active-gamma3-shrunk-1percent-seed2"
    made.select.budget_hours = 12.5
    assert name_of(made) == "K3-active-gamma3-shrunk-12.5h-seed2"


def test_a_budget_that_another_overrules_is_not_swept(work):
    path, recipe = work
    assert recipe.select.budget_items
    with pytest.raises(RecipeError, match=r"select\.budget_hours has no effect .*select\.budget_items=0"):
        sweep(path, ["select.budget_hours=1,2"])
    check_budgets([recipe], ["select.budget_items=4,8", "select.gamma=0,1"])


def test_texts_of_which_none_can_be_spoken_do_not_end_a_sweep(work, tmp_path):
    """A probe of another K may add one text only, and that one may be in another script."""
    _, recipe = work
    select(recipe, quiet=True)
    with ShardWriter(tmp_path / "texts", source="odd") as writer:
        writer.add(Sample("a", {"text": "ordinary words about a river that flows to the sea"}))
        writer.add(Sample("b", {"text": "мир труд май и так далее"}))
    with Ranks() as ranks:
        pool = sweeping.Pool(recipe, ShardSet.open(tmp_path / "texts"), tmp_path / "probes", ranks)
        pool.known.clear()
        with pytest.raises(DataError):
            pool.records([1])
        assert pool.records([0])[0]["m"] is not None
        before = pool.known[0]
        assert pool.records([1])[0]["rejected"] == "cannot be spoken" and pool.known[0] == before
