"""Lint: sound data passes; every planted fault is found and named, and hides no other."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from salad_ds.audio import encode_flac
from salad_ds.config import CorpusConfig, DataConfig, ModelConfig, Recipe, SourceConfig, TeacherConfig, TrainConfig
from salad_ds.data.shards import Sample, ShardWriter, Word
from salad_ds.errors import DataError
from salad_ds.files import sha256_file
from salad_ds.lint import lint
from salad_ds.teacher.precompute import precompute

RATE = 16000
TEXT = "the quick brown fox jumps over it"
WORDS = [Word(0.1 * n, 0.1 * n + 0.09, 0.9) for n in range(7)]


def speech(key: str, seconds: float = 0.8, text: str = TEXT) -> Sample:
    wave = np.random.default_rng(len(key)).normal(0, 0.1, round(RATE * seconds)).astype(np.float32)
    return Sample(key, {"text": text, "duration": seconds, "sample_rate": RATE}, encode_flac(wave, RATE))


def write_speech(directory: Path, samples: list[Sample], per_shard: int = 3) -> None:
    with ShardWriter(directory, "test", per_shard, {"n": len(samples)}, words_engine="test") as writer:
        for sample in samples:
            writer.add(sample, WORDS)


def make_recipe(workdir: Path, llm: Path | str = "none", mode: str = "live") -> Recipe:
    sources = [SourceConfig("speech", "speech"), SourceConfig("text", "text"), SourceConfig("speech", "later/speech")]
    return Recipe(
        name="lint",
        workdir=str(workdir),
        model=ModelConfig(llm=str(llm)),
        corpora=[CorpusConfig("text", "x", "text")],
        data=DataConfig(context=64),
        teacher=TeacherConfig(mode=mode, top_k=8, samples=4),
        stages={"stage1": TrainConfig(sources=sources)},
    )


@pytest.fixture
def work(tmp_path) -> Path:
    """Three shards of speech, one of text, all sound."""
    write_speech(tmp_path / "speech", [speech(f"s{n}") for n in range(8)])
    with ShardWriter(tmp_path / "text", "test") as writer:
        for number in range(4):
            writer.add(Sample(f"t{number}", {"text": f"{TEXT} {number}"}))
    return tmp_path


def faults_of(recipe: Recipe) -> str:
    """What lint prints about faulty data."""
    stream = io.StringIO()
    with pytest.raises(DataError, match="fault"):
        lint(recipe, stream, quiet=True)
    return stream.getvalue()


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x10
    path.write_bytes(raw)


def test_sound_data_passes(work):
    stream = io.StringIO()
    rows = {row.name: row for row in lint(make_recipe(work), stream, quiet=True)}
    assert (rows["speech"].shards, rows["speech"].samples, rows["speech"].timed) == (3, 8, 8)
    assert rows["speech"].seconds == pytest.approx(8 * 0.8)
    assert (rows["text"].kind, rows["text"].samples) == ("text", 4)
    assert rows["later/speech"].note == "not there yet", "a stage that has not run is no fault"
    assert "no faults" in stream.getvalue() and "later/speech" in stream.getvalue()


def test_changes_nothing(work):
    before = {path: path.read_bytes() for path in sorted(work.rglob("*")) if path.is_file()}
    lint(make_recipe(work), io.StringIO(), quiet=True)
    assert before == {path: path.read_bytes() for path in sorted(work.rglob("*")) if path.is_file()}


def test_a_flipped_bit_names_the_shard_and_the_sample(work):
    tar, index = work / "speech/000001.tar", json.loads((work / "speech/000001.index.json").read_text())
    offset, size, _ = index["samples"][1]["audio"]
    flip(tar, offset + 2)  # the mark at the head of the FLAC
    said = faults_of(make_recipe(work))
    assert f"{tar} is damaged: its checksum is not the manifest's" in said
    assert f"{tar}: s4: audio does not decode" in said
    assert "000000.tar" not in said and "000002.tar" not in said


def test_a_flipped_bit_in_the_padding_is_found_too(work):
    tar = work / "speech/000002.tar"
    flip(tar, tar.stat().st_size - 1)
    assert f"{tar} is damaged" in faults_of(make_recipe(work))


def test_truncated_missing_and_foreign_shards_hide_no_other(work):
    cut, gone, stray = (work / f"speech/00000{n}.tar" for n in range(3))
    cut.write_bytes(cut.read_bytes()[:5000])
    gone.unlink()
    shutil.copy(work / "text/000000.tar", work / "saved.tar")
    raw = (work / "saved.tar").read_bytes()
    stray.write_bytes(raw + b"\0" * (stray.stat().st_size - len(raw)))
    said = faults_of(make_recipe(work))
    assert f"{cut} has 5000 bytes, not " in said
    assert f"{gone} is missing" in said
    assert f"{stray} is damaged" in said and "is text among speech" in said


def test_a_truncated_tar_of_the_right_size(work):
    """A copy that stopped half-way and was filled up with zeros, as some file systems do after a power cut."""
    tar = work / "speech/000000.tar"
    raw = tar.read_bytes()
    tar.write_bytes(raw[: len(raw) // 2] + b"\0" * (len(raw) - len(raw) // 2))
    assert f"{tar} is damaged" in faults_of(make_recipe(work))


def test_word_times_of_another_shard_are_refused_by_name(work):
    shutil.copy(work / "speech/000000.words.jsonl", work / "speech/000001.words.jsonl")
    assert "000001.words.jsonl holds the word times of another 000001.tar" in faults_of(make_recipe(work))


def test_an_index_of_another_shard(work):
    shutil.copy(work / "speech/000000.index.json", work / "speech/000001.index.json")
    assert "000001.index.json was made from another 000001.tar" in faults_of(make_recipe(work))


def test_an_index_that_lies(work):
    path = work / "speech/000000.index.json"
    index = json.loads(path.read_text())
    index["samples"][0]["json"][0] += 512
    path.write_text(json.dumps(index))
    assert f"{path} does not describe its tar" in faults_of(make_recipe(work))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda row: {**row, "words": row["words"][:3]}, "s0 has 3 word times for 7 words"),
        (lambda row: {**row, "words": row["words"][::-1]}, "s0: word 1 has times"),
        (
            lambda row: {**row, "words": [[s, e + 9 * (s > 0.5), p] for s, e, p in row["words"]]},
            "s0 has a word that ends",
        ),
        (lambda row: {**row, "key": "stranger"}, "s0 has no word times and is not among the dropped"),
        (lambda row: {**row, "key": "stranger"}, "stranger is not in its tar"),
        (lambda row: "{", "line 2 is damaged"),
    ],
)
def test_bad_word_times(work, change, told):
    path = work / "speech/000000.words.jsonl"
    head, first, *rest = path.read_text().splitlines()
    changed = change(json.loads(first))
    path.write_text("\n".join([head, changed if isinstance(changed, str) else json.dumps(changed), *rest]) + "\n")
    said = faults_of(make_recipe(work))
    assert f"{path}: " in said and told in said


def test_speech_that_was_not_aligned_yet_is_no_fault(work):
    (work / "speech/000001.words.jsonl").unlink()
    row = lint(make_recipe(work), io.StringIO(), quiet=True)[1]
    assert (row.name, row.note, row.timed) == ("speech", "1 shards not aligned yet", 5)


def test_a_key_in_two_shards_is_named(work):
    shutil.rmtree(work / "speech")
    write_speech(work / "speech", [speech(f"s{n}") for n in range(6)])
    one, two = work / "speech/000000.tar", work / "speech/000001.tar"
    shutil.copy(one, two)
    for name in ("index.json", "words.jsonl"):
        shutil.copy(work / f"speech/000000.{name}", work / f"speech/000001.{name}")
    manifest = json.loads((work / "speech/manifest.json").read_text())
    manifest["shards"][1] |= {"sha256": sha256_file(two), "bytes": two.stat().st_size}
    (work / "speech/manifest.json").write_text(json.dumps(manifest))
    said = faults_of(make_recipe(work))
    assert all(f"the key s{n} is there 2 times" in said for n in range(3))


def test_a_sample_whose_json_lies_about_its_length(work):
    shutil.rmtree(work / "speech")
    liar = speech("liar")
    write_speech(work / "speech", [Sample("liar", {**liar.meta, "duration": 3.0}, liar.audio), speech("honest")])
    said = faults_of(make_recipe(work))
    assert "liar lasts 0.80 s, its JSON says 3.00 s" in said and "honest" not in said


def test_damaged_manifests_and_half_written_directories(work):
    (work / "speech/manifest.json").write_text("{")
    (work / "text/manifest.json").rename(work / "text/writing.json")
    said = faults_of(make_recipe(work))
    assert "speech/manifest.json is not valid JSON" in said and "text is half written" in said


# ---- the teacher store


@pytest.fixture(scope="module")
def stored(tmp_path_factory, tiny_llm_dir) -> Path:
    """A work directory of texts with a store of two shards."""
    work = tmp_path_factory.mktemp("stored")
    with ShardWriter(work / "text", "test") as writer:
        for number in range(6):
            writer.add(Sample(f"t{number}", {"text": f"{TEXT} {number} " + TEXT * number}))
    precompute(store_recipe(work, tiny_llm_dir), sources=["text"], group_tokens=64)
    return work


def store_recipe(work: Path, llm: Path) -> Recipe:
    recipe = make_recipe(work, llm, "store")
    recipe.stages = {}
    return recipe


@pytest.fixture
def store(stored, tmp_path) -> Path:
    shutil.copytree(stored, tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.assets
def test_a_sound_store_passes(store, tiny_llm_dir):
    row = lint(store_recipe(store, tiny_llm_dir), io.StringIO(), quiet=True)[-1]
    assert (row.name, row.kind, row.samples) == ("teacher", "store", 6) and row.shards > 1


@pytest.mark.assets
def test_flipped_bits_anywhere_in_the_store_name_each_file(store, tiny_llm_dir):
    first, second = sorted((store / "teacher").glob("*.safetensors"))[:2]
    flip(first, first.stat().st_size - 3)  # the payload
    flip(second, 60)  # the header
    said = faults_of(store_recipe(store, tiny_llm_dir))
    assert f"teacher shard {first} is damaged: its checksum does not match" in said
    assert f"teacher shard {second} is damaged" in said
    settings = store / "teacher/store.json"
    settings.write_text(settings.read_text().replace('"top_k": 8', '"top_k": 9'))
    assert "store.json was changed after it was written" in faults_of(store_recipe(store, tiny_llm_dir))


@pytest.mark.assets
def test_a_store_of_another_teacher_or_other_settings_is_a_fault(store, tiny_llm_dir, tiny_untied_llm_dir):
    assert "was made with teacher 'LlamaForCausalLM-32x2-" in faults_of(store_recipe(store, tiny_untied_llm_dir))
    other = store_recipe(store, tiny_llm_dir)
    other.teacher.samples = 5
    assert "was made with samples 4, the recipe has 5" in faults_of(other)
