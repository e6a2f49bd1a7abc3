"""M, F and L against their definition, computed naively in float64 for one utterance at a time."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.config import MeasureSetConfig, SourceConfig, SynthConfig, TrainConfig
from salad_ds.data.collate import Sequence, collate
from salad_ds.data.interleave import Piece
from salad_ds.data.shards import ShardSet, Word, write_words
from salad_ds.distill.reference import capped
from salad_ds.errors import CheckpointError, DataError
from salad_ds.measure.divergences import (
    Head,
    States,
    Utterance,
    compare,
    divergences,
    head_of,
    misalignment_of_shards,
    plainly,
    states_of,
    weights_identity,
)
from salad_ds.measure.run import find_student, measure_checkpoint
from salad_ds.measure.sequences import Item, held_out, planner_for, silent, with_speech_of
from salad_ds.measure.sets import measure
from salad_ds.measure.statistics import QUANTITIES, columns, ratio, summary
from salad_ds.model.build import build_student
from salad_ds.synth.synthesize import synthesize_shards
from tests.measure.naive import Naive


def test_every_quantity_is_its_definition_computed_alone(student, teacher, items, decided_llm_dir):
    assert len(items) == 5 and len({item.sequence.positions for item in items}) > 2
    records = divergences(student[0], teacher, items, 3)
    naive = Naive(student[0], decided_llm_dir)
    for item, record in zip(items, records, strict=True):
        sequence = item.sequence
        expected = naive.quantities(sequence, item.wrong.waves)
        assert record.key == sequence.key and record.tokens == expected.pop("tokens")
        for name, value in expected.items():
            assert getattr(record, name) == pytest.approx(value, rel=2e-4), name
            assert abs(value) / record.tokens > 0.02, f"{name} is too small to say anything"
        first = next(i for i, piece in enumerate(sequence.pieces) if piece.speech)
        assert record.heard == sum(p.last - p.first for p in sequence.pieces[first:] if not p.speech) > 0


def test_a_batch_gives_what_its_utterances_give(student, teacher, items):
    together = divergences(student[0], teacher, items, 5, controls=False)
    alone = divergences(student[0], teacher, items, 1, controls=False)
    for a, b in zip(together, alone, strict=True):
        assert (a.key, a.tokens, a.heard) == (b.key, b.tokens, b.heard)
        for name in ("misalignment", "forgetting", "distillation"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-4)
        assert all(math.isnan(getattr(a, name)) for name in (
            "misalignment_silence", "misalignment_wrong_speech", *CALIBRATION))  # fmt: skip


def test_an_untouched_student_has_forgotten_nothing(model_config, teacher, items):
    fresh, _ = build_student(model_config)
    for record in divergences(fresh, teacher, items, 2, controls=False):
        assert abs(record.forgetting / record.tokens) < 1e-6
        assert record.misalignment / record.tokens > 0.01
        assert record.distillation == pytest.approx(record.misalignment, rel=1e-4)


def test_controls_with_the_same_sound_measure_the_same(student, teacher, items):
    """With its own speech in the place of its own, 'wrong' is right. Of a silent utterance, right is silence."""
    one = items[0]
    (record,) = divergences(student[0], teacher, [replace(one, wrong=one.sequence)], 2)
    assert record.misalignment_wrong_speech == record.misalignment != record.misalignment_silence
    mute = silent(one.sequence)
    (record,) = divergences(student[0], teacher, [Item(0, mute, silent(one.wrong))], 1)
    assert record.misalignment_silence == record.misalignment == record.misalignment_wrong_speech


# ---- calibration, on drawn hidden states

CALIBRATION = ("nll_hearing", "nll_reading", "overconfidence_hearing", "overconfidence_reading")


def dense(hidden: torch.Tensor, head: Head) -> torch.Tensor:
    """[N, V] float64 log-probabilities."""
    return capped(hidden.double() @ head.weight.double().T * head.scale, head.softcap).log_softmax(-1)


def calibration_of(reading: torch.Tensor, hearing: torch.Tensor, head: Head, labels: torch.Tensor,
                   utterances: int = 2) -> list[Utterance]:
    """Of N text targets ``labels`` [N], divided evenly over the utterances; the teacher is the student that reads."""
    tokens = len(labels) // utterances
    texts = labels.reshape(utterances, tokens).tolist()
    sequences = [Sequence("u", (0, *text), [Piece(False, 0, tokens + 1, tokens + 1)]) for text in texts]
    states = States(collate([[sequence] for sequence in sequences], 0), reading, hearing, None, None)
    return compare(states, head, head.says(reading), sequences, calibration=True)


@pytest.fixture(scope="module")
def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states [6000, 12], reading and hearing, and a head's weight [300, 12]."""
    generator = torch.Generator().manual_seed(0)
    reading, hearing, weight = (torch.randn(n, 12, generator=generator) for n in (6000, 6000, 300))
    return reading, hearing, weight


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_calibration_is_that_of_a_dense_softmax(drawn, softcap, dtype):
    reading, hearing, weight = (part.to(dtype) for part in drawn)
    head = Head(weight, 0.7, softcap)
    labels = torch.randint(0, 300, (6000,), generator=torch.Generator().manual_seed(3))
    records = calibration_of(reading, hearing, head, labels, 3)
    for number, record in enumerate(records):
        mine = slice(number * 2000, (number + 1) * 2000)
        for how, hidden in (("hearing", hearing), ("reading", reading)):
            log_p = dense(hidden[mine], head)
            nll, entropy = -log_p.gather(1, labels[mine, None]).sum(), -(log_p.exp() * log_p).sum()
            assert getattr(record, f"nll_{how}") == pytest.approx(float(nll), rel=1e-6)
            assert getattr(record, f"overconfidence_{how}") == pytest.approx(float(nll - entropy), rel=1e-5, abs=1e-3)


def test_a_student_whose_words_the_truth_is_made_of_is_calibrated(drawn):
    """The tokens are drawn from what it expects when it hears: 0 within the noise. With sharper logits it is too sure,
    with flatter ones too vague. And so it is reading, with tokens that are drawn from that."""
    reading, hearing, weight = drawn
    generator = torch.Generator().manual_seed(1)
    for how, hidden in (("hearing", hearing), ("reading", reading)):
        log_p = dense(hidden, Head(weight))
        labels = torch.multinomial(log_p.exp(), 1, generator=generator)[:, 0]
        found = {}
        for scale in (0.5, 1.0, 2.0):
            records = calibration_of(reading, hearing, Head(weight, scale), labels, 60)
            found[scale] = told(records)[f"overconfidence_{how}"]
        assert abs(found[1.0]["mean"]) < 3 * found[1.0]["se"] < 0.15
        assert found[2.0]["mean"] > 1 and found[0.5]["mean"] < -0.3, how


def test_overconfidence_is_the_slope_of_the_nll(drawn):
    """By log β of softmax(β z): where it is positive, a temperature above 1 lowers the NLL."""
    reading, hearing, weight = drawn
    labels = torch.randint(0, 300, (6000,), generator=torch.Generator().manual_seed(2))
    found = told(calibration_of(reading, hearing, Head(weight), labels))
    step = 1e-4
    for how, hidden in (("hearing", hearing), ("reading", reading)):
        up, down = (-dense(hidden, Head(weight, math.exp(power))).gather(1, labels[:, None]).mean()
                    for power in (step, -step))  # fmt: skip
        assert found[f"overconfidence_{how}"]["mean"] == pytest.approx(float((up - down) / (2 * step)), rel=1e-4)


def test_what_is_asked_without_calibration_is_the_same_bit_by_bit(drawn, student, teacher, items):
    """Of a probe: no label changes a divergence."""
    states = states_of(plainly(student[0]), items[:2])
    truth = teacher.targets(states.batch.teacher_requests())
    sequences = [item.sequence for item in items[:2]]
    with torch.no_grad():
        without, with_it = (compare(states, head_of(student[0]), truth, sequences, asked) for asked in (False, True))
    for one, other in zip(without, with_it, strict=True):
        for name in QUANTITIES:
            if name in CALIBRATION:
                assert math.isnan(getattr(one, name)) and math.isfinite(getattr(other, name))
            else:
                assert getattr(one, name) == getattr(other, name), name


# ---- controls


def waves(*lengths: int, level: float) -> list[np.ndarray]:
    return [level + np.arange(n, dtype=np.float32) / 1000 for n in lengths]


@settings(max_examples=50)
@given(lengths=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=2, max_size=2))
def test_controls_keep_every_length(lengths):
    one, donor = (Sequence(str(i), (i,), [], waves(*row, level=i)) for i, row in enumerate(lengths))
    other = with_speech_of(one, donor)
    assert [len(w) for w in other.waves] == [len(w) for w in one.waves]
    assert [len(w) for w in silent(one).waves] == [len(w) for w in one.waves]
    assert not any(w.any() for w in silent(one).waves)
    sound = np.concatenate(other.waves)
    assert np.array_equal(sound, np.resize(np.concatenate(donor.waves), len(sound)))
    assert (other.key, other.ids, other.pieces) == (one.key, one.ids, one.pieces)


def test_what_is_held_out_is_seeded_and_can_be_measured(recipe, student, speech_dir, items):
    def chosen(count: int, seed: int) -> list[Sequence]:
        planner = planner_for(recipe, [SourceConfig(kind="speech", path=str(speech_dir))], *student)
        return [item.sequence for item in held_out(planner, count, seed)]

    sequences = [item.sequence for item in items]
    assert {sequence.key for sequence in sequences} == {f"u{i}" for i in range(5)}, "the word alone has no target"
    again = chosen(8, 0)
    assert [s.key for s in again] == [s.key for s in sequences] and [s.pieces for s in again] == [
        s.pieces for s in sequences
    ]
    assert [s.key for s in chosen(2, 0)] == [s.key for s in sequences[:2]]
    assert any([s.key for s in chosen(8, seed)] != [s.key for s in sequences] for seed in (1, 2, 3))


# ---- statistics


def test_the_standard_error_is_that_of_the_bootstrap_and_of_repetition():
    random = np.random.default_rng(0)

    def sample(n: int) -> tuple[np.ndarray, np.ndarray]:
        """Per-utterance sums and counts: longer utterances are easier per token."""
        counts = random.integers(5, 60, n).astype(float)
        return counts * random.gamma(2.0, 0.1, n) * (1 + 5 / counts), counts

    sums, counts = sample(300)
    found = ratio(sums, counts)
    assert found["mean"] == pytest.approx(sums.sum() / counts.sum())
    draws = random.integers(0, 300, (3000, 300))
    bootstrap = (sums[draws].sum(1) / counts[draws].sum(1)).std()
    assert found["se"] == pytest.approx(bootstrap, rel=0.08)
    repeated = [ratio(*sample(300)) for _ in range(800)]
    spread = np.std([r["mean"] for r in repeated])
    assert np.mean([r["se"] for r in repeated]) == pytest.approx(spread, rel=0.1)
    assert math.isnan(ratio(sums[:1], counts[:1])["se"])


def told(records: list[Utterance]) -> dict:
    return summary(columns(map(asdict, records), ("tokens", "heard", *QUANTITIES)))


def test_a_summary_divides_by_the_right_tokens_and_pairs_its_differences():
    random = np.random.default_rng(1)
    records = [
        Utterance(str(i), int(n), int(n) // 2, *(n * x for x in random.uniform(0.1, 0.5, len(QUANTITIES))))
        for i, n in enumerate(random.integers(4, 40, 20))
    ]
    found = told(records)
    tokens, heard = sum(r.tokens for r in records), sum(r.heard for r in records)
    assert (found["items"], found["tokens"], found["tokens_after_speech"]) == (20, tokens, heard)
    for name in QUANTITIES:
        assert found[name]["mean"] == pytest.approx(sum(getattr(r, name) for r in records) / tokens)
    assert found["misalignment_after_speech"]["mean"] == pytest.approx(sum(r.misalignment for r in records) / heard)
    gain = found["speech_gain_over_wrong"]
    assert gain["mean"] == pytest.approx(found["misalignment_wrong_speech"]["mean"] - found["misalignment"]["mean"])
    assert found["speech_gain_over_silence"]["mean"] == pytest.approx(
        found["misalignment_silence"]["mean"] - found["misalignment"]["mean"]
    )
    shifted = [replace(r, misalignment_wrong_speech=r.misalignment + 0.3 * r.tokens) for r in records]
    assert told(shifted)["speech_gain_over_wrong"] == pytest.approx({"mean": 0.3, "se": 0.0}, abs=1e-9)


# ---- the artefact


def test_a_measurement_is_written_and_made_again_only_for_something_else(recipe, student_dir, speech_dir, tmp_path):
    copied, speech = tmp_path / "mine", tmp_path / "speech"
    shutil.copytree(student_dir, copied)
    shutil.copytree(speech_dir, speech)
    recipe.measure.speech = str(speech)

    def path() -> Path:
        return recipe.path(f"measure/{find_student(recipe, str(copied))[0]}.json")

    first = measure_checkpoint(recipe, str(copied))["speech"]
    assert json.loads(path().read_text()) == json.loads(json.dumps(first))
    assert first["schema"] == 1 and first["items"] == len(first["utterances"]) == 5
    assert first["misalignment"]["mean"] > 0 and first["forgetting"]["mean"] > 0 and first["misalignment"]["se"] > 0

    def measured_again() -> bool:
        before = path().stat().st_mtime_ns if path().is_file() else 0
        measure_checkpoint(recipe, str(copied))
        return path().stat().st_mtime_ns != before

    assert not measured_again()
    flip(copied / "model.safetensors", (copied / "model.safetensors").stat().st_size // 2)
    assert measured_again() and not measured_again()
    recipe.measure.items = 3
    assert measured_again() and not measured_again()
    shutil.rmtree(speech)
    texts = [("v0", "every window of the old house looked out over a garden full of roses", {})]
    synthesize_shards(texts, speech, SynthConfig(workers=1, asr=""), made_from={}, quiet=True)
    assert measured_again() and not measured_again()
    words = ShardSet.open(speech).words(0)
    later = [Word(word.start + 0.05, word.end + 0.05, word.score) for word in words]
    write_words(speech / "000000.tar", "by hand", {"v0": later})
    assert measured_again() and not measured_again()


def test_what_was_measured_without_a_quantity_is_measured_anew(recipe, student_dir, speech_dir):
    """Result and rows of an earlier version, overall and by group: not a mean of nothing."""
    recipe.measure.sets = [MeasureSetConfig("again", str(speech_dir), 0, "voice")]
    measure_checkpoint(recipe, str(student_dir))
    results = [path for path in recipe.path("measure").rglob("*.json") if path.is_file()]
    for path in results:
        body = json.loads(path.read_text())
        del body["made_from"]["quantities"]
        for name in CALIBRATION:
            (body if path.stem != "again" else body["overall"]).pop(name)
        path.write_text(json.dumps(body))
    for path in recipe.path("measure").rglob("*.rows.jsonl"):
        head, *blocks = map(json.loads, path.read_text().splitlines())
        del head["made_from"]["quantities"]
        for block in blocks:
            block["rows"] = [{k: v for k, v in row.items() if k not in CALIBRATION} for row in block["rows"]]
        path.write_text("".join(json.dumps(line) + "\n" for line in [head, *blocks]))
    assert len(results) == 2
    for result in measure_checkpoint(recipe, str(student_dir)).values():
        for part in (result.get("overall", result), *result.get("groups", {}).values()):
            assert all(math.isfinite(part[name][key]) for name in QUANTITIES for key in ("mean", "se"))


def flip(file, place: int) -> None:
    """Change the lowest bit of one byte."""
    with open(file, "r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))


def test_the_identity_of_weights_is_that_of_every_byte(student_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("SALAD_DS_HOME", str(tmp_path / "home"))
    copied = tmp_path / "mine"
    shutil.copytree(student_dir, copied)
    weights = copied / "model.safetensors"
    size = weights.stat().st_size
    assert weights_identity(copied) == weights_identity(student_dir)
    for place in (9, (1 << 16) + 1, size // 2, size - (1 << 20) - 1, size - 1):
        flip(weights, place)
        assert weights_identity(copied) != weights_identity(student_dir), place
        flip(weights, place)
    assert weights_identity(copied) == weights_identity(student_dir)
    settings_ = json.loads((copied / "config.json").read_text())
    settings_["adapter"]["stack"] = 2
    (copied / "config.json").write_text(json.dumps(settings_))
    assert weights_identity(copied) != weights_identity(student_dir)
    weights.unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        weights_identity(copied)


def test_students_in_directories_of_one_name_have_names_of_their_own(recipe, student_dir, tmp_path, monkeypatch):
    recipe.stages = {"stage1": TrainConfig(sources=[])}
    places = {"a": tmp_path / "a/model", "b": tmp_path / "b/model", "stage1": recipe.path("stage1/model")}
    for place in places.values():
        shutil.copytree(student_dir, place)
    flip(places["b"] / "model.safetensors", (places["b"] / "model.safetensors").stat().st_size // 2)
    named = {key: find_student(recipe, str(place)) for key, place in places.items()}
    assert named["a"][0] == f"a-model-{named['a'][2][:8]}" and named["b"][0] == f"b-model-{named['b'][2][:8]}"
    assert named["a"][2] == named["stage1"][2] != named["b"][2]
    assert named["stage1"][0] == find_student(recipe, "stage1")[0] == "stage1"
    monkeypatch.chdir(places["a"])
    assert find_student(recipe, ".")[0] == named["a"][0]


def test_a_student_before_training_is_that_of_its_llm(recipe, decided_llm_dir, tmp_path):
    copied = tmp_path / "llm"
    shutil.copytree(decided_llm_dir, copied)
    recipe.model = replace(recipe.model, llm=str(copied))
    name, _, identity = find_student(recipe, "init")
    assert name == "init" and find_student(recipe, "init")[2] == identity
    flip(copied / "model.safetensors", (copied / "model.safetensors").stat().st_size // 2)
    assert find_student(recipe, "init")[2] != identity


def test_what_the_probe_asks_for_is_the_distillation_loss(recipe, student_dir, speech_dir, student, teacher, items):
    found = {row["key"]: row for row in misalignment_of_shards(recipe, student_dir, speech_dir)}
    records = divergences(student[0], teacher, items, 2, controls=False)
    assert found.keys() == {record.key for record in records}
    for record in records:
        assert found[record.key]["tokens"] == record.tokens
        assert found[record.key]["m"] == pytest.approx(record.distillation / record.tokens, rel=1e-5)


def test_what_cannot_be_measured_is_named(recipe, student, tmp_path):
    with pytest.raises(CheckpointError, match="there is no student in .*nowhere"):
        find_student(recipe, str(tmp_path / "nowhere"))
    recipe.measure.speech = str(tmp_path / "short")
    synthesize_shards([("s", "stop", {})], tmp_path / "short", SynthConfig(workers=1, asr=""), made_from={}, quiet=True)
    with pytest.raises(DataError, match="no utterance of .*short can be measured"):
        measure(recipe, "x", lambda: student, "x")
    assert not recipe.path("measure/x.json").exists()
