"""Any checkpoint becomes the very files that training saves, read parameter by parameter."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from salad_ds.cli import main
from salad_ds.config import load_recipe
from salad_ds.errors import CheckpointError, RecipeError, SaladError
from salad_ds.export import run
from salad_ds.export.run import export
from salad_ds.model.build import build_student
from salad_ds.model.salad import load_student
from salad_ds.train.frozen import frozen_identity
from salad_ds.train.universal import convert
from tests.export.job import SITUATIONS

pytestmark = [pytest.mark.assets, pytest.mark.slow]
EXTRA = {"export.json", "README.md"}


def same_files(out: Path, saved: Path) -> None:
    """To the byte: weights, config, tokenizer, everything that both write."""
    for path in sorted(saved.iterdir()):
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    assert {path.name for path in out.iterdir()} == {path.name for path in saved.iterdir()} | EXTRA


@pytest.mark.parametrize("name", list(SITUATIONS))
def test_a_checkpoint_becomes_what_training_saved(checkpoints, tmp_path, name):
    recipe = load_recipe(checkpoints)
    same_files(export(recipe, name, str(tmp_path / "out")), recipe.path(name) / "model")


def test_a_universal_checkpoint_does_too(checkpoints, tmp_path):
    recipe = load_recipe(checkpoints)
    whole = recipe.path("zero3") / "checkpoints/step-00000001"
    universal = whole.with_name(whole.name + ".universal")
    assert convert(whole, universal) == ""
    same_files(export(recipe, str(universal), str(tmp_path / "out")), recipe.path("zero3") / "model")


def test_frozen_weights_that_are_others_now_are_not_joined(checkpoints, tmp_path, monkeypatch):
    """The mark tells beside what a checkpoint was trained; the LLM of another recipe may fit as well."""
    recipe = load_recipe(checkpoints)
    monkeypatch.setattr(run, "read_mark", lambda path: ("", {"frozen": frozen_identity(recipe, "zero3frozen")}, {}))
    export(recipe, "zero3frozen", str(tmp_path / "same"))
    monkeypatch.setattr(run, "read_mark", lambda path: ("", {"frozen": "of another LLM"}, {}))
    with pytest.raises(CheckpointError, match="frozen weights that are others now"):
        export(recipe, "zero3frozen", str(tmp_path / "other"))
    export(recipe, "zero3frozen", str(tmp_path / "adapter"), adapter=True)  # needs no LLM
    assert not (tmp_path / "other").exists()


def test_training_moved_the_weights(checkpoints):
    """Else every situation would agree with a student that was never trained."""
    recipe = load_recipe(checkpoints)
    trained = load_file(recipe.path("zero3") / "model/model.safetensors")
    base = load_file(Path(recipe.model.llm) / "model.safetensors")
    assert not torch.equal(trained["llm.model.layers.0.mlp.up_proj.weight"], base["model.layers.0.mlp.up_proj.weight"])


def test_another_dtype_and_small_files_hold_the_same_numbers(checkpoints, tmp_path, capsys):
    """Adapter and LLM are cast, the encoder is not; transformers reads the index."""
    recipe = load_recipe(checkpoints)
    command = ["export", str(checkpoints), "--checkpoint", "zero3", "--out", str(tmp_path / "out")]
    assert main([*command, "--dtype", "bfloat16", "--max-shard-size", "50KB"]) == 0
    out, files = tmp_path / "out", sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(files) > 2 and f"in {len(files)} files" in capsys.readouterr().out
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    trained = load_file(recipe.path("zero3") / "model/model.safetensors")
    assert index.keys() == trained.keys()
    for name, value in trained.items():
        with safe_open(out / index[name], "pt") as file:
            kept = file.get_tensor(name)
        assert torch.equal(kept, value if name.startswith("encoder.") else value.bfloat16()), name
    model, _ = load_student(str(out))
    assert torch.equal(model.adapter.project_in.bias, trained["adapter.project_in.bias"].bfloat16().float())
    assert main([*command, "--dtype", "bfloat16", "--max-shard-size", "50KB"]) == 0
    assert "exported before" in capsys.readouterr().out
    assert main([*command, "--dtype", "float16"]) == 1 and "holds something else" in capsys.readouterr().err


def test_a_saved_student_can_be_cast(checkpoints, tmp_path):
    recipe = load_recipe(checkpoints)
    student = recipe.path("zero3bf16") / "model"
    same_files(export(recipe, str(student), str(tmp_path / "same")), student)
    export(recipe, str(student), str(tmp_path / "wide"), "float32")
    wide, narrow = (load_file(path / "model.safetensors") for path in (tmp_path / "wide", student))
    assert {value.dtype for value in wide.values()} == {torch.float32}
    assert all(torch.equal(wide[name], narrow[name].float()) for name in narrow)


def test_an_interrupted_export_goes_on_and_appears_whole(checkpoints, tmp_path, monkeypatch):
    recipe, out = load_recipe(checkpoints), tmp_path / "out"
    written: list[str] = []
    real = run.write_tensors

    def twice(path, entries):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        real(path, entries)

    monkeypatch.setattr(run, "write_tensors", twice)
    with pytest.raises(KeyboardInterrupt):
        export(recipe, "zero2", str(out), shard_size="50KB")
    assert not out.exists()
    first, written[:] = list(written), []
    monkeypatch.setattr(run, "write_tensors", lambda path, entries: (written.append(path.name), real(path, entries)))
    export(recipe, "zero2", str(out), shard_size="50KB")
    assert len(first) == 2 and written and not set(first) & set(written), "finished files are kept"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    load_student(str(out))


def test_what_cannot_be_exported_is_named(checkpoints, tmp_path):
    recipe, out = load_recipe(checkpoints), str(tmp_path / "out")
    whole = recipe.path("zero2") / "checkpoints/step-00000001"
    damaged = tmp_path / "zero2/checkpoints/step-00000001"
    shutil.copytree(whole, damaged)
    next(damaged.glob("*rank_1*optim_states.pt")).unlink()
    for checkpoint, kind, fault in (("nowhere", CheckpointError, "neither a stage nor a directory"),
                                    (str(damaged), CheckpointError, "is missing"),
                                    (str(tmp_path), RecipeError, "no stage of the recipe")):  # fmt: skip
        with pytest.raises(kind, match=fault):
            export(recipe, checkpoint, out)
    (damaged / "complete.json").unlink()
    with pytest.raises(CheckpointError, match="the shards of 1 ranks, not of 2"):
        export(recipe, str(damaged), out)
    with pytest.raises(SaladError, match="shard size many"):
        export(recipe, "zero2", out, shard_size="many")
    other = dataclasses.replace(recipe.model, adapter=dataclasses.replace(recipe.model.adapter, layers=1))
    with pytest.raises(CheckpointError, match="the checkpoint has adapter.decoder.layers.1"):
        export(dataclasses.replace(recipe, model=other), str(whole), out)
    wider = dataclasses.replace(recipe.model, adapter=dataclasses.replace(recipe.model.adapter, mlp=64))
    with pytest.raises(CheckpointError, match="48.* in the checkpoint, .*64.* in the student"):
        export(dataclasses.replace(recipe, model=wider), str(whole), out)
    assert not Path(out).exists()


def test_the_adapter_alone_starts_another_student(checkpoints, tmp_path, capsys):
    """In half precision, with a card that says how, and no LLM beside it."""
    recipe = load_recipe(checkpoints)
    command = ["export", str(checkpoints), "--checkpoint", "zero3frozen", "--adapter", "--dtype", "float16"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors", *EXTRA}
    held = load_file(tmp_path / "out/model.safetensors")
    trained = load_file(recipe.path("zero3frozen") / "model/model.safetensors")
    assert held.keys() == {name for name in trained if name.startswith("adapter.")}
    assert all(torch.equal(value, trained[name].half()) for name, value in held.items())
    card = (tmp_path / "out/README.md").read_text()
    assert "which was frozen" in card and "adapter_weights:" in card
    model, _ = build_student(dataclasses.replace(recipe.model, adapter_weights=str(tmp_path / "out")))
    assert torch.equal(model.adapter.project_in.bias.half(), held["adapter.project_in.bias"])


def test_a_rate_of_0_leaves_a_part_as_it_was_and_out_of_the_checkpoint(checkpoints):
    recipe = load_recipe(checkpoints)
    fresh = build_student(recipe.model)[0].state_dict()
    for name, part in (("zero2frozen", "adapter."), ("zero3frozen", "adapter."), ("zero2llmalone", "llm.")):
        trained = load_file(recipe.path(name) / "model/model.safetensors")
        moved = {key.split(".")[0] + "." for key, value in trained.items() if not torch.equal(value, fresh[key])}
        assert moved == {part}, name
        for file in (recipe.path(name) / "checkpoints").rglob("*_model_states.pt"):
            assert all(key.startswith(part) for key in torch.load(file, weights_only=False)["module"]), file
        if part == "llm.":
            continue
        sizes = {one: sum(path.stat().st_size for path in (recipe.path(one) / "checkpoints").rglob("*.pt"))
                 for one in (name, name.removesuffix("frozen"))}
        assert sizes[name] < 0.5 * sizes[name.removesuffix("frozen")], sizes
