"""Templates are data: what is packaged is sound, and what is not is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import salad_ds
from salad_ds.errors import RecipeError
from salad_ds.evaluate.tasks.items import Template
from salad_ds.evaluate.tasks.registry import BENCHMARKS, NAMES
from salad_ds.evaluate.tasks.templates import templates

GOOD = {"version": 1, "before": "Q:", "after": "\nA:", "between": "\n\n", "description": "d", "source": "ours"}


def test_every_task_has_its_packaged_template():
    found = templates()
    used = {benchmark.template for benchmark in BENCHMARKS.values()} | {"wordnet", "voicebench"}
    assert used == set(found), "a template that nobody uses, or a task without one"
    assert found["wordnet"].shown == "Definition: {asked}\nWord:" and found["wordnet"].version == 2
    assert found["piqa"].read("to peel an egg") == "Question: to peel an egg\nAnswer:"
    assert found["hellaswag"].read("A man. He") == "A man. He", "no blank in front where nothing precedes"


def test_the_page_for_people_quotes_them():
    page = (Path(salad_ds.__file__).parents[1] / "docs/benchmarks.md").read_text()
    for found in templates().values():
        assert f"`{found.shown}`".replace("\n", "⏎") in page, found.name
    assert all(f"`{name}`" in page for name in NAMES)


@given(before=st.sampled_from(["", "Q:", "Answer this:"]), after=st.sampled_from(["", "\nA:"]), asked=st.text())
def test_around_what_is_heard_stands_what_is_around_what_is_read(before, after, asked):
    template = Template("t", 1, before, after, "\n\n")
    read, heard = template.read(asked), template.heard("<|audio|>")
    assert read.startswith(before) and read.endswith(asked + after)
    assert heard == before + "<|audio|>" + after
    assert len(read) == len(before) + len(after) + len(asked) + bool(before)


@pytest.mark.parametrize("change, why", [
    ({"version": 0}, "version 0"), ({"version": "1"}, "version '1'"), ({"version": True}, "version True"),
    ({"before": "Q: "}, "before 'Q: ', which ends with a space"), ({"after": "\nA: "}, "ends with a space"),
    ({"between": ""}, "nothing between examples"), ({"source": ""}, "whose it is"), ({"description": 3}, "no text"),
    ({"afterwards": "x"}, "has version, before, after, between, description, source, afterwards"),
])  # fmt: skip
def test_a_template_that_is_none_is_refused_by_name(tmp_path, change, why):
    path = tmp_path / "templates.yaml"
    OmegaConf.save(OmegaConf.create({"mine": GOOD | change}), path)
    with pytest.raises(RecipeError, match="template 'mine'") as error:
        templates(path)
    assert why in str(error.value)


@pytest.mark.parametrize("text, why", [("", "holds no templates"), ("- a\n", "holds no templates"),
                                       ("mine: 3\n", "template 'mine' has int"), ("a: [", "is no YAML")])  # fmt: skip
def test_a_file_that_is_none(tmp_path, text, why):
    path = tmp_path / "templates.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=why):
        templates(path)
    with pytest.raises(RecipeError, match="cannot be read"):
        templates(tmp_path / "nothing.yaml")


def test_yaml_keeps_the_line_breaks(tmp_path):
    path = tmp_path / "templates.yaml"
    OmegaConf.save(OmegaConf.create({"mine": GOOD}), path)
    assert templates(path)["mine"] == Template("mine", **GOOD)
