"""The whole selection on real text, real speech, a real recogniser and a small student with random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from salad_ds.assets import resolve
from salad_ds.config import AdapterConfig, EncoderConfig, ModelConfig, Recipe, SelectConfig, SynthConfig, TrackingConfig
from salad_ds.data.shards import Sample, ShardSet, ShardWriter
from salad_ds.errors import CheckpointError, DataError, RecipeError
from salad_ds.measure.divergences import weights_identity
from salad_ds.select.probe import probed_from, table_of_items
from salad_ds.select.run import STEPS, report, select, selection_directory, synthesize_selected
from salad_ds.select.sample import draw, target
from salad_ds.select.steps import budget_of
from salad_ds.synth.speak import Job, engine_of
from salad_ds.table import read_table
from salad_ds.teacher import identity

pytestmark = pytest.mark.assets
DOMAINS = {"05": "animal", "15": "location", "18": "person"}
EACH = 24


def glosses():
    """(domain, definition of at least 12 words) from WordNet, EACH per domain."""
    path = next(Path(resolve("packaged:wordnet")).rglob("data.noun"))
    counts = dict.fromkeys(DOMAINS, 0)
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            number = line.split()[1] if line[0] != " " else ""
            if counts.get(number, EACH) < EACH:
                text = line.split("|", 1)[1].split(";")[0].strip()
                if 12 <= len(text.split()) <= 22 and text.replace(" ", "").isalpha():
                    counts[number] += 1
                    yield DOMAINS[number], text


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_llm_dir, whisper_dir):
    work = tmp_path_factory.mktemp("work")
    with ShardWriter(work / "text" / "wordnet", source="wordnet") as writer:
        for i, (domain, text) in enumerate(glosses()):
            writer.add(Sample(f"w{i:03d}", {"text": text, "domain": domain}))
    made = Recipe(name="t", workdir=str(work), synth=SynthConfig(workers=1, asr="packaged:whisper-tiny.en"),
                  tracking=TrackingConfig(enabled=False))
    made.model = ModelConfig(llm=str(tiny_llm_dir), encoder=EncoderConfig("whisper", str(whisper_dir)),
                             adapter=AdapterConfig(layers=1, width=32, mlp=64, heads=4, kv_heads=2, stack=4))
    made.data.text_words = made.data.speech_words = [2, 4]
    made.select = SelectConfig(text="text/wordnet", clusters=3, probe_items=3, gamma=2.0, max_cer=0.5, budget_items=20)
    return made


@pytest.fixture(scope="module")
def selected(recipe):
    """The recipe after one whole run."""
    from salad_ds.model.build import build_student

    with pytest.raises(CheckpointError, match="stage1"):
        select(recipe, quiet=True)
    student, tokenizer = build_student(recipe.model)
    student.save_pretrained(recipe.path("stage1/model"))
    tokenizer.save_pretrained(recipe.path("stage1/model"))
    select(recipe)
    return recipe


def tables(recipe):
    room = selection_directory(recipe)
    return {name: read_table(room / f"{name}.parquet")[0].to_pylist()
            for name in ("texts", "names", "probes", "clusters", "selected")}


def files(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*"))
            if path.is_file()}


def test_the_tables_say_what_was_done(selected):
    found = tables(selected)
    texts = ShardSet.open(selected.path("text/wordnet"))
    assert [row["key"] for row in found["texts"]] == [texts.entry(i).key for i in range(len(texts))]
    labels = np.array([row["cluster"] for row in found["texts"]])
    assert np.bincount(labels).tolist() == [row["size"] for row in found["names"]]
    assert all(21 <= row["size"] <= 26 and row["words"] and len(row["nearest"]) == 3 for row in found["names"])
    # WordNet's own domains are found again, by and large
    domains = np.array([row["domain"] for row in found["texts"]])
    assert sum(max(np.unique(domains[labels == c], return_counts=True)[1]) for c in range(3)) > 0.7 * len(texts)
    assert len(found["probes"]) == 9 and all(not row["rejected"] for row in found["probes"])
    assert all(row["m"] > 0 and row["tokens"] > 0 and row["seconds"] > 1 and row["heard"] for row in found["probes"])
    for row in found["clusters"]:
        own = [probe for probe in found["probes"] if probe["cluster"] == row["cluster"]]
        weighted = sum(probe["m"] * probe["tokens"] for probe in own) / sum(probe["tokens"] for probe in own)
        assert row["m"] == pytest.approx(weighted) and row["m_low"] < row["m"] < row["m_high"]
        assert row["cer"] == pytest.approx(np.mean([min(probe["cer"], 1) for probe in own]))
        assert row["drawn"] == sum(chosen["cluster"] == row["cluster"] for chosen in found["selected"])
    assert [row["p_target"] for row in found["clusters"]] == pytest.approx(target(
        np.array([row["p_web"] for row in found["clusters"]]), np.array([row["m"] for row in found["clusters"]]),
        np.array([bool(row["set_aside"]) for row in found["clusters"]]), 2.0, "active"))
    assert len({row["key"] for row in found["selected"]}) == len(found["selected"]) == 20


def test_a_second_run_makes_nothing_and_a_lost_table_comes_back_byte_for_byte(selected):
    room = selection_directory(selected)
    before = files(room)
    times = {path: path.stat().st_mtime_ns for path in room.rglob("*") if path.is_file() and path.name != ".lock"}
    select(selected, quiet=True)
    assert times == {path: path.stat().st_mtime_ns for path in times}
    for path in [*room.glob("*.parquet"), *room.glob("probe-*/*.rows.jsonl"), room / "embeddings.npy"]:
        path.unlink()
    select(selected, quiet=True)
    assert files(room) == before


def test_the_student_is_read_once_and_known_by_its_weights(selected, monkeypatch):
    student = selected.path("stage1/model")
    _, made_from = read_table(selection_directory(selected) / "probes.parquet")
    assert made_from["student"] == weights_identity(student)

    def read_again(path):
        raise AssertionError(f"{path} is hashed again")

    monkeypatch.setattr(identity, "sha256_file", read_again)
    select(selected, quiet=True)


def test_what_was_selected_is_spoken(selected):
    manifest = synthesize_selected(selected)
    rows = tables(selected)["selected"]
    assert manifest["samples"] == 20
    speech = ShardSet.open(selected.path("stage2/speech"))
    assert [speech.entry(i).key for i in range(20)] == [row["key"] for row in rows]
    assert speech.read(3).meta["cluster"] == rows[3]["cluster"] and speech.words(3)
    expected = sum(row["expected_seconds"] for row in rows)
    assert speech.seconds == pytest.approx(expected, rel=0.25), "the pace of the probes foretells the budget"


def test_only_the_draw_is_made_again_for_another_policy(selected, tmp_path):
    room = selection_directory(selected)
    probes = (room / "probes.parquet").stat().st_mtime_ns
    kept = selected.select.policy, selected.select.budget_items, selected.stages
    try:
        selected.select.policy = "uniform"
        clusters = select(selected, quiet=True).to_pylist()
        assert [row["p_target"] for row in clusters] == pytest.approx([row["p_web"] for row in clusters])
        assert (room / "probes.parquet").stat().st_mtime_ns == probes
        selected.select.budget_items = 0
        with pytest.raises(DataError, match="budget"):
            select(selected, quiet=True)
        selected.select.max_cer = -1.0
        selected.select.budget_items = 5
        with pytest.raises(DataError, match="set aside"):
            select(selected, quiet=True)
    finally:
        selected.select.policy, selected.select.budget_items, selected.stages = kept
        selected.select.max_cer = 0.5
    select(selected, quiet=True)


def test_wrong_settings_are_refused(selected, tmp_path):
    made = Recipe(name="t", workdir=selected.workdir)
    with pytest.raises(RecipeError, match=r"select\.text"):
        select(made)
    made.select.text = "stage2/speech"
    synthesize_selected(selected)
    with pytest.raises(RecipeError, match="holds speech"):
        select(made)
    with pytest.raises(RecipeError, match="no step 'draw'"):
        select(made, "draw")


def test_what_a_later_step_would_refuse_is_refused_before_any_work(selected, tmp_path):
    made = replace(selected, select=replace(selected.select, out=str(tmp_path / "fresh"), budget_items=0), stages={})
    with pytest.raises(DataError, match="budget"):
        select(made, quiet=True)
    made.select = replace(made.select, budget_items=5, clusters=3 * EACH + 1)
    with pytest.raises(RecipeError, match="clusters"):
        select(made, quiet=True)
    made.select = replace(made.select, clusters=3, checkpoint="nowhere")
    with pytest.raises(CheckpointError, match="nowhere"):
        select(made, quiet=True)
    assert not (tmp_path / "fresh").exists()


def test_probes_follow_what_is_measured_and_what_speaks(selected, monkeypatch):
    """Other spans, another teacher, a newer engine: each asks for other probes."""
    texts = ShardSet.open(selected.path("text/wordnet"))
    now = probed_from(selected, texts, [1])
    assert probed_from(selected, texts, [1]) == now
    other = replace(selected, data=replace(selected.data, speech_words=[3, 4]))
    assert probed_from(other, texts, [1]) != now
    teacher = replace(selected.teacher, llm=str(selected.path("stage1/model")))
    assert probed_from(replace(selected, teacher=teacher), texts, [1]) != now
    engine = engine_of(Job.of(selected.synth, None))
    aligned = replace(selected, align=replace(selected.align, min_score=0.3))
    assert probed_from(aligned, texts, [1]) == now, "this engine knows its words' times"
    monkeypatch.setattr(type(engine), "times_words", False)
    assert probed_from(aligned, texts, [1]) != probed_from(selected, texts, [1])
    monkeypatch.setattr(engine, "version", engine.version + ".1")
    assert probed_from(selected, texts, [1])["synth"] != now["synth"]


def test_a_lost_table_of_items_is_named(selected, tmp_path):
    (tmp_path / "speech").mkdir()
    with pytest.raises(DataError, match=r"items\.parquet is missing.*remove .*speech"):
        table_of_items(tmp_path / "speech")


def test_a_step_alone_makes_its_table_or_says_what_it_lacks(selected, capsys):
    room = selection_directory(selected)
    before = files(room)
    select(selected, "probe")
    assert "9 texts" in capsys.readouterr().out
    kept = vars(selected.select).copy()
    try:
        for step, changed, lacking in (("cluster", {"embed_dtype": "float16"}, "embed"),
                                       ("probe", {"clusters": 4}, "cluster"), ("sample", {"probe_items": 2}, "probe")):
            vars(selected.select).update(kept | changed)
            with pytest.raises(DataError) as error:
                select(selected, step)
            assert error.value.mend == f"run the step {lacking} first"
    finally:
        vars(selected.select).update(kept)
    for step, table in zip(STEPS, ("embeddings.npy", "texts.parquet", "probes.parquet", "clusters.parquet"),
                           strict=True):
        (room / table).unlink()
        select(selected, step)
        assert (room / table).read_bytes() == before[table]
    assert files(room) == before


def test_what_is_drawn_by_the_tables_of_a_real_run_matches_the_formula(selected):
    """The tables' own P_target and clusters, drawn by many seeds; texts are enough for no cluster to run out."""
    found = tables(selected)
    p = np.array([row["p_target"] for row in found["clusters"]])
    labels = np.repeat([row["cluster"] for row in found["texts"]], 50)
    chances = []
    for seed in range(40):
        counts = np.bincount(labels[draw(labels, p, seed, items=300)], minlength=3)
        chances.append(chisquare(counts, 300 * p).pvalue)
    assert kstest(chances, "uniform").pvalue > 1e-3


def test_budgets_by_precedence(selected, tmp_path):
    made = Recipe(name="t", workdir=str(tmp_path))
    made.select.text = "text"
    with pytest.raises(DataError, match="budget"):
        budget_of(made)
    made.select.budget_hours = 0.5
    assert budget_of(made) == {"seconds": 1800.0}
    made.select.budget_items = 7
    assert budget_of(made) == {"items": 7}


def test_a_cluster_that_is_set_aside_is_listed_with_the_reason(selected):
    kept = selected.select.max_cer
    rates = sorted(row["cer"] for row in tables(selected)["clusters"])
    try:
        selected.select.max_cer = (rates[1] + rates[2]) / 2
        clusters = select(selected, quiet=True)
    finally:
        selected.select.max_cer = kept
    aside = [row for row in clusters.to_pylist() if row["set_aside"]]
    assert [(row["cer"], row["set_aside"], row["drawn"]) for row in aside] == [(rates[2], "character error rate", 0)]
    lines = report(clusters).splitlines()
    assert sum("[set aside: character error rate]" in line for line in lines) == 1 and "1 set aside" in lines[-1]
    select(selected, quiet=True)


def test_where_every_cluster_is_set_aside_the_table_says_why(selected):
    kept = selected.select.max_cer
    try:
        selected.select.max_cer = -1.0
        for _ in range(2):  # what could not be drawn is not taken for done
            with pytest.raises(DataError, match="every cluster is set aside"):
                select(selected, quiet=True)
        rows = tables(selected)["clusters"]
        assert {row["set_aside"] for row in rows} == {"character error rate"} and not any(row["drawn"] for row in rows)
    finally:
        selected.select.max_cer = kept
    select(selected, quiet=True)
    assert sum(row["drawn"] for row in tables(selected)["clusters"]) > 0
