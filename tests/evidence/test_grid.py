"""Experiments as they are shipped, and the arithmetic of their grids."""

from __future__ import annotations

import pytest

from salad_ds.config import load_recipe
from salad_ds.errors import RecipeError
from salad_ds.evidence.grid import (
    DIRECTORY,
    ORDER,
    Cell,
    cells,
    experiments,
    load_experiment,
    load_setup,
    overrides_of,
    run_name,
)


def test_every_shipped_cell_has_a_recipe_of_its_own(tmp_path):
    path = DIRECTORY / load_setup().recipe
    root = load_recipe(path)
    assert set(experiments()) == set(ORDER)
    for name in experiments():
        experiment = load_experiment(name)
        grid = cells(name, experiment)
        if experiment.needs:
            continue
        assert grid and len({cell.name for cell in grid}) == len(grid)
        loaded = [load_recipe(path, overrides_of(cell, [], tmp_path)) for cell in grid]
        for recipe, cell in zip(loaded, grid, strict=True):
            own = list(recipe.stages.values())
            assert len(own) == 1 + (cell.first is not None) and all(stage.ranks == 1 for stage in own)
            assert {stage.seed for stage in own} == {cell.seed}
        assert len({run_name(recipe, root) for recipe in loaded}) == len(grid), f"{name}: two cells are the same run"


def test_a_run_is_named_by_what_it_runs_with(tmp_path):
    path = DIRECTORY / load_setup().recipe
    root = load_recipe(path)

    def name(*overrides: str) -> str:
        cell = Cell("one", {}, 0, overrides)
        return run_name(load_recipe(path, overrides_of(cell, [], tmp_path / str(len(overrides)))), root)

    assert name() == name("stages.stage1.alpha=1", "measure.items=128"), "what is so anyway, and where it lies"
    assert len({name(), name("stages.stage1.alpha=0"), name("stages.stage1.alpha=0", "data.text_words=[1,4]")}) == 3
    domain, base = cells("domain", load_experiment("domain")), cells("search", load_experiment("search"))[0]
    broad = next(cell for cell in domain if cell.levels == {"domain": "broad", "alpha": "1"})
    assert name(*broad.overrides) == name(*base.overrides), "experiments share runs"


def test_cells_behind_a_first_stage_share_it():
    grid = cells("active", load_experiment("active"))
    (first,) = {cell.first.overrides for cell in grid if cell.seed == 0}
    root = load_recipe(path := DIRECTORY / load_setup().recipe)
    alpha = next(cell for cell in cells("alpha", load_experiment("alpha"))
                 if cell.levels == {"alpha": "1", "texts": "640"} and cell.seed == 0)
    names = {run_name(load_recipe(path, list(overrides)), root) for overrides in (first, alpha.overrides)}
    assert len(names) == 1, "which another experiment has run already"


def test_what_the_set_up_speaks_is_what_the_recipe_prepares():
    setup = load_setup()
    recipe = load_recipe(path := DIRECTORY / setup.recipe)
    texts = {corpus.out for corpus in recipe.corpora}
    assert {*(spoken.text for spoken in setup.spoken.values()), setup.llm_texts, setup.llm_held} <= texts
    assert set(setup.recorded) <= texts
    for spoken in setup.spoken.values():
        load_recipe(path, spoken.settings)


def write(directory, text):
    (directory / "one.yaml").write_text("title: One\nquestion: Whether.\n" + text)
    return lambda: load_experiment("one", directory)


def test_cells_are_the_product_of_levels_and_seeds(tmp_path):
    grid = cells("one", write(tmp_path, """
seeds: [3, 5]
overrides: [threads=1]
axes:
  alpha: {"0": [stages.stage1.alpha=0], "1": [stages.stage1.alpha=1]}
  data: {few: [a=1, b=2], many: []}
""")())
    assert [cell.name for cell in grid[:4]] == ["alpha=0,data=few,seed=3", "alpha=0,data=many,seed=3",
                                                "alpha=1,data=few,seed=3", "alpha=1,data=many,seed=3"]
    assert len(grid) == 8 and [cell.seed for cell in grid] == [3] * 4 + [5] * 4
    assert grid[2].overrides == ("threads=1", "stages.stage1.alpha=1", "a=1", "b=2", "stages.stage1.seed=3",
                                 "model.seed=3")


@pytest.mark.parametrize("text, told", [
    ("axis: {}", "Key 'axis' not in 'Experiment'"),
    ('axes: {a: {"1/4": []}}', "'1/4' is no name of an axis or level"),
    ("seeds: [a]", "Value 'a'"),
    ("axes: {a: {b: []}}\nagainst: {a: c}", "against a 'c', which is no level"),
])
def test_what_cannot_be_an_experiment_is_refused(tmp_path, text, told):
    with pytest.raises(RecipeError, match=told):
        write(tmp_path, text)()


def test_an_experiment_that_is_not_there_is_told_what_is():
    with pytest.raises(RecipeError, match="no experiment 'alfa'") as caught:
        load_experiment("alfa")
    assert "alpha" in caught.value.mend
