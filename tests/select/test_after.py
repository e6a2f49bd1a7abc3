"""M after Stage II: the same probes, the same speech, another student; and what the pairs say."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from salad_ds.config import Recipe, SelectConfig, SourceConfig, TrainConfig
from salad_ds.errors import CheckpointError, DataError
from salad_ds.files import write_json
from salad_ds.measure import divergences
from salad_ds.select import after
from salad_ds.select.after import finish, measured_after, paired, remeasure
from salad_ds.select.probe import probe_speech
from salad_ds.select.run import select
from salad_ds.select.stages import precedes_selection, stages_on_selection
from salad_ds.table import read_table


@settings(max_examples=60)
@given(st.integers(2, 30), st.integers(0, 99))
def test_the_paired_change_of_equal_lengths_is_the_paired_t_test(n, seed):
    random = np.random.default_rng(seed)
    before, later = random.gamma(3, 0.3, n), random.gamma(3, 0.2, n)
    found = paired(before.tolist(), later.tolist(), [20] * n)
    wanted = stats.ttest_rel(later, before)
    low, high = wanted.confidence_interval(0.95)
    assert found.mean == pytest.approx((later - before).mean()) and found.n == n
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.error == pytest.approx(float((later - before).std(ddof=1) / math.sqrt(n)))
    assert found.before["mean"] == pytest.approx(before.mean()) and found.after["mean"] == pytest.approx(later.mean())


def test_long_utterances_weigh_more_and_few_have_no_interval():
    found = paired([1.0, 2.0], [0.5, 2.0], [30, 10])
    assert found.mean == pytest.approx(-0.5 * 30 / 40) and found.before["mean"] == pytest.approx(50 / 40)
    alone = paired([1.0], [0.5], [7])
    assert alone.mean == -0.5 and math.isnan(alone.error) and math.isnan(alone.low)
    assert paired([], [], []) is None


def test_which_stages_train_on_the_selection(tmp_path):
    sources = {"one": [("speech", "speech/natural")], "two": [("speech", "stage2/speech"), ("text", "t")],
               "three": [("text", "stage2/speech")], "four": [("speech", str(tmp_path / "stage2/speech"))]}
    recipe = Recipe(name="t", workdir=str(tmp_path), select=SelectConfig(text="t"), stages={
        name: TrainConfig(sources=[SourceConfig(kind=kind, path=path) for kind, path in own])
        for name, own in sources.items()})
    assert stages_on_selection(recipe) == ["two", "four"]
    names = ("init", "one", "two", "three", "elsewhere")
    assert [precedes_selection(recipe, name) for name in names] == [True, True, False, False, False]
    recipe.select.text = ""
    assert stages_on_selection(recipe) == [] and not precedes_selection(recipe, "init")


@pytest.mark.assets
def test_the_probes_are_measured_again_with_the_trained_student(measured, tables):
    recipe, table = measured
    rows, probes = table.to_pylist(), [row for row in tables("probes") if row["m"] is not None]
    assert [(row["key"], row["cluster"], row["tokens"]) for row in rows] == \
        [(row["key"], row["cluster"], row["tokens"]) for row in probes]
    assert all(row["m"] > 0 for row in rows)
    room = recipe.path("stage2/selection")
    speech = probe_speech(room, read_table(room / "probes.parquet")[1])

    def m_of(stage):
        rows = divergences.misalignment_of_shards(recipe, recipe.path(stage) / "model", speech)
        return {row["key"]: row["m"] for row in rows}

    anew, first = m_of("stage2"), m_of("stage1")
    assert {row["key"]: row["m"] for row in rows} == pytest.approx(anew)
    # The same function with the student of before says what probes.parquet says: the pairs are pairs.
    assert {row["key"]: row["m"] for row in probes} == pytest.approx(first)
    assert any(abs(first[key] - anew[key]) > 0.01 * first[key] for key in first), "the other student is another one"


@pytest.mark.assets
def test_what_is_done_is_left_and_a_lost_table_comes_back(measured, monkeypatch):
    recipe, _ = measured
    path = recipe.path("stage2/selection/probes-stage2.parquet")
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    remeasure(recipe, "stage2")
    assert path.stat().st_mtime_ns == stamp
    path.unlink()
    remeasure(recipe, "stage2")
    assert path.read_bytes() == before


@pytest.mark.assets
def test_a_measurement_of_another_draw_is_not_taken_for_this_one(measured):
    recipe, _ = measured
    assert measured_after(recipe)[0] == "stage2"
    recipe.select.budget_items += 1
    try:
        select(recipe, quiet=True)
        assert measured_after(recipe) is None
    finally:
        recipe.select.budget_items -= 1
        select(recipe, quiet=True)
    assert measured_after(recipe)[0] == "stage2"


@pytest.mark.assets
def test_a_stage_that_is_not_trained_on_this_selection_is_not_measured(measured, monkeypatch):
    """``finish`` asks the stage's own mark what it was trained on."""
    from salad_ds.train.loop import stage_digest

    recipe, _ = measured
    recipe.stages.pop("stage1", None)  # its speech does not exist here
    called = []
    monkeypatch.setattr(after, "remeasure", lambda _, stage: called.append(stage))
    mark = recipe.path("stage2/done.json")
    try:
        assert finish(recipe) == recipe.path("stage2/selection.html") and not called, "there is no mark at all"
        write_json(mark, {"digest": "of other settings"})
        finish(recipe)
        assert not called
        write_json(mark, {"digest": stage_digest(recipe, "stage2")})
        finish(recipe)
        assert called == ["stage2"]
    finally:
        mark.unlink(missing_ok=True)


@pytest.mark.assets
def test_what_is_missing_is_named(unmeasured, tmp_path):
    with pytest.raises(CheckpointError, match="--stage stage9"):
        remeasure(unmeasured, "stage9")
    with pytest.raises(DataError, match=r"probes\.parquet is missing"):
        remeasure(Recipe(name="t", workdir=str(tmp_path)), "stage2")
