"""Questions as sound: synthesised and published, all of it real speech, heard by a real recogniser where it matters."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from salad_ds.asr import hear
from salad_ds.audio import decode, encode_flac
from salad_ds.config import AlignConfig, Recipe, SynthConfig, TaskConfig
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError
from salad_ds.evaluate.tasks import load_task, spoken
from salad_ds.synth.synthesize import synthesize_shards
from tests.evaluate.tasks import published

pytestmark = pytest.mark.assets
TINY = "packaged:whisper-tiny.en"


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return Recipe(name="spoken", workdir=str(tmp_path / "work"), synth=SynthConfig(workers=1, asr=""),
                  align=AlignConfig(workers=1))  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """``said(text)`` → (wave, rate): the fast synthesiser of the demo. What is published is stood for by it."""
    directory, kept = tmp_path_factory.mktemp("said"), {}

    def say(text: str) -> tuple[np.ndarray, int]:
        if text not in kept:
            out = directory / str(len(kept))
            synthesize_shards([("x", text, {})], out, SynthConfig(workers=1, asr=""), made_from={}, quiet=True)
            kept[text] = decode(ShardSet.open(out).read(0).audio)
        return kept[text]

    return say


def rows(count: int) -> list[dict]:
    words = ["river", "garden", "window", "letter", "market", "summer", "doctor", "kitchen", "bridge", "forest"]
    return [{"id": f"q.{n}", "question": {"stem": f"What do people often see near the old {words[n]}?", "choices": [
        {"text": "yes", "label": "A"}, {"text": "no", "label": "B"}]}, "answerKey": "A"}
        for n in range(count)]  # fmt: skip


def load(recipe: Recipe, name: str, source: Path | str = "", shots: int = 0, **more):
    return load_task(TaskConfig(name, str(source), shots=shots, **more), recipe)


# ---- synthesised


def test_synthesised_once_and_decoded_when_asked_for(tmp_path, recipe):
    task = load(recipe, "openbookqa", published.jsonl(tmp_path / "a.jsonl", rows(4)), shots=1)
    items = task.items + task.examples
    found = spoken(recipe, task, items)
    assert list(found) == [item.id for item in items] and len(found) == 4 and not found.missing and not found.cer
    assert "q.0" in found and "nothing" not in found
    for item in items:
        wave, rate = found[item.id]
        assert wave.dtype == np.float32 and 1 < len(wave) / rate < 6 and np.abs(wave).max() > 0.05
    assert found.made_from["synth"]["engine"] == "hibari" and found.made_from["task"] == "openbookqa"
    with pytest.raises(KeyError):
        found["nothing"]
    files = {path: path.stat().st_mtime_ns for path in found.directory.iterdir()}
    recipe.synth.workers = 2  # nothing of the speech depends on it
    again = spoken(recipe, task, items)
    assert again.directory == found.directory and np.array_equal(again["q.0"][0], found["q.0"][0])
    assert {path: path.stat().st_mtime_ns for path in again.directory.iterdir()} == files
    recipe.synth.seed = 5
    assert spoken(recipe, task, items[:2]).directory != found.directory, "another voice is other speech"


def test_what_cannot_be_spoken_is_missing_by_name(tmp_path, recipe):
    lines = rows(8)
    lines[2]["question"]["stem"] = "word " * 400
    path = published.jsonl(tmp_path / "a.jsonl", lines)
    task = load(recipe, "openbookqa", path)
    found = spoken(recipe, task, task.items)
    assert len(found) == 7 and "q.2" not in found
    assert found.missing["too long"]["count"] == 1 and task.key(
        next(item for item in task.items if item.id == "q.2")) in found.missing["too long"]["examples"][0]  # fmt: skip
    for line in lines[2:7]:
        line["question"]["stem"] = line["id"] + " word" * 400
    task = load(recipe, "openbookqa", published.jsonl(path, lines))
    with pytest.raises(DataError, match="5 of 8 items of openbookqa have no speech: 5 too long"):
        spoken(recipe, task, task.items)
    for line in lines:
        line["question"]["stem"] = line["id"] + " word" * 400
    task = load(recipe, "openbookqa", published.jsonl(path, lines))
    with pytest.raises(DataError, match="openbookqa items gave no sample at all: 8 too long"):
        spoken(recipe, task, task.items)


def test_error_rates_where_somebody_listened(tmp_path, recipe):
    recipe.synth.asr, recipe.synth.max_cer = TINY, 0.0
    task = load(recipe, "openbookqa", published.jsonl(tmp_path / "a.jsonl", rows(3)))
    found = spoken(recipe, task, task.items)
    assert len(found) == 3, "badly spoken items of a benchmark are kept"
    assert sorted(found.cer) == ["q.0", "q.1", "q.2"] and all(0 <= rate < 0.3 for rate in found.cer.values())


def test_real_items_that_need_no_download(recipe):
    """Exam questions, with all their signs, and definitions."""
    for name in ("mmlu", "wordnet"):
        task = load(recipe, name, items=4, shots=1)
        found = spoken(recipe, task, task.items + task.examples)
        assert len(found) >= 4 and all(len(wave) > rate / 2 for wave, rate in found.values())


# ---- published


def test_voicebench_is_asked_as_it_is_spoken(tmp_path, recipe, said):
    prompts = published.VOICEBENCH
    sounds = [said(" ".join(row["prompt"].split())) for row in prompts]
    audio = [published.wav(*sounds[0]), encode_flac(*sounds[1]), b"RIFF damaged"]
    path = published.parquet(tmp_path / "mmsu/law-00000-of-00001.parquet", [
        row | {"audio": {"bytes": raw, "path": None}} for row, raw in zip(prompts, audio, strict=True)])  # fmt: skip
    task = load(recipe, "mmsu", speech=str(path.parent))
    assert task.template.name == "voicebench" and task.made_from()["speech"] == "published"
    items = {item.id: item for item in task.items}
    assert items["law-2"].asked == prompts[1]["prompt"] and items["law-2"].options[2] == " electrical conductors"
    found = spoken(recipe, task, task.items)
    assert set(found) == {"law-1", "law-2"} and found.missing == {
        "does not decode": {"count": 1, "examples": found.missing["does not decode"]["examples"]}}  # fmt: skip
    assert "law-3" in found.missing["does not decode"]["examples"][0]
    for id, (wave, rate) in zip(("law-1", "law-2"), sounds, strict=False):
        assert found[id][1] == rate and np.allclose(found[id][0], wave, atol=2**-14)
    sample = found.shards.read(found.places["law-2"])
    assert sample.audio == audio[1], "what is compressed already is kept byte for byte"
    with pytest.raises(DataError, match="is not mmsu: it has prompt, reference"):
        load(recipe, "mmsu", speech=str(published.parquet(tmp_path / "silent.parquet", prompts)))


@pytest.fixture
def stories(tmp_path, recipe, said):
    """Spoken StoryCloze: each story whole, with the right and with the wrong ending."""
    path = published.table(tmp_path / "cloze_test_test__spring2016.csv", published.STORYCLOZE)
    directory = tmp_path / "sStoryCloze"
    directory.mkdir()
    for number, story in enumerate(published.STORYCLOZE):
        begin = " ".join(story[f"InputSentence{n}"] for n in range(1, 5))
        for ending in (1, 2):
            kind = "correct" if story["AnswerRightEnding"] == ending else "incorrect"
            wave, rate = said(f"{begin} {story[f'RandomFifthSentenceQuiz{ending}']}")
            soundfile.write(directory / f"{number}_{kind}.wav", wave, rate)
    return path, directory


def test_of_a_spoken_story_four_sentences_are_heard(recipe, stories):
    path, directory = stories
    task = load(recipe, "storycloze", path, speech=str(directory))
    found = spoken(recipe, task, task.items)
    assert len(found) == 3 and not found.missing
    item = next(item for item in task.items if "cake" in item.asked)
    whole = soundfile.info(directory / "1_correct.wav")
    wave, rate = found[item.id]
    assert rate == whole.samplerate and 0.5 < len(wave) / whole.frames < 0.95
    (heard,) = hear([wave], rate, TINY)
    assert "windows" in heard.lower() and "away" not in heard.lower() and "threw" not in heard.lower()
    assert spoken(recipe, task, task.items).directory == found.directory


def test_a_recording_of_another_story_is_missing(recipe, stories):
    path, directory = stories
    (directory / "1_correct.wav").write_bytes((directory / "2_correct.wav").read_bytes())
    (directory / "0_correct.wav").unlink()
    task = load(recipe, "storycloze", path, speech=str(directory))
    found = spoken(recipe, task, task.items)
    assert len(found) == 1 and found.missing["no recording"]["count"] == 1
    assert sum(row["count"] for row in found.missing.values()) == 2
    other = load(recipe, "storycloze", path, speech=str(directory / "nowhere"))
    with pytest.raises(DataError, match="has no recording of storycloze's stories"):
        spoken(recipe, other, other.items)


def test_files_named_as_the_items(tmp_path, recipe, said):
    """Somebody has read a benchmark aloud."""
    path = published.jsonl(tmp_path / "hellaswag_val.jsonl", published.HELLASWAG)
    voices = tmp_path / "read-aloud/her"
    voices.mkdir(parents=True)
    wave, rate = said("A man is sitting on a roof. He")
    (voices / "24.flac").write_bytes(encode_flac(wave, rate))
    task = load(recipe, "hellaswag", path, speech=str(tmp_path / "read-aloud"))
    found = spoken(recipe, task, task.items)
    assert list(found) == ["24"] and np.allclose(found["24"][0], wave, atol=2**-14)
    assert found.missing["no recording"]["examples"] == ["hellaswag-2"]
    assert json.loads((found.directory / "manifest.json").read_text())["made_from"]["cut"] is False
    (voices / "24.flac").rename(voices / "25.flac")
    with pytest.raises(DataError, match="has no recording of hellaswag's questions"):
        spoken(recipe, task, task.items)


def test_what_is_written_can_be_played(tmp_path, recipe):
    task = load(recipe, "openbookqa", published.jsonl(tmp_path / "a.jsonl", rows(2)))
    found = spoken(recipe, task, task.items)
    raw = found.shards.read(0).audio
    assert soundfile.info(io.BytesIO(raw)).format == "FLAC"
