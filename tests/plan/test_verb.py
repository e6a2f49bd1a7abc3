"""``salad-ds plan`` as a user meets it, and the page that is made from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from salad_ds.cli import main
from salad_ds.config import load_recipe
from salad_ds.errors import RecipeError
from salad_ds.plan import page
from salad_ds.plan.choose import choose
from salad_ds.plan.estimate import Question, estimate, micro_batch_of
from salad_ds.plan.hardware import cluster, gpus
from salad_ds.plan.limits import limits, size
from salad_ds.plan.zero import read_zero

RECIPES = Path(__file__).parents[2] / "salad_ds/recipes"


def question(gpu: str = "h200", nodes: int = 1, overrides: tuple[str, ...] = (), mfu: float = 0.4) -> Question:
    recipe = load_recipe(RECIPES / "salad-3b.yaml", ["workdir=/nonexistent", *overrides])
    return Question(recipe, "stage1", cluster(nodes, 8, gpu), mfu)


def test_a_plan_fits_a_screen_and_writes_nothing(capsys, tmp_path):
    work = tmp_path / "work"
    assert main(["plan", str(RECIPES / "salad-3b.yaml"), "--nodes", "8", f"workdir={work}"]) == 0
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert len(lines) <= 55 and max(map(len, lines)) <= 120
    for part in ("64 GPUs", "Memory per GPU", "optimizer", "Configs of ds_configs/", "positions/s", "all-gather",
                 "teacher store", "checkpoint", "What gives out first"):  # fmt: skip
        assert part in told
    assert not work.exists()
    out = tmp_path / "plan.txt"
    assert main(["plan", str(RECIPES / "salad-3b.yaml"), "--nodes", "8", "--out", str(out), f"workdir={work}"]) == 0
    assert out.read_text() == capsys.readouterr().out == told


@pytest.mark.parametrize(("wrong", "what", "mend"), [
    (["--gpu", "h20"], "no figures for the GPU 'h20'", "did you mean 'h200'?"),
    (["--mfu", "40"], "--mfu is 40", "0.3 to 0.5"),
    (["--nodes", "0"], "--nodes is 0", "1 or more"),
    (["--stage", "stage3"], "no stage 'stage3'", "stage1, stage2"),
    (["--storage", "0"], "--storage is 0", "positive"),
    (["--nodes", "9"], "which 72 GPUs cannot share", "take 64 GPUs"),
    (["model.llm=Nobody/nothing"], "not at hand", "Qwen/Qwen2.5-3B"),
    (["stages.stage1.deepspeed=ds_configs/zero9.json"], "zero9.json does not exist", "ds_configs/"),
])  # fmt: skip
def test_what_is_wrong_is_named_with_its_mend(wrong, what, mend, capsys):
    assert main(["plan", str(RECIPES / "salad-3b.yaml"), *wrong]) == 1
    told = capsys.readouterr().err
    assert what in told and mend in told and "Traceback" not in told


def test_what_does_not_fit_says_what_would():
    wide = ("model.gradient_checkpointing=false",)
    small = choose(question("rtx4090", overrides=wide))
    assert small.best is None and "with zero" in small.mend
    config = read_zero(f"ds_configs/{small.mend.rsplit('with ', 1)[1]}")
    nodes = int(found[1]) if (found := re.search(r"--nodes (\d+)", small.mend)) else 1
    changes = tuple(word for word in small.mend.split() if "=" in word)
    assert estimate(question("rtx4090", nodes, wide + changes), config).fits
    fitting = choose(question())
    assert fitting.best is not None and fitting.best.fits and fitting.mend == ""
    assert fitting.best.speed.step == min(plan.speed.step for plan in fitting.plans)


def test_figures_follow_from_each_other():
    slow, fast = (estimate(question(mfu=mfu), read_zero("ds_configs/zero3.json")) for mfu in (0.2, 0.4))
    assert slow.speed.step == pytest.approx(2 * fast.speed.step)
    assert fast.speed.positions == pytest.approx(fast.positions / fast.speed.step)
    needed = fast.operations.total * fast.speed.positions / (8 * gpus()["h200"].flops)
    assert needed == pytest.approx(0.4)  # what an MFU is
    more = estimate(question(nodes=8), read_zero("ds_configs/zero3.json"))
    assert more.speed.step == pytest.approx(fast.speed.step / 8) and more.passes == fast.passes / 8
    assert more.memory.standing["optimizer"] == pytest.approx(fast.memory.standing["optimizer"] / 8)
    offloaded = estimate(question(), read_zero("ds_configs/zero3_offload.json"))
    assert offloaded.memory.peak < fast.memory.peak and offloaded.speed.step > fast.speed.step
    assert all(one.share > 0 for one in limits(fast))


def test_a_store_costs_the_student_nothing_and_a_live_teacher_does():
    config = read_zero("ds_configs/zero3.json")
    live = estimate(question(), config)
    stored = estimate(question(overrides=("teacher.mode=store",)), config)
    sharded = estimate(question(overrides=("teacher.placement=sharded",)), config)
    assert live.operations.teacher > 0 == stored.operations.teacher
    assert "live teacher" not in stored.memory.standing
    assert sharded.memory.standing["live teacher"] == pytest.approx(live.memory.standing["live teacher"] / 8)


def test_rows_are_shared_evenly():
    stage = question().settings
    assert [micro_batch_of(stage, ranks) for ranks in (8, 64, 256, 512)] == [4, 4, 2, 1]
    with pytest.raises(RecipeError, match="cannot share"):
        micro_batch_of(stage, 1024)


def test_sizes_have_units():
    assert [size(value) for value in (0, 999, 1e3, 2.5e9, 9.996e11, 3e15)] == [
        "0 B", "999 B", "1 kB", "2.5 GB", "1 TB", "3 PB"]  # fmt: skip


def test_the_page_is_the_one_that_is_made():
    assert page.PAGE.read_text() == page.page(), "python -m salad_ds.plan.page --write"
