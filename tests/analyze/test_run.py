"""From runs of known parameters to tables, figures and a page; and from real trainings that are too few."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from salad_ds.analyze.run import analyze, analyze_command
from salad_ds.config import load_recipe
from salad_ds.evaluate.run import evaluate_checkpoint
from salad_ds.measure.run import measure_checkpoint
from tests.train.conftest import decided_teacher, prepared  # noqa: F401
from tests.train.launch import forked

LAW = (0.13, 0.3, 0.5)
"""E, B at the unit below, β."""
UNIT = 1e6
SPOKEN, WRITTEN = (0.35, -0.12), (0.7, -4.0)
"""Intercept and slope: of spoken accuracy on log M, of written accuracy on F."""
NOISE = 0.008
"""Of accuracies."""
STEPS = {0: 0.0} | {10 * 2**i: 1e5 * 2.5**i for i in range(7)}


def law(data):
    e, b, beta = LAW
    return e + b * (np.asarray(data, float) / UNIT) ** -beta


@pytest.fixture(scope="module")
def made(work, tmp_path_factory):
    """Two stores. One: ten runs that differ in their amount of data and seeds, and one beside them whose measurement
    and answers, far away from the others', did not end. The other: a training with probes, and one that was killed."""
    place, random = tmp_path_factory.mktemp("made"), np.random.default_rng(3)
    uri = f"sqlite:///{place}/shared.db"
    for i in range(10):
        data = 1e5 * 3 ** (i // 2)
        m, f = float(law(data) + random.normal(0, 0.004)), float(random.uniform(0.005, 0.05))
        text, speech = WRITTEN[0] + WRITTEN[1] * f, SPOKEN[0] + SPOKEN[1] * np.log(m)
        tasks = {name: (text + random.normal(0, NOISE) + up, speech + random.normal(0, NOISE) + up)
                 for name, up in (("cloze", 0.0), ("open", -0.1))}  # fmt: skip
        one = work(place / f"run{i}", uri, steps=100 * (i // 2 + 1), seed=i % 2)
        one.train(data).measure(m, f).evaluate(tasks)
    dead = work(place / "dead", uri, steps=333).train(4e5)
    dead.measure(9.0, 5.0, killed=True).evaluate({"cloze": (0.0, 1.0)}, killed=True)
    probes = {step: (data, float(law(data) + random.normal(0, 0.005)) if data else 3.0, 0.005)
              for step, data in STEPS.items()}  # fmt: skip
    work(place / "curve", steps=640).train(probes[640][0], probes)
    work(place / "cut", steps=640).train(1e6, {step: (data, 7.0, 0.01) for step, (data, *_) in probes.items()},
                                         killed=True)  # fmt: skip
    return place, [uri, str(place / "curve"), str(place / "cut")]


@pytest.fixture(scope="module")
def analysed(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("analysis")
    return out, analyze(made[1], out)


def held(row, name, truth):
    return row[f"{name}_low"] <= truth <= row[f"{name}_high"]


def test_the_laws_come_back_within_their_intervals(analysed):
    curve, cut, group = sorted(analysed[1]["laws"].to_pylist(), key=lambda row: row["label"] != "curve/stage1")[:3]
    assert (curve["kind"], curve["points"], curve["why"]) == ("training curve", 7, "")
    assert (group["kind"], group["points"], group["items"]) == ("runs", 10, 62)
    for row in (curve, group):
        e, b, beta = LAW
        assert held(row, "e", e) and held(row, "b", b * (row["unit"] / UNIT) ** -beta) and held(row, "beta", beta), row
        assert row["r2"] > 0.99 and row["beta_high"] - row["beta_low"] < 0.25
    assert cut["label"] == "cut/stage1" and cut["beta"] is None and cut["r2"] is None
    assert cut["why"] == "its run did not end (KILLED): left out"


def test_the_regressions_come_back_and_what_did_not_end_is_not_among_them(analysed):
    rows = {(row["task"], row["accuracy"], row["predictors"]): row for row in analysed[1]["regressions"].to_pylist()}
    assert len(rows) == 3 * 6 and all(row["runs"] == 10 and row["why"] == "" for row in rows.values())
    runs = [row for row in analysed[1]["runs"].to_pylist() if row["work"].startswith("run")]
    log_m, f = np.log([row["misalignment"] for row in runs]), np.array([row["forgetting"] for row in runs])
    for task in ("cloze", "open"):
        slope, intercept = np.polyfit(log_m, [row[f"{task}_speech"] for row in runs], 1)
        found = rows[task, "speech", "log M"]
        assert (found["log_m"], found["intercept"]) == pytest.approx((slope, intercept), rel=1e-9)
    for task, up in (("cloze", 0.0), ("open", -0.1), ("mean over tasks", -0.05)):
        spoken, written = rows[task, "speech", "log M"], rows[task, "text", "F"]
        # Errors of slopes from the noise that was put in: with so few runs the estimated ones are themselves uncertain.
        error_m, error_f = (NOISE / values.std() / len(values) ** 0.5 for values in (log_m, f))
        assert spoken["log_m"] == pytest.approx(SPOKEN[1], abs=4 * error_m)
        assert spoken["intercept"] == pytest.approx(SPOKEN[0] + up, abs=0.03)
        assert written["f"] == pytest.approx(WRITTEN[1], abs=4 * error_f)
        assert min(spoken["loo_r2"], written["loo_r2"]) > 0.8
        assert (spoken["paper_loo_r2"], written["paper_loo_r2"]) == (0.75, 0.74)
        both = rows[task, "speech", "log M, F"]
        assert both["partial_r2_log_m"] > 0.8 > 0.6 > both["partial_r2_f"]
        assert (both["paper_partial_r2_log_m"], both["paper_partial_r2_f"]) == (0.56, None)
        assert rows[task, "text", "log M, F"]["paper_partial_r2_f"] == 0.32
    assert rows["cloze", "speech", "log M"]["partial_r2_log_m"] is None


def test_every_number_has_its_count_and_the_dead_are_listed(analysed):
    tables = analysed[1]
    (dead,) = (row for row in tables["runs"].to_pylist() if row["work"] == "dead")
    assert (dead["misalignment"], dead["items"], dead["measured"]) == (9.0, 62, "KILLED")
    assert (dead["cloze_text"], dead["cloze_items"], dead["cloze_of"], dead["cloze_status"]) == (None, 0, 400, "KILLED")
    alive = tables["runs"].to_pylist()[0]
    assert (alive["cloze_items"], alive["cloze_of"], alive["passed_over"], alive["steps"]) == (390, 400, 2, 100.0)
    told = {(row["work"], row["stage"]): row["told"] for row in tables["unfinished"].to_pylist()}
    assert told == {("dead", "measure-stage1"): "62 utterances", ("dead", "evaluate-stage1"): "cloze: 0 of 400 items",
                    ("cut", "stage1"): "640 of 640 steps"}  # fmt: skip


def test_figures_and_page_are_whole_and_the_same_again(analysed, made, tmp_path, capsys):
    out, tables = analysed
    names = ["accuracy-cloze.png", "accuracy-mean-over-tasks.png", "accuracy-open.png", "laws.png"]
    assert sorted(path.name for path in out.glob("*.png")) == names
    for name in names:
        with Image.open(out / name) as picture:
            assert picture.width > 1000 and len(picture.convert("RGB").resize((200, 100)).getcolors(20000)) > 50
    page = tables["page"].read_text()
    assert page.count('<svg class="plot wide"') == 4 and "script" not in page.split("</style>")[1]
    for text in ("dead/measure-stage1", "390 of 400", "62, KILLED", "its run did not end (KILLED): left out", "0.75"):
        assert text in page, text
    analyze_command(made[1], tmp_path)
    for path in out.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    printed = capsys.readouterr().out
    assert "curve/stage1 (training curve)" in printed and "dead/evaluate-stage1" in printed
    assert (tmp_path / "index.html").as_uri() in printed


def test_other_questions_and_other_speech_stand_apart(work, tmp_path):
    uri, random = f"sqlite:///{tmp_path}/all.db", np.random.default_rng(0)
    for i in range(7):
        m, f = random.uniform(0.1, 2), random.uniform(0, 0.1)
        one = work(tmp_path / f"r{i}", uri, speech="one" if i < 5 else "two", steps=i + 1).train(100 * (i + 1))
        one.measure(m, f, student="shared" if i in (3, 4) else "")
        one.evaluate({"cloze": (0.6 - f, 0.5 - 0.1 * np.log(m))}, student="shared" if i in (3, 4) else "")
    tables = analyze([uri], tmp_path / "out")
    rows = [row for row in tables["regressions"].to_pylist() if row["predictors"] == "log M, F"]
    assert [(row["accuracy"], row["runs"]) for row in rows] == [("speech", 4), ("text", 4), ("speech", 2), ("text", 2)]
    assert {row["why"] for row in rows} == {"4 runs for 3 parameters: give 5 or more",
                                            "2 runs for 3 parameters: give 5 or more"}  # fmt: skip
    laws = tables["laws"].to_pylist()
    assert [(row["points"], row["why"] != "") for row in laws] == [(4, False), (2, True)]
    assert laws[1]["why"].startswith("2 different amounts of data")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_real_runs_that_are_too_few(prepared, decided_teacher, tmp_path):  # noqa: F811
    """Two trainings, one with probes, measured and asked: read as the stages themselves log."""
    works = [tmp_path / name for name in ("one", "two")]
    settings = ["measure.speech=speech/natural", "measure.items=4", "measure.batch=2", "tracking.enabled=true",
                f"model.llm={decided_teacher}", "teacher.mode=live", "stages.stage1.lr_llm=0.01",
                "stages.stage1.ranks=1", "stages.stage1.probe_items=4", "synth.asr=''", "synth.workers=1",
                "evaluate.tasks=[{name: wordnet, items: 3, shots: 0}]", "evaluate.models=[base,student]"]  # fmt: skip
    lengths = [(["stages.stage1.steps=5", "stages.stage1.probe_every=1"]), ["stages.stage1.steps=3"]]
    for place, own in zip(works, lengths, strict=True):
        shutil.copytree(load_recipe(prepared).path("."), place)
        forked(1, "salad_ds", "train", prepared, f"workdir={place}", *settings, *own, log=tmp_path / "log")
        recipe = load_recipe(prepared, [f"workdir={place}", *settings, *own])
        measure_checkpoint(recipe, "stage1")
        evaluate_checkpoint(recipe, "stage1")
    tables = analyze([str(place) for place in works], tmp_path / "out")
    first, second = tables["runs"].to_pylist()
    assert first["targets_seen"] > second["targets_seen"] > 0 and first["positions_seen"] > first["targets_seen"]
    assert (first["measured"], first["items"], first["trained"]) == ("FINISHED", 4, "FINISHED")
    assert first["misalignment_se"] > 0 and first["alike"] == second["alike"] and first["alpha"] == pytest.approx(0.9)
    curve, group = tables["laws"].to_pylist()
    assert curve["points"] == 5 and curve["beta"] is not None and curve["why"] == ""
    assert group["points"] == 2 and group["beta"] is None and group["why"].startswith("2 different amounts of data")
    points = pq.read_table(tmp_path / "out/points.parquet").to_pylist()
    assert points[4]["targets_seen"] == first["targets_seen"]
    assert points[4]["misalignment"] == pytest.approx(first["misalignment"], rel=1e-3)
    assert (first["wordnet_items"], first["wordnet_of"], first["wordnet_status"]) == (3, 3, "FINISHED")
    assert 0 <= first["wordnet_speech"] <= 1 and first["wordnet_questions"] != ""
    rows = tables["regressions"].to_pylist()
    assert len(rows) == 6 and {row["loo_r2"] for row in rows} == {None} and {row["runs"] for row in rows} == {2}
    assert rows[0]["why"] == "2 runs for 2 parameters: give 4 or more"
