"""Your own recordings: every dialect of manifest, every way a line can be bad."""

import json

import numpy as np
import pytest
import soundfile

from data_prep.manifest import prepare_manifest
from salad_ds.audio import decode
from salad_ds.data.shards import ShardSet, Word
from salad_ds.errors import DataError
from tests.data_prep.conftest import contents, files

RATE = 16000


def wave(seconds, seed=0):
    return (np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).clip(-1, 1)).astype(np.float32)


@pytest.fixture
def corpus(tmp_path):
    root = tmp_path / "corpus"
    (root / "clips").mkdir(parents=True)
    for number in range(4):
        soundfile.write(root / "clips" / f"{number}.wav", wave(1 + number / 4, number), RATE)
    soundfile.write(root / "clips" / "c.mp3", wave(2), RATE)
    return root


def manifest(root, rows, name="manifest.jsonl"):
    (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_jsonl_becomes_shards(corpus, tmp_path):
    manifest(corpus, [{"audio": f"clips/{n}.wav", "text": f"this is number {n}", "speaker": "a"} for n in range(4)]
             + [{"audio_filepath": "clips/c.mp3", "transcript": "a compressed  one"},
                {"audio": "clips/3.wav", "text": "half of it", "start": 0.5, "duration": 0.75, "id": "part"}])
    made = prepare_manifest(corpus, tmp_path / "out", samples_per_shard=4)
    shards = ShardSet.open(tmp_path / "out")
    samples = [shards.read(i) for i in range(len(shards))]
    assert [s.text for s in samples[-3:]] == ["this is number 3", "a compressed one", "half of it"]
    assert [s.audio_format for s in samples] == ["flac"] * 4 + ["mp3", "flac"]
    assert samples[4].audio == (corpus / "clips" / "c.mp3").read_bytes()
    np.testing.assert_allclose(decode(samples[5].audio)[0], wave(1.75, 3)[8000:20000], atol=1e-4)
    assert samples[5].key == "part" and samples[0].meta["speaker"] == "a" and made["rejected"] == {}


def test_csv_and_tsv(corpus, tmp_path):
    (corpus / "manifest.tsv").write_text('client_id\tpath\tsentence\nx\tclips/0.wav\tthe "first" clip\n')
    prepare_manifest(corpus, tmp_path / "a")
    (corpus / "other.csv").write_text('\ufeffid,audio,text\n7,clips/1.wav,"with, a comma"\n')
    prepare_manifest(corpus / "other.csv", tmp_path / "b")
    assert ShardSet.open(tmp_path / "a").read(0).meta["speaker"] == "x"
    assert ShardSet.open(tmp_path / "a").read(0).text == 'the "first" clip'
    sample = ShardSet.open(tmp_path / "b").read(0)
    assert (sample.key, sample.text) == ("7", "with, a comma")


def test_a_table_that_does_not_parse_is_named(corpus, tmp_path):
    rows = "".join(f"clips/1.wav,and so it goes on {n}\n" for n in range(6000))
    (corpus / "manifest.csv").write_text('audio,text\nclips/0.wav,"this quote is never closed\n' + rows)
    with pytest.raises(DataError, match=r"manifest\.csv, after line \d+: field larger than"):
        prepare_manifest(corpus, tmp_path / "out")


def test_neighbours_of_one_speaker_are_joined(corpus, tmp_path):
    manifest(corpus, [{"audio": f"clips/{n}.wav", "text": f"this is number {n}.", "speaker": "ab"[n // 3]}
                      for n in range(4)])
    prepare_manifest(corpus, tmp_path / "out", join_seconds=3.0)
    shards = ShardSet.open(tmp_path / "out")
    first = shards.read(0)
    assert [shards.read(i).text for i in range(len(shards))] == [
        "this is number 0. this is number 1.", "this is number 2.", "this is number 3."]
    assert first.meta["parts"] == [["clips/0", 0.0, 1.0, "this is number 0."],
                                   ["clips/1", 1.3, 2.55, "this is number 1."]]
    joined, rate = decode(first.audio)
    np.testing.assert_allclose(joined[round(1.3 * rate):], wave(1.25, 1), atol=1e-4)
    assert not joined[RATE:round(1.3 * RATE)].any() and first.meta["duration"] == pytest.approx(2.55)


def test_every_bad_line_is_named_and_none_is_fatal(corpus, tmp_path):
    (corpus / "noise.wav").write_bytes(b"this is not a wave file")
    (tmp_path / "outside.wav").write_bytes((corpus / "clips/0.wav").read_bytes())
    (corpus / "link.wav").symlink_to(tmp_path / "outside.wav")
    manifest(corpus, [
        {"audio": "clips/0.wav", "text": "a good one here"}, {"text": "no audio"},
        {"audio": "../outside.wav", "text": "out it goes"},
        {"audio": "/etc/passwd", "text": "out it goes"}, {"audio": "link.wav", "text": "out it goes"},
        {"audio": "clips/none.wav", "text": "not there"}, {"audio": "noise.wav", "text": "no sound"},
        {"audio": "clips/1.wav"},
        {"audio": "clips/1.wav", "text": "far too much text for a second " * 9},
        {"audio": "clips/2.wav", "text": "x"},
        {"audio": "clips/0.wav", "text": "a good one here"},
        {"audio": "clips/3.wav", "text": "so it goes", "start": "?"}])
    with open(corpus / "manifest.jsonl", "a") as file:
        file.write("{broken\n")
    made = prepare_manifest(corpus, tmp_path / "out", max_bad_share=1.0)
    assert made["samples"] == 1
    assert {reason: row["count"] for reason, row in made["rejected"].items()} == {
        "path leads out of the corpus": 3, "no audio path": 1, "no such file": 1, "does not decode": 1,
        "empty transcript": 1,
        "transcript too long for the sound": 1, "transcript too short for the sound": 1, "duplicate key": 1,
        "start or duration is not a number": 1, "line does not parse": 1}
    assert made["rejected"]["no audio path"]["examples"] == ["line 2"]
    with pytest.raises(DataError, match="12 of 13 samples"):
        prepare_manifest(corpus, tmp_path / "strict")


@pytest.mark.parametrize("join_seconds", [0, 3])
def test_parts_and_processes_change_no_sample(corpus, tmp_path, join_seconds):
    rows = [{"audio": f"clips/{n % 4}.wav", "text": f"this is number {n}", "id": f"x{n}"} for n in range(150)]
    twice = [] if join_seconds else [rows[0]]  # a line that is there twice is met twice in one part
    manifest(corpus, [*rows[:100], *twice, {"audio": "../x.wav", "text": "out it goes"}, *rows[100:]])
    options = {"join_seconds": join_seconds, "samples_per_shard": 16}
    whole = prepare_manifest(corpus, tmp_path / "1", workers=1, **options)
    prepare_manifest(corpus, tmp_path / "w", workers=2, **options)
    assert files(tmp_path / "1") == files(tmp_path / "w")
    for n in (2, 3):
        for number in range(n):
            made = prepare_manifest(corpus, tmp_path / str(n), part=f"{number}/{n}", **options)
        assert contents(tmp_path / str(n)) == contents(tmp_path / "1") and made["rejected"] == whole["rejected"]
    assert whole["rejected"]["path leads out of the corpus"]["count"] == 1


def test_word_times_that_come_with_a_manifest(corpus, tmp_path):
    text, given = "this is it", [[0.1, 0.3], [0.3, 0.5, 0.25], [0.6, 0.8, None]]
    rows = [{"audio": f"clips/{n % 4}.wav", "text": text, "id": f"x{n}"} for n in range(9)]
    for row, words in zip(rows, [given, None, given[:2], [[0.5, 0.4]] * 3, "abc", [*given[:2], [0.6, 99.0]],
                                 [given[2], *given[:2]], given, given], strict=True):
        row["words"] = words
    rows[7] |= {"start": 0.5, "duration": 0.75}
    rows[8] |= {"start": 0.5, "duration": 0.95, "audio": "clips/3.wav"}
    made = prepare_manifest(manifest(corpus, [*rows, *rows[1:2]]), tmp_path / "out", samples_per_shard=3)
    shards = ShardSet.open(tmp_path / "out")
    times = [shards.words(i) for i in range(9)]
    assert made["samples"] == 9 and [i for i, words in enumerate(times) if words] == [0, 7, 8]
    assert times[0] == times[8] == [Word(0.1, 0.3, 1.0), Word(0.3, 0.5, 0.25), Word(0.6, 0.8, 1.0)]
    assert times[7][-1] == Word(0.6, 0.75, 1.0)  # the sound ends there
    assert [ref.name for ref in shards.unaligned()] == ["000001.tar"] and shards.word_times(0).engine == "corpus"
    assert {reason: row["count"] for reason, row in made["left_out"].items()} == {
        "word times left out: not in order, or outside of the sound": 3,
        "word times left out: not [start, end] or [start, end, score]": 1, "word times left out: not one per word": 1}
    joined = prepare_manifest(corpus, tmp_path / "joined", join_seconds=3.0)
    words = ShardSet.open(tmp_path / "joined").words(0)
    assert joined["samples"] < 9 and words is None  # its second utterance has none


def test_done_is_skipped_and_another_source_refused(corpus, tmp_path):
    rows = [{"audio": "clips/0.wav", "text": "a good one here"}]
    first = prepare_manifest(manifest(corpus, rows), tmp_path / "out")
    shard = tmp_path / "out" / "000000.tar"
    at = shard.stat().st_mtime_ns
    assert prepare_manifest(corpus, tmp_path / "out") == first and shard.stat().st_mtime_ns == at
    with pytest.raises(DataError, match="made from something else.*source"):
        prepare_manifest(manifest(corpus, rows * 2), tmp_path / "out")
    with pytest.raises(DataError, match="does not exist"):
        prepare_manifest(corpus / "nowhere", tmp_path / "x")
