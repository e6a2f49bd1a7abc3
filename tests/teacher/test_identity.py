"""Two models never share a name, one model keeps its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from salad_ds.errors import AssetError
from salad_ds.files import sha256_file
from salad_ds.teacher import identity
from salad_ds.teacher.identity import teacher_identity


@pytest.fixture
def copy(tiny_llm_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llm_dir, tmp_path / "copy"))


def edit(directory: Path, **keys: object) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | keys))


def test_the_name_is_readable_and_follows_the_bytes(tiny_llm_dir: Path, copy: Path) -> None:
    name = teacher_identity(tiny_llm_dir)
    assert name.startswith("LlamaForCausalLM-32x2-") and len(name.split("-")[-1]) == 12
    assert teacher_identity(copy) == name == teacher_identity(str(copy))
    edit(copy, transformers_version="99", dtype="bfloat16")
    assert teacher_identity(copy) == name
    edit(copy, rms_norm_eps=1e-3)
    assert teacher_identity(copy) != name


def test_one_changed_weight_is_another_teacher(tiny_llm_dir: Path, copy: Path) -> None:
    name = teacher_identity(copy)
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert teacher_identity(copy) != name


def test_weights_are_hashed_once(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALAD_DS_HOME", str(tmp_path / "home"))
    read = []
    monkeypatch.setattr(identity, "sha256_file", lambda path: read.append(path) or sha256_file(path))
    assert teacher_identity(copy) == teacher_identity(copy)
    assert len(read) == 1


def test_what_is_not_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="is not a model"):
        teacher_identity(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AssetError, match="no weight files"):
        teacher_identity(tmp_path)
    with pytest.raises(AssetError, match="neither a model directory nor a hub model"):
        teacher_identity("nobody/no-such-model-here")
