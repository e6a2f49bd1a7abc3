"""Which checkpoint is continued from, and which are refused or passed over."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from salad_ds.config import load_recipe
from salad_ds.errors import CheckpointError, RecipeError
from salad_ds.files import sha256_file, write_json
from salad_ds.train.checkpoint import MARK, SCHEMA, files_below, name_of, newest, prune
from salad_ds.train.loop import already_done, stage_digest, train


def make(directory: Path, step: int, digest: str = "d", ranks: int = 2) -> Path:
    target = directory / name_of(step)
    (target / "zero").mkdir(parents=True)
    for name in ("state.pt", "zero/shard.pt"):
        (target / name).write_bytes(name.encode() * 50)
    files = {name: [(target / name).stat().st_size, sha256_file(target / name)] for name in files_below(target)}
    write_json(target / MARK, {"schema": SCHEMA, "step": step, "recipe": digest, "ranks": ranks, "stream": [],
                               "files": files})  # fmt: skip
    return target


def test_the_newest_intact_one_is_taken_and_the_others_are_named(tmp_path):
    said: list[str] = []
    assert newest(tmp_path, "d", said.append) is None
    make(tmp_path, 2)
    good = make(tmp_path, 10)
    (tmp_path / f"{name_of(11)}.part").mkdir()
    (make(tmp_path, 12) / "state.pt").write_bytes(b"x" * 99)
    (make(tmp_path, 13) / "zero/shard.pt").unlink()
    flipped = make(tmp_path, 14) / "state.pt"
    flipped.write_bytes(b"X" + flipped.read_bytes()[1:])
    (make(tmp_path, 15) / MARK).write_text('{"schema": 2, "st')
    damaged: set[str] = set()
    found = newest(tmp_path, "d", said.append, damaged)
    assert damaged == {name_of(step) for step in (12, 13, 14, 15)}
    assert found is not None and found[0] == good and found[1]["step"] == 10
    reasons = ["not finished", "complete.json is missing or damaged", "state.pt is damaged: its checksum",
               "zero/shard.pt is missing", "state.pt has 99 bytes, not 400"]  # fmt: skip
    assert len(said) == len(reasons)
    for line, step, reason in zip(said, (11, 15, 14, 13, 12), reasons, strict=True):
        assert name_of(step) in line and reason in line, line


def test_pruning_keeps_what_can_be_loaded(tmp_path):
    """What a killed job left, universal copies and milestones among them."""
    good = make(tmp_path, 8)
    (tmp_path / f"{name_of(16)}.part").mkdir()
    (tmp_path / f"{name_of(8)}.universal").mkdir()
    latest = make(tmp_path, 10)
    make(tmp_path, 12)  # of a run that was given up
    prune(tmp_path, 10, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == [latest.name] and not good.exists()
    make(tmp_path, 12), make(tmp_path, 14)
    prune(tmp_path, 14, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name_of(12), name_of(14)]
    for step in (15, 16, 17):
        make(tmp_path, step)
    prune(tmp_path, 17, keep=1, keep_every=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name_of(12), name_of(16), name_of(17)]


def test_damaged_ones_do_not_count(tmp_path):
    """Those that are known to be, and those of which it can be seen without reading them."""
    whole = [make(tmp_path, step) for step in (2, 4, 6, 8)]
    (whole[1] / "state.pt").write_bytes(b"short")
    (whole[2] / MARK).unlink()
    prune(tmp_path, 8, keep=2, keep_every=2)
    assert sorted(tmp_path.iterdir()) == [whole[0], whole[3]]
    flipped = make(tmp_path, 10) / "state.pt"
    flipped.write_bytes(b"X" + flipped.read_bytes()[1:])
    damaged: set[str] = set()
    assert newest(tmp_path, "d", str, damaged)[0] == whole[3]
    latest = make(tmp_path, 12)
    prune(tmp_path, 12, keep=2, damaged=damaged)
    assert sorted(tmp_path.iterdir()) == [whole[3], latest]


def test_milestones_that_never_get_a_checkpoint_are_refused(prepared):
    load_recipe(prepared, ["stages.stage1.keep_every=4"])
    with pytest.raises(RecipeError, match="keep_every is 5, not a multiple of checkpoint_every 2"):
        load_recipe(prepared, ["stages.stage1.keep_every=5"])


def test_a_place_where_deepspeed_would_not_find_them_is_refused(prepared, tmp_path):
    with pytest.raises(RecipeError, match="DeepSpeed would not find the checkpoints"):
        train(load_recipe(prepared, [f"workdir={tmp_path}/a*b"]), "stage1")


def test_one_from_another_recipe_is_refused(tmp_path):
    make(tmp_path, 3, "theirs-and-more")
    with pytest.raises(CheckpointError, match="made by another recipe") as error:
        newest(tmp_path, "ours", print)
    assert "step-00000003" in error.value.what and "another workdir" in error.value.mend


def test_what_a_stage_depends_on_changes_its_digest_and_bookkeeping_does_not(prepared, tmp_path, tiny_llm_dir,
                                                                             tiny_untied_llm_dir):
    def digest(*overrides: str) -> str:
        return stage_digest(load_recipe(prepared, overrides), "stage1")

    base = digest()
    same = ("keep=9", "checkpoint_every=50", "ranks=1", "deepspeed=ds_configs/zero2.json", "log_every=7")
    assert {digest(f"stages.stage1.{override}") for override in same} == {base}
    different = (
        "stages.stage1.alpha=0.1",
        "stages.stage1.steps=7",
        "stages.stage1.seed=5",
        "data.context=64",
        "teacher.top_k=3",
        "model.adapter.layers=3",
    )
    assert len({digest(override) for override in different} | {base}) == len(different) + 1
    shutil.copytree(tiny_llm_dir, tmp_path / "llm")
    before = digest(f"teacher.llm={tmp_path / 'llm'}")
    shutil.copy(tiny_untied_llm_dir / "model.safetensors", tmp_path / "llm")  # another teacher in the same place
    assert digest(f"teacher.llm={tmp_path / 'llm'}") != before
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "done.json", {"digest": base})
    assert already_done(tmp_path, base) and not already_done(tmp_path, "other")
