"""Experiments as they are shipped, and the arithmetic of their grids."""

from __future__ import annotations

import pytest

from salad_ds.config import load_recipe
from salad_ds.errors import RecipeError
from salad_ds.evidence.grid import DIRECTORY, ORDER, cells, experiments, load_experiment, load_setup, overrides_of


def test_every_shipped_cell_has_a_recipe_of_its_own(tmp_path):
    recipe = DIRECTORY / load_setup().recipe
    assert set(experiments()) == set(ORDER)
    for name in experiments():
        experiment = load_experiment(name)
        grid = cells(name, experiment)
        if experiment.needs:
            continue
        assert grid and len({cell.name for cell in grid}) == len(grid)
        loaded = [load_recipe(recipe, overrides_of(cell, [], tmp_path)) for cell in grid]
        assert all(one.stages["stage1"].ranks == 1 for one in loaded)
        assert [one.stages["stage1"].seed for one in loaded] == [cell.seed for cell in grid]
        told = {str((one.model, one.data, one.teacher, one.stages, one.measure)) for one in loaded}
        assert len(told) == len(grid), f"{name}: two cells are the same run"


def test_what_the_set_up_speaks_is_what_the_recipe_prepares():
    setup = load_setup()
    texts = {corpus.out for corpus in load_recipe(DIRECTORY / setup.recipe).corpora}
    assert {*setup.spoken.values(), setup.llm_texts, setup.llm_held} <= texts


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
])
def test_what_cannot_be_an_experiment_is_refused(tmp_path, text, told):
    with pytest.raises(RecipeError, match=told):
        write(tmp_path, text)()


def test_an_experiment_that_is_not_there_is_told_what_is():
    with pytest.raises(RecipeError, match="no experiment 'alfa'") as caught:
        load_experiment("alfa")
    assert "alpha" in caught.value.mend
