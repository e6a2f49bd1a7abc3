"""A fresh student starts from an adapter that was trained before, or is told why it cannot."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from salad_ds.config import AdapterConfig, EncoderConfig, ModelConfig
from salad_ds.errors import RecipeError
from salad_ds.model.adapter_weights import (
    PUBLISHED,
    SHELF,
    adapter_identity,
    find_adapter,
    model_identity,
    read_adapter,
)
from salad_ds.model.build import build_student
from tests.model.listening import mimi_dir  # noqa: F401

ADAPTER = AdapterConfig(layers=1, width=32, mlp=48, heads=4, kv_heads=2, stack=3)


@pytest.fixture(scope="module")
def config(tiny_llm_dir, mimi_dir) -> ModelConfig:  # noqa: F811
    return ModelConfig(llm=str(tiny_llm_dir), encoder=EncoderConfig(kind="mimi", name=str(mimi_dir)), adapter=ADAPTER)


@pytest.fixture(scope="module")
def saved(config, tmp_path_factory):  # noqa: ANN201
    """A saved student whose adapter is like no fresh one: (its directory, it)."""
    out = tmp_path_factory.mktemp("students") / "student"
    model, tokenizer = build_student(config)
    with torch.no_grad():
        for parameter in model.adapter.parameters():
            parameter.add_(0.5)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out, model


def test_the_adapter_is_that_of_the_student_and_nothing_else_is(config, saved):
    where, trained = saved
    model, _ = build_student(replace(config, adapter_weights=str(where)))
    fresh, _ = build_student(config)
    own, theirs, new = (one.adapter.state_dict() for one in (model, trained, fresh))
    assert all(torch.equal(own[name], theirs[name]) and not torch.equal(own[name], new[name]) for name in own)
    assert all(torch.equal(a, b) for a, b in zip(model.llm.parameters(), fresh.llm.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in model.adapter.parameters())


def test_half_precision_is_half_the_bytes_and_nearly_the_same(config, saved, tmp_path):
    """What is published: float16, the weights of the adapter alone."""
    where, trained = saved
    shutil.copy(where / "config.json", tmp_path)
    weights = {f"adapter.{name}": value.half() for name, value in read_adapter(where).items()}
    save_file(weights, tmp_path / "model.safetensors")
    model, _ = build_student(replace(config, adapter_weights=str(tmp_path)))
    for name, value in model.adapter.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, trained.adapter.state_dict()[name], rtol=2**-10, atol=1e-6)


def test_a_student_is_another_one_with_other_adapter_weights_wherever_they_lie(config, saved, tmp_path):
    where, _ = saved
    shutil.copytree(where, tmp_path / "copy")
    plain, first, second = (model_identity(replace(config, adapter_weights=weights))
                            for weights in (None, str(where), str(tmp_path / "copy")))
    assert first == second != plain and "adapter_weights" not in plain
    file = tmp_path / "copy/model.safetensors"
    weights = load_file(file)
    weights["adapter.project_in.bias"][0] += 1e-3
    save_file(weights, file)
    assert adapter_identity(str(tmp_path / "copy")) != adapter_identity(str(where))


@pytest.mark.parametrize(("change", "told"), [
    ({"layers": 2}, "model.adapter.layers is 2, not 1.*mend: set model.adapter.layers=1"),
    ({"stack": 4, "mlp": 64}, "model.adapter.stack=3"),
])  # fmt: skip
def test_another_kind_of_adapter_is_named_with_what_to_set(config, saved, change, told):
    other = replace(config, adapter=replace(ADAPTER, **change), adapter_weights=str(saved[0]))
    with pytest.raises(RecipeError) as error:
        build_student(other)
    assert re.search(told, f"{error.value} mend: {error.value.mend}")


def test_what_cannot_be_read_is_named(config, saved, tmp_path):
    for reference in (str(tmp_path / "nowhere"), "published:nothing", config.llm):
        with pytest.raises(RecipeError, match="no adapter lies"):
            build_student(replace(config, adapter_weights=reference))
    shutil.copytree(saved[0], tmp_path / "torn")
    file = tmp_path / "torn/model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RecipeError, match="cannot be read"):
        build_student(replace(config, adapter_weights=str(tmp_path / "torn")))
    shutil.copytree(saved[0], tmp_path / "lacking")
    file = tmp_path / "lacking/model.safetensors"
    weights = load_file(file)
    del weights["adapter.project_in.bias"]
    save_file(weights, file)
    with pytest.raises(RecipeError, match="damaged.*project_in.bias"):
        build_student(replace(config, adapter_weights=str(tmp_path / "lacking")))


@pytest.mark.parametrize("told", [[1, 2], {"adapter": None, "encoder": {}, "text_config": {}}, {"adapter": {}}])
def test_a_config_that_is_no_students_is_no_adapter(saved, tmp_path, told):
    shutil.copytree(saved[0], tmp_path / "student")
    (tmp_path / "student/config.json").write_text(json.dumps(told))
    with pytest.raises(RecipeError, match="no adapter lies"):
        find_adapter(str(tmp_path / "student"))


def test_a_home_directory_is_found(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(saved[0], tmp_path / "student")
    assert find_adapter("~/student") == tmp_path / "student"


def test_an_llm_whose_config_calls_its_width_otherwise(config, tmp_path, tiny_llm_dir):
    """GPT-2's has n_embd, and no hidden_size."""
    GPT2LMHeadModel(GPT2Config(vocab_size=49152, n_embd=32, n_layer=1, n_head=2)).save_pretrained(tmp_path / "llm")
    AutoTokenizer.from_pretrained(tiny_llm_dir).save_pretrained(tmp_path / "llm")
    own = replace(config, llm=str(tmp_path / "llm"), attention="eager")
    model, _ = build_student(own)
    model.save_pretrained(tmp_path / "student")
    again, _ = build_student(replace(own, seed=1, adapter_weights=str(tmp_path / "student")))
    assert torch.equal(again.adapter.scale_out.weight, model.adapter.scale_out.weight)
    assert torch.equal(again.adapter.project_in.weight, model.adapter.project_in.weight)


def test_an_llm_of_another_width_is_named(config, saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "wide")
    file = tmp_path / "wide/model.safetensors"
    weights = load_file(file)
    for name in ("adapter.project_out.weight", "adapter.scale_out.weight"):
        weights[name] = torch.cat([weights[name]] * 2)
    save_file(weights, file)
    with pytest.raises(RecipeError, match="is for an LLM of width"):
        build_student(replace(config, adapter_weights=str(tmp_path / "wide")))


@pytest.mark.parametrize("config_file", sorted(SHELF.glob("*/config.json")), ids=lambda path: path.parent.name)
def test_what_is_published_is_small_and_says_what_it_is_for(config_file):
    directory = find_adapter(f"published:{config_file.parent.name}")
    told, weights = json.loads(config_file.read_text()), read_adapter(directory)
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert all(bool(value.isfinite().all()) for value in weights.values())
    assert sum(path.stat().st_size for path in directory.iterdir()) < 8e6
    card = (directory / "README.md").read_text()
    assert f"layers: {told['adapter']['layers']}" in card and f"{PUBLISHED}{directory.name}" in card
    assert "| M with silence |" in card
