"""Training from cached frames is training from audio: the same losses, with nothing decoded and nothing encoded."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import torch

import salad_ds.data.plan
from salad_ds.config import Recipe, load_recipe
from salad_ds.data.collate import collate
from salad_ds.data.features import FrameFormat, features_path, open_features, wanted_format
from salad_ds.data.plan import Planner
from salad_ds.data.shards import Sample, ShardSet, ShardWriter, Word, write_words
from salad_ds.data.stream import Stream
from salad_ds.encode import cut_up, encode, only_writer
from salad_ds.errors import DataError, RecipeError
from salad_ds.measure.divergences import divergences
from salad_ds.measure.sequences import held_out, planner_for
from salad_ds.measure.statistics import QUANTITIES
from salad_ds.model.build import build_student, load_tokenizer
from salad_ds.model.encoder import build_encoder
from salad_ds.model.encoder_base import SpeechEncoder
from salad_ds.teacher.forward import load_teacher
from salad_ds.teacher.live import LiveTeacher
from salad_ds.teacher.stored import open_teacher
from tests.model.test_encoder import mimi_checkpoint
from tests.train.launch import REPOSITORY, environment

SLICE = ["data.span_encoding=slice", "data.cache_dtype=float32", "data.workers=0"]


@pytest.fixture
def load(prepared, tmp_path):
    """``load(*overrides)``: the prepared recipe, working in a copy of its directory."""
    shutil.copytree(load_recipe(prepared).path("."), tmp_path / "work")
    return lambda *overrides: load_recipe(prepared, [f"workdir={tmp_path / 'work'}", *SLICE, *overrides])


def sidecars(recipe: Recipe) -> list[Path]:
    shards = ShardSet.open(recipe.path("speech/natural"))
    return [features_path(shards, number) for number in range(len(shards.shards))]


def losses(recipe: Recipe, steps: int = 2) -> list[float]:
    """Of plain gradient descent on the recipe's own stream, encoder and teacher."""
    stage, (model, tokenizer) = recipe.stages["stage1"], build_student(recipe.model)
    encoder, teacher = model.detach_encoder(), open_teacher(recipe, tokenizer)
    planner = Planner(stage.sources, recipe.path, recipe.data, tokenizer, model.hearing,
                      wanted_format(encoder, recipe.data))  # fmt: skip
    stream = iter(Stream(planner, stage.seed, stage.global_batch, stage.micro_batch))
    optimizer, found = torch.optim.SGD(model.parameters(), 0.1), []
    for step in islice(stream, steps):
        for batch in step.batches:
            out = model(**batch.model_inputs(), features=encoder.hear(batch), labels=batch.labels, alpha=stage.alpha,
                        targets=teacher.targets(batch.teacher_requests()))  # fmt: skip
            (out.loss / len(batch.labels)).backward()
            found.append(out.loss.item() / len(batch.labels))
        optimizer.step()
        optimizer.zero_grad()
    stream.close()
    assert not planner.skipped.counts
    return found


def forbid(monkeypatch, *targets) -> None:
    """Whoever calls one of these fails the test."""
    for owner, name in targets:
        monkeypatch.setattr(owner, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))


def test_losses_from_the_cache_are_those_from_audio(load, monkeypatch):
    """Real Whisper, real speech. In float32 the difference is rounding; in float16 it is that of ten bits."""
    audio = losses(load())
    encode(load())
    assert all(path.is_file() for path in sidecars(load()))
    separate = losses(load("data.span_encoding=separate"))
    forbid(monkeypatch, (salad_ds.data.plan, "decode"), (SpeechEncoder, "frames"))
    cached = losses(load("data.features=cache"))
    assert cached == pytest.approx(audio, abs=1e-6) and len(set(cached)) == len(cached) == 4
    assert separate != pytest.approx(audio, abs=1e-5), "spans by themselves are something else"
    monkeypatch.undo()
    for path in sidecars(load()):
        path.unlink()
    encode(load("data.cache_dtype=float16"))
    half = losses(load("data.features=cache", "data.cache_dtype=float16"))
    assert half == pytest.approx(audio, abs=2e-3) and half != cached


def test_losses_word_by_word_from_the_cache_are_those_from_audio(load, monkeypatch):
    own = "data.span_encoding=words"
    audio = losses(load(own))
    encode(load(own))
    with pytest.raises(DataError, match="has encoding words, not slice"):
        losses(load("data.features=cache"))
    forbid(monkeypatch, (salad_ds.data.plan, "decode"), (SpeechEncoder, "frames"))
    assert losses(load(own, "data.features=cache")) == pytest.approx(audio, abs=1e-6)


def test_a_span_of_words_holds_their_own_encodings_and_nothing_else(load):
    """Each word, alone in a batch, gives the frames that the span has of it; nothing around it is in them."""
    recipe = load("data.span_encoding=words")
    model, tokenizer = build_student(recipe.model)
    planner = planner_for(recipe, recipe.stages["stage1"].sources[:1], model, tokenizer)
    sequence = held_out(planner, 1, 0)[0].sequence
    batch = collate([[sequence]], model.config.start_token_id)
    heard = model.encoder.hear(batch)
    assert len(sequence.waves) > len(sequence.slices) == len(heard) > 0
    alone = [model.encoder(torch.from_numpy(wave)[None], [len(wave)])[0] for wave in sequence.waves]
    for row, clips in zip(heard, sequence.clips, strict=True):
        wanted = torch.cat([alone[i] for i in dict.fromkeys(clips.tolist())])
        assert len(wanted) == len(clips) and torch.allclose(row[: len(clips)], wanted, atol=5e-3)
        assert not row[len(clips) :].any()


@pytest.mark.parametrize("features", ["latents", "codes"])
def test_losses_of_a_mimi_from_the_cache_are_those_from_audio(load, tmp_path, monkeypatch, features):
    mimi_checkpoint(tmp_path / "mimi")
    own = ["model.encoder.kind=mimi", f"model.encoder.name={tmp_path / 'mimi'}", f"model.encoder.features={features}",
           "model.adapter.stack=1"]  # fmt: skip
    audio = losses(load(*own))
    report = encode(load(*own))
    assert report.frame_bytes == (1 if features == "codes" else 64)  # 2 codes of 4 bits; 16 float32
    forbid(monkeypatch, (salad_ds.data.plan, "decode"), (SpeechEncoder, "frames"))
    assert losses(load(*own, "data.features=cache")) == pytest.approx(audio, abs=1e-6)


@pytest.mark.parametrize("encoding", ["slice", "words"])
def test_measurements_from_the_cache_are_those_from_audio(load, encoding):
    """M, its two controls, F and L: the wrong speech is the other utterance's frames, silence is encoded."""
    own = f"data.span_encoding={encoding}"
    encode(load(own))
    model, tokenizer = build_student(load().model)
    teacher = LiveTeacher(load_teacher(load().model.llm, "cpu"))
    found = []
    for recipe in (load(own), load(own, "data.features=cache")):
        planner = planner_for(recipe, recipe.stages["stage1"].sources[:1], model, tokenizer)
        items = held_out(planner, 4, 0)
        assert all(bool(item.sequence.waves) == (recipe.data.features == "audio") for item in items)
        found.append(divergences(model, teacher, items, 3))
    assert len(found[0]) == 4
    for one, other in zip(*found, strict=True):
        assert (one.key, one.tokens, one.heard) == (other.key, other.tokens, other.heard)
        for name in QUANTITIES:
            assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-3, abs=1e-7), name
        assert one.misalignment != pytest.approx(one.misalignment_wrong_speech, rel=1e-5)


def train(recipe_path: Path, recipe: Recipe, *overrides: str) -> list[float]:
    """Two steps of the real verb, alone under ZeRO-3; returns the losses it logged."""
    command = [sys.executable, "-m", "salad_ds", "train", str(recipe_path), f"workdir={recipe.workdir}", *SLICE,
               "stages.stage1.steps=2", *overrides]  # fmt: skip
    done = subprocess.run(command, env=environment(), cwd=REPOSITORY, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (recipe.path("stage1/log.jsonl")).read_text().splitlines()]
    assert (recipe.path("stage1/model") / "model.safetensors").is_file()
    shutil.rmtree(recipe.path("stage1"))
    return [row["loss"] for row in rows]


@pytest.mark.slow
def test_the_verb_trains_from_the_cache_as_from_audio(prepared, load):
    recipe = load()
    audio = train(prepared, recipe)
    encode(recipe)
    cached = train(prepared, recipe, "data.features=cache", "data.workers=1")  # read by a process of its own
    assert cached == pytest.approx(audio, abs=1e-6) and len(audio) == 2


def test_what_cannot_be_is_refused_before_any_work(prepared, load, tmp_path):
    with pytest.raises(RecipeError, match="data.features is cache, but data.span_encoding is separate") as caught:
        load("data.span_encoding=separate", "data.features=cache")
    assert "span_encoding=slice" in caught.value.mend
    with pytest.raises(RecipeError, match="features is codes, and whisper has none"):
        load("model.encoder.features=codes")
    with pytest.raises(RecipeError, match="data.span_encoding is separate"):
        encode(load("data.span_encoding=separate"))
    from salad_ds.train.loop import run_stage

    with pytest.raises(DataError, match="features.safetensors is missing") as caught:
        run_stage_alone(run_stage, load("data.features=cache"))
    assert "salad-ds encode" in caught.value.mend
    encode(load())
    model, tokenizer = build_student(load().model)
    model.encoder.whisper.conv1.bias.data[0] += 1.0
    with pytest.raises(DataError, match="has encoder whisper-384-.*, not whisper-384-"):
        planner_for(load("data.features=cache"), load().stages["stage1"].sources[:1], model, tokenizer)
    with pytest.raises(DataError, match="has dtype float32, not float16"):
        encode(load("data.cache_dtype=float16"))


def run_stage_alone(run_stage, recipe: Recipe) -> None:
    """The stage as ``train`` runs it, in a process group of one."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        run_stage(recipe, "stage1", {}, "digest", "", torch.device("cpu"), None)
    finally:
        dist.destroy_process_group()


def test_a_killed_run_goes_on_and_ends_the_same(prepared, load, tmp_path):
    """SIGKILL once the first sidecar of four is there; the second run leaves that one alone."""
    recipe = load()
    speech, source = recipe.path("speech/natural"), ShardSet.open(recipe.path("speech/natural"))
    samples = [(source.read(i), source.words(i)) for i in range(len(source))]
    shutil.rmtree(speech)
    with ShardWriter(speech, "again", 3, words_engine="copied") as writer:
        for sample, words in samples:
            writer.add(sample, words)
    command = [sys.executable, "-m", "salad_ds", "encode", str(prepared), f"workdir={recipe.workdir}", *SLICE]
    job = subprocess.Popen(command, env=environment(), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while not any(path.is_file() for path in sidecars(recipe)):
        assert job.poll() is None and time.monotonic() < until, job.stderr.read()[-2000:]
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    done = {path: path.stat().st_mtime_ns for path in sidecars(recipe) if path.is_file()}
    assert 1 <= len(done) < len(sidecars(recipe)), "the run had finished: nothing was interrupted"
    report = encode(recipe)
    assert report.written == report.shards - len(done) and not list(speech.glob(".*.part"))
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    first = [path.read_bytes() for path in sidecars(recipe)]
    for path in sidecars(recipe):
        open_features(path).verify()
        path.unlink()
    assert encode(recipe).written == len(first) and [path.read_bytes() for path in sidecars(recipe)] == first
    with only_writer(speech):  # another run
        assert encode(recipe).written == 0, "where nothing is to be written it does not matter"
        sidecars(recipe)[0].unlink()
        with pytest.raises(DataError, match="another run is encoding"):
            encode(recipe)


def test_recordings_that_cannot_be_encoded_are_counted_and_named(load):
    recipe = load("data.max_bad_share=0.5")
    source, speech = ShardSet.open(recipe.path("speech/natural")), recipe.path("speech/natural")
    good = source.read(0)
    shutil.rmtree(speech)
    with ShardWriter(speech, "mixed", 10) as writer:
        writer.add(Sample("broken", good.meta | {"id": "broken"}, b"fLaC" + bytes(99)))
        writer.add(good)
        writer.add(Sample("short", good.meta | {"duration": good.meta["duration"] + 1.0}, good.audio))
        writer.add(Sample("long", good.meta | {"duration": 31.0}, good.audio))
    shards = ShardSet.open(speech)
    for number, ref in enumerate(shards.shards):
        times = [Word(i * 0.1, i * 0.1 + 0.1, 1.0) for i in range(shards.entry(0).n_words)]
        write_words(ref, "made", {shards.entry(i).key: times for i in shards.samples_in(number)})
    report = encode(recipe)
    assert {why: row["count"] for why, row in report.rejected.items()} == {
        "audio does not decode": 1, "too long for the encoder": 1, next(w for w in report.rejected if "lasts" in w): 1
    }  # fmt: skip
    assert "broken" in str(report) and "short" in str(report) and "long" in str(report)
    planner = Planner(recipe.stages["stage1"].sources[:1], recipe.path, load("data.features=cache").data,
                      load_tokenizer(recipe.model), build_encoder(recipe.model.encoder, False).hearing,
                      FrameFormat.of(build_encoder(recipe.model.encoder), "float32"))  # fmt: skip
    plans = {planner.shards[0].entry(i).key: planner.plan(0, 0, i, 0) for i in range(4)}
    assert {key for key, plan in plans.items() if plan is not None} == {good.key}
    assert sum(planner.skipped.counts.values()) == 3
    assert planner.skipped.examples["has no cached features"] == ["speech/natural:broken", "speech/natural:short"]
    with pytest.raises(DataError, match="recordings of .*000000.tar cannot be encoded.*broken"):
        for path in sidecars(recipe):
            path.unlink()
        # one good recording among five broken ones
        shutil.rmtree(speech)
        with ShardWriter(speech, "broken", 10) as writer:
            for i in range(5):
                writer.add(Sample(f"broken{i}", good.meta | {"id": f"b{i}"}, b"fLaC" + bytes(99)))
            writer.add(good)
        encode(recipe)
    assert not any(path.is_file() for path in sidecars(recipe))


def test_batches_hold_recordings_of_about_one_length():
    lengths = [5, 1, 9, 9, 2, 1, 30]
    batches = cut_up(list(range(7)), lengths, 20)
    assert sorted(place for part in batches for place in part) == list(range(7))
    assert batches == [[6], [2, 3], [0, 4, 1, 5]]
