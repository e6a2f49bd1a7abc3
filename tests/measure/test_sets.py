"""Corpora, groups, ranks and interruptions: what a measurement says does not depend on how it was made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

from salad_ds.config import MeasureSetConfig, Recipe, SourceConfig, TrainConfig, load_recipe, plain
from salad_ds.data.shards import Sample, ShardSet, ShardWriter
from salad_ds.errors import DataError, RecipeError
from salad_ds.measure import sequences
from salad_ds.measure.divergences import divergences
from salad_ds.measure.groups import NONE, Groups
from salad_ds.measure.run import measure_checkpoint
from salad_ds.measure.sequences import NO_TARGET, Order, held_out, planner_for
from salad_ds.measure.spoken import SPOKEN_WORDS, shortened
from salad_ds.measure.statistics import QUANTITIES
from salad_ds.table import write_table
from salad_ds.text import start_token, tokenize
from tests.measure.naive import Naive
from tests.ports import held_port
from tests.train.launch import REPOSITORY, environment

TEXTS = [("the river rose in the night and the road to the village lay under water", "weather"),
         ("an enzyme is a protein that speeds up a reaction in a living cell", "science"),
         ("storms from the west brought rain and hail to every farm along the coast", "weather"),
         ("***", "nothing that can be spoken"),
         ("the two sides of the equation are equal when the variable is three", "science")]


@pytest.fixture
def texts_dir(tmp_path) -> Path:
    with ShardWriter(tmp_path / "texts", "by hand", made_from={}) as writer:
        for number, (text, domain) in enumerate(TEXTS):
            meta = {"schema": 1, "id": f"t{number}", "text": text, "source": "by hand", "domain": domain}
            writer.add(Sample(f"t{number}", meta))
    return tmp_path / "texts"


def rows(recipe: Recipe, checkpoint: str, name: str) -> list[dict]:
    lines = recipe.path(f"measure/{checkpoint}/{name}.rows.jsonl").read_text().splitlines()
    return [row for line in lines[1:] for row in json.loads(line)["rows"]]


def checkpoint_of(recipe: Recipe) -> str:
    (name,) = [path.stem for path in recipe.path("measure").glob("*.json")]
    return name


# ---- sets and groups


def test_sets_of_what_is_drawn_later_wait_for_it(recipe, student_dir, speech_dir, capsys):
    """``run`` measures init before the selection is made; a student that was trained on it cannot lack it."""
    stage = TrainConfig(sources=[SourceConfig(kind="speech", path="stage2/speech")])
    recipe.select.text, recipe.stages = "texts", {"later": stage}
    recipe.measure.sets = [MeasureSetConfig("all", str(speech_dir), 2, "drawn"),
                           MeasureSetConfig("own", "stage2/speech"), MeasureSetConfig("again", str(speech_dir), 2)]
    assert set(measure_checkpoint(recipe, "init")) == {"speech", "again"}
    assert "init: all, own passed over: nothing is drawn yet" in capsys.readouterr().out
    shutil.copytree(student_dir, recipe.path("later/model"))
    with pytest.raises(DataError, match="no text is drawn yet"):
        measure_checkpoint(recipe, "later")


def test_a_set_of_speech_is_measured_by_group(recipe, student_dir, speech_dir):
    """The same speech as the main set, in groups: their sums are those of their utterances, and together the whole."""
    recipe.measure.sets = [MeasureSetConfig("again", str(speech_dir), 0, "voice")]
    results = measure_checkpoint(recipe, str(student_dir))
    main, again, name = results["speech"], results["again"], checkpoint_of(recipe)
    assert json.loads(recipe.path(f"measure/{name}/again.json").read_text()) == json.loads(json.dumps(again))
    (voice,) = {ShardSet.open(speech_dir).read(i).meta["voice"] for i in range(6)}
    assert list(again["groups"]) == [voice] and again["groups"][voice] == again["overall"]
    for quantity in (*QUANTITIES, "misalignment_after_speech", "speech_gain_over_wrong", "items", "tokens"):
        assert again["overall"][quantity] == main[quantity]
    assert "utterances" not in again and [row["key"] for row in rows(recipe, name, "again")] == [
        row["key"] for row in main["utterances"]]  # fmt: skip
    assert again["skipped"] == main["skipped"] == {NO_TARGET: 1}


def test_a_set_of_text_is_read_whole_and_spoken(recipe, student, student_dir, decided_llm_dir, texts_dir):
    """F of every token of every text against float64; M of what could be spoken; by domain, with the counts."""
    recipe.measure.sets = [MeasureSetConfig("domains", str(texts_dir), 0, "domain")]
    recipe.measure.speech, recipe.synth.asr = "", "packaged:whisper-tiny.en"
    found = measure_checkpoint(recipe, str(student_dir))["domains"]
    assert found["kind"] == "text" and found["overall"]["items"] == 4 and found["reading"]["overall"]["items"] == 5
    naive, tokenizer = Naive(student[0], decided_llm_dir), student[1]
    sums = []
    with torch.no_grad():
        for text, domain in TEXTS:
            ids = tokenize(tokenizer, text, start_token(tokenizer)).ids
            q, p = naive.reading(naive.teacher, ids)[:-1], naive.reading(naive.student.llm, ids)[:-1]
            sums.append((domain, float((q.exp() * (q - p)).sum()), len(ids) - 1))
    for domain in (None, "weather", "science"):
        part = [one for one in sums if domain in (None, one[0])]
        told = found["reading"]["overall"] if domain is None else found["reading"]["groups"][domain]
        tokens = sum(count for _, _, count in part)
        assert told["tokens"] == tokens and told["items"] == len(part)
        assert told["forgetting"]["mean"] == pytest.approx(sum(kl for _, kl, _ in part) / tokens, rel=2e-4)
        assert told["forgetting"]["mean"] > 0.02
    spoken = {name: part["items"] for name, part in found["groups"].items()}
    assert spoken == {"science": 2, "weather": 2}
    assert 0 <= found["overall"]["cer"]["mean"] < 0.6 and 0 <= found["groups"]["science"]["cer"]["mean"] < 0.6
    overall = found["overall"]["misalignment"]["mean"] * found["overall"]["tokens"]
    parts = sum(part["misalignment"]["mean"] * part["tokens"] for part in found["groups"].values())
    assert parts == pytest.approx(overall) and overall > 0
    (speech,) = recipe.path("measure").glob("spoken-domains-*")
    before = (speech / "manifest.json").stat().st_mtime_ns
    recipe.measure.batch = 3  # not what is measured
    assert measure_checkpoint(recipe, str(student_dir))["domains"]["made_from"] == found["made_from"]
    for result in recipe.path("measure").rglob("domains.json"):
        result.unlink()
    again = measure_checkpoint(recipe, str(student_dir))["domains"]
    assert json.dumps(again) == json.dumps(found), "summed up anew from the rows that are there"
    assert (speech / "manifest.json").stat().st_mtime_ns == before


def test_clusters_are_those_of_the_selection(recipe, tmp_path):
    said = [text for text, _ in TEXTS[:3]]
    write_table(recipe.path("stage2/selection/texts.parquet"), {
        "text": (pa.string(), said), "cluster": (pa.int32(), [3, 10, 3])}, {})  # fmt: skip
    groups = Groups(recipe, "cluster")
    assert [groups.of("", {"text": f" {text} "}) for text in [*said, "unknown"]] == ["3", "10", "3", NONE]
    assert groups.of("", {"text": "unknown", "cluster": 7}) == "7", "what the metadata says counts"
    assert list(groups.made_from()) == ["clusters"] and Groups(recipe, "domain").made_from() == {}


def test_texts_that_the_selection_drew_are_told_from_those_it_left(recipe):
    with pytest.raises(DataError, match="no text is drawn yet"):
        Groups(recipe, "drawn")
    write_table(recipe.path("stage2/selection/selected.parquet"), {
        "text": (pa.string(), [TEXTS[1][0]]), "cluster": (pa.int32(), [3])}, {})  # fmt: skip
    groups = Groups(recipe, "drawn")
    assert [groups.of("", {"text": text}) for text, _ in TEXTS[:3]] == ["left", "drawn", "left"]
    assert groups.made_from().keys() == {"drawn"}, "another draw is measured anew"


def test_a_long_text_is_spoken_up_to_a_sentence():
    text = " ".join(f"Sentence number {i} has six words." for i in range(100))
    cut = shortened(text)
    assert text.startswith(cut) and cut.endswith("words.") and SPOKEN_WORDS - 6 < len(cut.split()) <= SPOKEN_WORDS
    assert shortened("word " * 500).split() == ["word"] * SPOKEN_WORDS and shortened("short") == "short"


@pytest.mark.parametrize("name, why", [("words", "has the name 'words'"), ("../x", "has the name"), ("a", "'a' twice")])
def test_names_of_sets_are_refused(recipe, tmp_path, name, why):
    recipe.measure.sets = [MeasureSetConfig("a", "x"), MeasureSetConfig(name, "x")]
    with pytest.raises(RecipeError, match=why):
        load_recipe(written(recipe, tmp_path))


# ---- order


def test_the_order_streams_and_goes_on_anywhere(recipe, student, speech_dir, items, monkeypatch):
    """Blocks of two: the same utterances with the same wrong speech as in one block; from any mark the same rest."""
    monkeypatch.setattr(sequences, "BLOCK", 2)
    planner = planner_for(recipe, held_source(speech_dir), *student)
    order = Order(planner, 0)
    blocks = list(order.blocks(0))
    assert [len(block.plans) for block in blocks] == [2, 2, 1]
    found = [item for block in blocks for item in order.items(block)[0]]
    assert [item.index for item in found] == [item.index for item in items]
    for one, other in zip(found, items, strict=True):
        for a, b in ((one.sequence, other.sequence), (one.wrong, other.wrong)):
            assert all(np.array_equal(x, y) for x, y in zip(a.waves, b.waves, strict=True))
    for number, block in enumerate(blocks):
        assert [b.behind for b in Order(planner, 0).blocks(0, block.behind)] == [b.behind for b in blocks[number + 1 :]]
    assert [len(block.plans) for block in Order(planner, 0).blocks(3)] == [2, 1]


def held_source(speech_dir: Path) -> list:
    from salad_ds.config import SourceConfig

    return [SourceConfig(kind="speech", path=str(speech_dir))]


def test_the_wrong_speech_is_the_next_ones(recipe, student, speech_dir, items):
    """Of the last one it is the first one's; another text's always; and its own where there is no other."""
    planner = planner_for(recipe, held_source(speech_dir), *student)
    for one, following in zip(items, [*items[1:], items[0]], strict=True):
        sound = np.concatenate(one.wrong.waves)
        assert np.array_equal(sound, np.resize(np.concatenate(following.sequence.waves), len(sound)))
        assert [len(wave) for wave in one.wrong.waves] == [len(wave) for wave in one.sequence.waves]
    alone = held_out(planner, 1, 0)[0]
    assert np.array_equal(alone.wrong.waves[0], items[0].wrong.waves[0]), "beyond the last that is measured"


def test_sound_that_cannot_be_read_costs_its_utterance(recipe, student_dir, speech_dir, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(speech_dir, damaged)
    shards = ShardSet.open(damaged)
    entry = next(entry for entry in shards.entries() if entry.key == "u2")
    with open(damaged / entry.shard.name, "r+b") as file:
        file.seek(entry.audio[0])
        file.write(bytes(entry.audio[1]))
    recipe.measure.speech = str(damaged)
    found = measure_checkpoint(recipe, str(student_dir))["speech"]
    assert {row["key"] for row in found["utterances"]} == {"u0", "u1", "u3", "u4"}
    assert sum(found["skipped"].values()) == 2 and found["skipped"][NO_TARGET] == 1


# ---- ranks and interruptions, in real processes


def written(recipe: Recipe, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(plain(recipe)))
    return path


def start(path: Path, student: Path, out: Path, ranks: int = 1, **variables: str) -> list[int]:
    """The job on ``ranks`` processes; their exit codes."""
    shared = environment() | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(held_port()), "WORLD_SIZE": str(ranks)}
    jobs = [subprocess.Popen([sys.executable, "-m", "tests.measure.job", str(path), str(student), str(out)],
                             env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | variables, cwd=REPOSITORY)
            for rank in range(ranks)]  # fmt: skip
    try:
        return [job.wait(timeout=900) for job in jobs]
    finally:
        for job in jobs:
            job.kill()


def close(one: object, other: object, where: str = "") -> None:
    """Equal, numbers to 1e-6."""
    if isinstance(one, dict):
        assert isinstance(other, dict) and list(one) == list(other), where
        for key in one:
            close(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert isinstance(other, list) and len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            close(*pair, f"{where}[{number}]")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-6, nan_ok=True), where
    else:
        assert one == other, where


@pytest.mark.slow
def test_two_ranks_and_an_interruption_say_the_same(recipe, student_dir, speech_dir, texts_dir, tmp_path):
    """One process, two ranks, and one that was killed behind two of three blocks and goes on, on two ranks: the same
    results of every set and of the words, of Stage II's probe on every rank, and the same files of rows."""
    recipe.measure.words = 4
    recipe.measure.sets = [MeasureSetConfig("domains", str(texts_dir), 0, "domain")]
    copied = tmp_path / "stage/model"
    shutil.copytree(student_dir, copied)
    told = {}
    for case, ranks in (("one", 1), ("two", 2), ("killed", 2)):
        recipe.workdir, recipe.measure.speech = str(tmp_path / case), str(tmp_path / f"{case}-speech/speech")
        shutil.copytree(speech_dir, recipe.measure.speech)
        path = written(recipe, tmp_path)
        if case == "killed":
            assert start(path, copied, tmp_path / "dead", KILL_AFTER="2") == [-9]
            (before,) = recipe.path("measure").rglob("speech.rows.jsonl")
            assert before.read_text().endswith('{"mark": [9, 9') and len(before.read_text().splitlines()) == 4
        assert start(path, copied, tmp_path / case, ranks) == [0] * ranks
        told[case] = [json.loads((tmp_path / f"{case}-{rank}.json").read_text()) for rank in range(ranks)]
        told[f"{case} rows"] = [rows(recipe, checkpoint_of(recipe), name)
                                for name in ("speech", "domains", "domains.texts", "words")]  # fmt: skip
    (alone,) = told["one"]
    assert alone["results"]["speech"]["items"] == 5 and alone["results"]["words"]["items"] == 4
    assert {row["key"] for row in alone["probed"]} == {f"u{i}" for i in range(5)}
    for case in ("two", "killed"):
        for one in told[case]:
            close(one, alone, case)
        close(told[f"{case} rows"], told["one rows"], case)


def test_a_fault_of_one_rank_is_told_by_all(recipe, student_dir, speech_dir, tmp_path):
    """Its student cannot be measured with this recipe: both ranks end."""
    recipe.model.adapter.stack = 2
    path = written(recipe, tmp_path)
    assert start(path, student_dir, tmp_path / "out", 2) == [1, 1]


@pytest.mark.slow
@pytest.mark.assets
def test_a_real_student_is_measured_as_defined(smollm2_dir, recipe, speech_dir, monkeypatch):
    """SmolLM2 behind a fresh adapter, with a disturbed LLM, against float64."""
    from salad_ds.model.build import build_student
    from salad_ds.teacher.forward import load_teacher
    from salad_ds.teacher.live import LiveTeacher

    monkeypatch.setattr(recipe.model, "llm", str(smollm2_dir))  # other tests share it
    model, tokenizer = build_student(recipe.model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.llm.get_decoder().layers.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05 * parameter.std())
    items = held_out(planner_for(recipe, held_source(speech_dir), model, tokenizer), 2, 0)
    records = divergences(model, LiveTeacher(load_teacher(str(smollm2_dir), "cpu")), items, 2)
    naive = Naive(model, smollm2_dir)
    for item, record in zip(items, records, strict=True):
        expected = naive.quantities(item.sequence, item.wrong.waves)
        assert record.tokens == expected.pop("tokens")
        for name, value in expected.items():
            assert getattr(record, name) == pytest.approx(value, rel=5e-4), name


def test_nothing_to_measure_is_named(recipe, student_dir, tmp_path):
    recipe.measure.sets = [MeasureSetConfig("empty", str(tmp_path / "nowhere"))]
    with pytest.raises(DataError, match="nowhere"):
        measure_checkpoint(recipe, str(student_dir))


