"""Shards: what is written is read back, by us and by plain webdataset; nothing half-written passes for whole."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salad_ds.audio import encode_flac
from salad_ds.config import StorageConfig
from salad_ds.data.rejections import Rejections
from salad_ds.data.samples import make_key, split_name
from salad_ds.data.shard_index import scan
from salad_ds.data.shards import Sample, ShardSet, ShardWriter, Word, finished, read_words, words_path, write_words
from salad_ds.errors import DataError
from salad_ds.files import sha256_file
from salad_ds.text import split_words

texts = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=40).filter(lambda t: t.strip())


def speech(key, text="hello there you", seconds=0.1):
    wave = np.random.default_rng(len(key)).normal(0, 0.1, round(16000 * seconds)).astype(np.float32)
    return Sample(key, {"text": text, "duration": seconds, "sample_rate": 16000}, encode_flac(wave, 16000))


def fill(directory, n=7, per_shard=3, made_from=None, **options):
    with ShardWriter(directory, "test", per_shard, made_from or {"n": n}, **options) as writer:
        for i in range(n):
            writer.add(speech(f"k{i}"))
    return writer.manifest


def files(directory):
    return {path.name: path.read_bytes() for path in sorted(Path(directory).iterdir())}


@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True), texts, min_size=1,
                       max_size=12), st.integers(1, 5))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_texts_come_back_in_order(tmp_path_factory, rows, per_shard):
    directory = tmp_path_factory.mktemp("s")
    with ShardWriter(directory, "test", per_shard) as writer:
        for key, text in rows.items():
            writer.add(Sample(key, {"text": text}))
    shards = ShardSet.open(directory)
    assert (len(shards), shards.kind, len(shards.shards)) == (len(rows), "text", -(-len(rows) // per_shard))
    for i, (key, text) in enumerate(rows.items()):
        sample = shards.read(i)
        assert (sample.key, sample.text, sample.audio) == (key, text.strip(), None)
        assert shards.entry(i).n_words == len(split_words(text))
    shards.verify()


def test_plain_webdataset_reads_what_we_read(tmp_path):
    manifest = fill(tmp_path)
    shards = ShardSet.open(tmp_path)
    plain = list(webdataset.WebDataset([str(path) for path in shards.shards], shardshuffle=False))
    assert [raw["__key__"] for raw in plain] == [entry.key for entry in shards.entries()]
    for i, raw in enumerate(plain):
        sample = shards.read(i)
        assert raw["flac"] == sample.audio and json.loads(raw["json"]) == sample.meta
    assert manifest["samples"] == 7 and manifest["seconds"] == pytest.approx(0.7) == shards.seconds


def test_the_same_samples_give_the_same_bytes(tmp_path):
    fill(tmp_path / "a")
    fill(tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert ShardSet.open(tmp_path / "a").digest == ShardSet.open(tmp_path / "b").digest


KILLED = """
import os, signal, sys
from tests.data.test_shards import speech
from salad_ds.data.shards import ShardWriter
with ShardWriter(sys.argv[1], "test", 3, {"n": 7}) as writer:
    for i in range(5):
        writer.add(speech(f"k{i}"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_goes_on_at_the_next_shard(tmp_path):
    fill(tmp_path / "whole")
    broken = tmp_path / "broken"
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", KILLED, str(broken)], cwd=root,
                         env={**os.environ, "PYTHONPATH": str(root)})
    assert run.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="half written"):
        ShardSet.open(broken)
    before = (broken / "000000.tar").stat().st_mtime_ns
    with ShardWriter(broken, "test", 3, {"n": 7}) as writer:
        begun = [writer.begin(f"k{i}") and writer.add(speech(f"k{i}")) for i in range(7)]
    assert begun == [False] * 3 + [True] * 4
    assert (broken / "000000.tar").stat().st_mtime_ns == before
    assert files(broken) == files(tmp_path / "whole")


def test_what_was_made_from_something_else_is_refused(tmp_path):
    fill(tmp_path, made_from={"seed": 1})
    assert finished(tmp_path, {"seed": 1})["samples"] == 7
    with pytest.raises(DataError, match="seed: 1 there, 2 wanted"):
        finished(tmp_path, {"seed": 2})
    with pytest.raises(DataError, match="no prepare run wrote"):
        (tmp_path / "manifest.json").unlink()
        fill(tmp_path)


def test_bad_samples_are_counted_and_too_many_stop(tmp_path):
    with ShardWriter(tmp_path / "a", "test") as writer:
        assert writer.add(speech("a")) and not writer.add(speech("a"))
        writer.reject("does not decode", "b", "cut short")
    assert writer.manifest["rejected"] == {"does not decode": {"count": 1, "examples": ["b: cut short"]},
                                           "duplicate key": {"count": 1, "examples": ["a"]}}
    with pytest.raises(DataError, match="6 of 7 samples.*does not decode"):
        with ShardWriter(tmp_path / "b", "test", max_bad_share=0.05) as writer:
            writer.add(speech("a"))
            for i in range(6):
                writer.reject("does not decode", f"x{i}")
    with pytest.raises(DataError, match="no sample at all"):
        with ShardWriter(tmp_path / "c", "test"):
            pass


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "../a", "-a", "x" * 81, "ü"])
def test_keys_that_are_none(tmp_path, key):
    with pytest.raises(DataError, match="key"):
        with ShardWriter(tmp_path, "test") as writer:
            writer.add(speech(key))
    assert split_name(f"{make_key(key)}.json") == (make_key(key), "json")


@given(st.text(max_size=120), st.text(max_size=120))
def test_made_keys_are_keys_and_differ(a, b):
    for name in (a, b):
        assert split_name(make_key(name) + ".flac") == (make_key(name), "flac") and len(make_key(name)) <= 80
    assert a == b or make_key(a) != make_key(b)


def test_speech_and_text_do_not_mix(tmp_path):
    with pytest.raises(DataError, match="among"):
        with ShardWriter(tmp_path, "test") as writer:
            writer.add(speech("a"))
            writer.add(Sample("b", {"text": "b"}))


# ---- foreign tars

def foreign(path, members):
    with tarfile.open(path, "w") as tar:
        for name, raw in members:
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))


def test_foreign_tars_are_indexed_and_their_bad_samples_named(tmp_path):
    audio = speech("x").audio
    foreign(tmp_path / "EN-B000000.tar", [
        ("./EN_1.flac", audio), ("./EN_1.json", json.dumps({"text": " A leading space.", "duration": 0.1}).encode()),
        ("sub/EN_2.json", json.dumps({"text": "No duration"}).encode()), ("sub/EN_2.flac", audio),
        ("EN_3.flac", audio), ("EN_3.json", b"{"),
        ("EN_4.flac", audio), ("EN_4.json", json.dumps({"text": "  "}).encode()),
        ("EN_5.flac", b"noise"), ("EN_5.json", json.dumps({"text": "no sound"}).encode()),
        ("./EN_1.flac", audio), ("./EN_1.json", json.dumps({"text": "again"}).encode())])
    shards = ShardSet.open(tmp_path)
    assert [entry.key for entry in shards.entries()] == ["EN_1", "sub__EN_2"]
    assert shards.read(0).text == "A leading space." and shards.entry(1).duration == pytest.approx(0.1)
    assert {reason: row["examples"][0].split(":")[0] for reason, row in shards.manifest["rejected"].items()} == {
        "JSON does not parse": "EN_3", "no text": "EN_4", "audio does not decode": "EN_5", "duplicate key": "EN_1"}


@pytest.mark.parametrize("meta,usable", [
    (b"[" * 100_000, False), (b'{"text": "a b", "duration": 1' + b"0" * 400 + b"}", True),
    (b'{"text": "a b", "duration": NaN}', True),
])  # fmt: skip
def test_json_that_is_made_to_break_readers_costs_its_sample_at_most(tmp_path, meta, usable):
    """Nested deeper than Python goes; a number that no float holds."""
    foreign(tmp_path / "x.tar", [("a.json", meta), ("a.flac", speech("a").audio)])
    rejections = Rejections()
    rows = scan(tmp_path / "x.tar", rejections=rejections)["samples"]
    assert [(row["key"], row["duration"]) for row in rows] == ([("a", 0.1)] if usable else [])
    assert usable or rejections.table()["JSON does not parse"]["count"] == 1


@pytest.mark.parametrize("name", ["../evil.json", "/etc/evil.json", "a/../../evil.json"])
def test_members_that_lead_out_are_refused(tmp_path, name):
    foreign(tmp_path / "a.tar", [(name, b"{}")])
    with pytest.raises(DataError, match="leads out"):
        ShardSet.open(tmp_path)


def test_links_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("a.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match="no sample at all"):
        ShardSet.open(tmp_path)


# ---- damage

def test_damage_is_named(tmp_path):
    fill(tmp_path)
    shard = tmp_path / "000001.tar"
    raw = bytearray(shard.read_bytes())
    raw[shards_place(tmp_path)] ^= 0xFF
    shard.write_bytes(raw)
    with pytest.raises(DataError, match="000001.tar is damaged"):
        ShardSet.open(tmp_path).verify()
    shard.write_bytes(raw[:-1])
    with pytest.raises(DataError, match="000001.tar has"):
        ShardSet.open(tmp_path).read(4)
    assert ShardSet.open(tmp_path).read(0).key == "k0", "damage costs the shard, not the corpus"
    shard.unlink()
    with pytest.raises(DataError, match="000001.tar is missing"):
        ShardSet.open(tmp_path)
    with pytest.raises(DataError, match="no shards"):
        ShardSet.open(tmp_path / "nowhere")


def shards_place(directory):
    return ShardSet.open(directory).entry(4).audio[0] + 10


def test_an_index_of_another_tar_is_refused_and_a_missing_one_made_again(tmp_path):
    fill(tmp_path)
    entries = list(ShardSet.open(tmp_path).entries())
    (tmp_path / "000001.index.json").unlink()
    assert list(ShardSet.open(tmp_path).entries()) == entries
    (tmp_path / "000001.index.json").write_bytes((tmp_path / "000000.index.json").read_bytes())
    with pytest.raises(DataError, match="another 000001.tar"):
        ShardSet.open(tmp_path).entry(4)


def test_many_threads_read_more_shards_than_files_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr("salad_ds.data.shard_set.OPEN_FILES", 2)
    fill(tmp_path, n=12, per_shard=1)
    shards = ShardSet.open(tmp_path)
    wrong = []

    def read(seed):
        for i in np.random.default_rng(seed).integers(0, 12, 100):
            if shards.read(int(i)).key != f"k{i}":
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    with pytest.raises(IndexError):
        shards.read(12)


# ---- size

def test_a_hundred_thousand_shards_open_at_once(tmp_path):
    """Opening reads the manifest and looks at no tar: these lie in a bucket that does not exist."""
    rows = [{"name": f"{n:06d}.tar", "samples": 64, "seconds": 640.0, "bytes": 10_000_000, "sha256": f"{n:064x}",
             "url": f"s3://nowhere/{n:06d}.tar"} for n in range(100_000)]
    (tmp_path / "manifest.json").write_text(json.dumps(
        {"schema": 1, "kind": "speech", "shards": rows, "samples": 6_400_000, "seconds": 6.4e7}))
    del rows
    started = time.process_time()  # however busy the machine is
    shards = ShardSet.open(tmp_path)
    seconds = time.process_time() - started
    assert (len(shards), len(shards.shards)) == (6_400_000, 100_000)
    assert shards.locate(6_399_999) == (99_999, 63) and shards.shards[70_000].url == "s3://nowhere/070000.tar"
    assert shards.manifest["shards"][70_000]["sha256"] == f"{70_000:064x}" and shards.counts.sum() == len(shards)
    assert seconds < 10 and len(pickle.dumps(shards)) < 20e6, "some 100 bytes per shard"


def test_what_is_kept_is_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("salad_ds.data.shard_set.INDEX_BYTES", 4000)
    monkeypatch.setattr("salad_ds.data.shard_set.WORDS_BYTES", 4000)
    fill(tmp_path, n=30, per_shard=2)
    shards = ShardSet.open(tmp_path)
    for ref, number in zip(shards.shards, range(0, 30, 2), strict=True):
        write_words(ref, "test", {f"k{number}": [Word(0, 1, 1)] * 3})
    for i in np.random.default_rng(0).integers(0, 30, 200):
        assert shards.entry(int(i)).key == f"k{i}" and (shards.words(int(i)) is None) == bool(i % 2)
        for kept in (shards._index, shards._words):
            assert kept.total == sum(weight for _, weight in kept.kept.values()) <= 4000 and kept.kept


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_big_indexes_and_sidecars_are_read_line_by_line(tmp_path, monkeypatch, kept):
    monkeypatch.setattr("salad_ds.data.lines.KEPT", kept)
    fill(tmp_path, n=50, per_shard=50)
    words = {f"k{i}": [Word(0.1 * i, 0.1 * i + n, 0.5) for n in range(3)] for i in range(0, 50, 3)}
    write_words(tmp_path / "000000.tar", "test", dict(reversed(words.items())))
    shards = ShardSet.open(tmp_path)
    every = list(shards.entries())
    for i in np.random.default_rng(0).permutation(50).tolist():
        assert shards.entry(i) == every[i]
        assert shards.words(i) == read_words(tmp_path / "000000.tar", shards.sha256(0)).words.get(f"k{i}")
    assert (shards._index.total < 2000) == (kept == 0)


def test_an_index_in_another_layout_is_read_too(tmp_path):
    fill(tmp_path)
    before = list(ShardSet.open(tmp_path).entries())
    for layout in ({"indent": 1}, {"separators": (",", ":")}, {"sort_keys": True}):
        path = tmp_path / "000001.index.json"
        path.write_text(json.dumps(json.loads(path.read_text()), **layout))
        assert [ShardSet.open(tmp_path).entry(i) for i in range(7)] == before


def test_a_pickled_and_a_forked_set_read_the_same(tmp_path):
    fill(tmp_path, n=12, per_shard=2)
    shards = ShardSet.open(tmp_path, StorageConfig(retries=1))
    wanted = [shards.read(i).audio for i in range(12)]
    again = pickle.loads(pickle.dumps(shards))
    assert [again.read(i).audio for i in range(12)] == wanted and again.settings.retries == 1
    with shards._index.lock:  # as if another thread were reading when this process forks
        child = os.fork()
        if not child:
            os._exit(0 if [shards.read(i).audio for i in range(12)] == wanted else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---- word times

@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=3))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_word_times_come_back(tmp_path_factory, rows):
    directory = tmp_path_factory.mktemp("w")
    fill(directory, n=2)
    words, at = [], 0.0
    for start, length, score in rows:
        at += start
        words.append(Word(at, at + length, score))
    shard = ShardSet.open(directory).shards[0]
    write_words(shard, "test", {"k1": words}, {"too long": ["k0"]})
    shards = ShardSet.open(directory)
    assert shards.words(0) is None
    for got, want in zip(shards.words(1), words, strict=True):
        np.testing.assert_allclose([got.start, got.end, got.score], [want.start, want.end, want.score], atol=1e-4)
    assert shards.word_times(0).dropped == {"too long": ["k0"]} and shards.unaligned() == []


def test_word_times_of_another_tar_or_another_text_are_refused(tmp_path):
    fill(tmp_path, n=6)
    first, second = ShardSet.open(tmp_path).shards
    write_words(first, "test", {"k0": [Word(0, 1, 1)] * 2})
    with pytest.raises(DataError, match="k0 has 2 word times for 3 words"):
        ShardSet.open(tmp_path).words(0)
    words_path(second).write_bytes(words_path(first).read_bytes())
    with pytest.raises(DataError, match="another 000001.tar"):
        ShardSet.open(tmp_path).words(3)
    with pytest.raises(DataError, match="word 1 has times"):
        write_words(first, "test", {"k0": [Word(1, 2, 1), Word(0.5, 1, 1), Word(2, 3, 1)]})
    path = write_words(second, "test", {f"k{i}": [Word(0, 1, 1)] * 3 for i in (3, 4, 5)})
    head, one, two, three = path.read_text().splitlines()
    path.write_text("\n".join([head, one, two[:-4], three]) + "\n")
    shards = ShardSet.open(tmp_path)
    with pytest.raises(DataError, match="000001.words.jsonl: line 3 is damaged"):
        shards.words(4)
    assert len(shards.words(3)) == len(shards.words(5)) == 3, "a damaged line costs its sample"
    words_path(first).write_text("nonsense\n")
    with pytest.raises(DataError, match="000000.words.jsonl"):
        ShardSet.open(tmp_path).words(0)


def test_a_writer_with_word_times_writes_the_sidecars_too(tmp_path):
    with ShardWriter(tmp_path, "tts", 2, words_engine="tts") as writer:
        for i in range(3):
            writer.add(speech(f"k{i}"), [Word(0, 0.05, 1), Word(0.05, 0.07, 0.5), Word(0.07, 0.1, 1)])
    shards = ShardSet.open(tmp_path)
    assert [len(shards.words(i)) for i in range(3)] == [3] * 3 and shards.word_times(1).engine == "tts"
    assert read_words(shards.shards[0], sha256_file(shards.shards[0])).words["k1"][1] == Word(0.05, 0.07, 0.5)
