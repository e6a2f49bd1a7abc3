"""Emilia's own tars, in place: nothing of them is rewritten, and what everybody else reads is what they hold."""

import hashlib
import io
import json
import re
import tarfile
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
import torch

import data_prep.emilia as module
from data_prep.emilia import prepare_emilia
from salad_ds.align.run import align_directory
from salad_ds.audio import decode, resample
from salad_ds.config import AlignConfig, DataConfig, SourceConfig
from salad_ds.data.plan import Planner
from salad_ds.data.shards import ShardSet
from salad_ds.data.stream import Stream
from salad_ds.data.word_times import words_path
from salad_ds.errors import DataError
from salad_ds.hearing import Hearing
from tests.data_prep.conftest import RATE, contents

pytestmark = pytest.mark.assets


def mp3(wave: np.ndarray) -> bytes:
    """16-bit, 16 kHz → MP3 of 24 kHz."""
    buffer = io.BytesIO()
    soundfile.write(buffer, resample((wave / 32768).astype(np.float32), RATE, 24000), 24000, format="MP3")
    return buffer.getvalue()


def write_tar(path: Path, samples: list[tuple[str, dict, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, meta, sound in samples:
            for name, raw in ((f"{key}.json", json.dumps(meta, ensure_ascii=False).encode()), (f"{key}.mp3", sound)):
                info = tarfile.TarInfo(name)
                info.size = len(raw)
                tar.addfile(info, io.BytesIO(raw))


@pytest.fixture(scope="session")
def emilia(tmp_path_factory, spoken):
    """Both halves, as published: two English tars and one that is called German, one English of Emilia-YODAS."""
    root = tmp_path_factory.mktemp("hub") / "Emilia-Dataset"
    sounds = [mp3(wave) for wave, _ in spoken]
    for batch, language, numbers in ((0, "EN", (0, 1, 2)), (1, "EN", (3, 4)), (0, "DE", (1,))):
        rows = []
        for place, number in enumerate(numbers):
            speaker = f"{language}_B{batch:05d}_S00000"
            key = f"{speaker}_W{place:06d}"
            meta = {"id": key, "wav": f"{speaker[:9]}/{speaker}/mp3/{key}.mp3", "text": f" {spoken[number][1]}",
                    "duration": len(spoken[number][0]) / RATE, "speaker": speaker, "language": language.lower(),
                    "dnsmos": 3.0 + 0.1 * number}
            rows.append((key, meta, sounds[number]))
        write_tar(root / "Emilia" / language / f"{language}-B{batch:06d}.tar", rows)
    key = "EN_B000000_S00109_W000023"
    meta = {"_id": key, "text": f" {spoken[4][1]}", "duration": len(spoken[4][0]) / RATE,
            "speaker": "EN_wSq11gYbUgU_SPEAKER_04", "language": "en", "dnsmos": 3.1, "phone_count": 21}
    write_tar(root / "Emilia-YODAS" / "EN" / "EN-B000000.tar", [(key, meta, sounds[4])])
    (root / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    (root / ".cache").mkdir()
    return root


def digests(root):
    return {path.relative_to(root): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.*")
            if path.is_file()}


def test_tars_are_read_in_place(emilia, tmp_path, spoken):
    before = digests(emilia)
    made = prepare_emilia(emilia, tmp_path / "out")
    assert [row["name"] for row in made["shards"]] == [
        "Emilia-YODAS__EN__EN-B000000.tar", "Emilia__DE__DE-B000000.tar", "Emilia__EN__EN-B000000.tar",
        "Emilia__EN__EN-B000001.tar"]
    assert made["samples"] == 7 and made["kind"] == "speech" and not made["rejected"] and not made["left_out"]
    assert made["seconds"] == pytest.approx(sum(len(spoken[n][0]) / RATE for n in (4, 1, 0, 1, 2, 3, 4)), abs=0.01)
    assert digests(emilia) == before and not list((tmp_path / "out").glob("*.tar"))
    got = contents(tmp_path / "out")
    first = got["EN_B00000_S00000_W000000"]
    assert first.text == spoken[0][1] and first.audio_format == "mp3"
    assert first.meta["dnsmos"] == 3.0 and first.meta["wav"].endswith("W000000.mp3")  # their JSON, as it is
    assert got["EN_B000000_S00109_W000023"].meta["phone_count"] == 21
    wave, rate = decode(first.audio)
    assert rate == 24000
    want = resample((spoken[0][0] / 32768).astype(np.float32), RATE, 24000)
    n = min(len(wave), len(want))
    assert abs(len(wave) - len(want)) < 0.06 * rate and np.corrcoef(wave[:n], want[:n])[0, 1] > 0.95


def test_languages_and_quality(emilia, tmp_path):
    made = prepare_emilia(emilia, tmp_path / "en", language="EN", min_dnsmos=3.15)
    assert len(made["shards"]) == 2 and made["samples"] == 3  # the YODAS tar holds nothing that good
    assert made["left_out"]["dnsmos below 3.15"]["count"] == 3 and not made["rejected"]
    assert all(sample.meta["dnsmos"] >= 3.15 for sample in contents(tmp_path / "en").values())
    prepare_emilia(emilia / "Emilia", tmp_path / "de", language="de")
    assert [sample.meta["language"] for sample in contents(tmp_path / "de").values()] == ["de"]
    one = prepare_emilia(emilia / "Emilia" / "EN", tmp_path / "one", tars=1)
    assert [row["name"] for row in one["shards"]] == ["EN-B000000.tar"]
    with pytest.raises(DataError, match="no tars of language 'FR', but of DE, EN"):
        prepare_emilia(emilia, tmp_path / "fr", language="FR")
    with pytest.raises(DataError, match="made from something else"):
        prepare_emilia(emilia, tmp_path / "en", language="EN")
    with pytest.raises(DataError, match="holds no tars"):
        prepare_emilia(emilia / ".cache", tmp_path / "x")


def test_bad_samples_are_counted_and_named(emilia, tmp_path, spoken):
    sound = mp3(spoken[1][0])
    meta = {"text": " he was not", "duration": 2.8, "speaker": "a", "language": "en", "dnsmos": 3.3}
    write_tar(tmp_path / "in/EN/EN-B000000.tar", [
        ("good", meta, sound), ("long", meta | {"text": "far too much text " * 20}, sound),
        ("silent", {key: value for key, value in meta.items() if key != "text"}, sound)])
    (tmp_path / "in/EN/EN-B000001.tar").write_bytes((tmp_path / "in/EN/EN-B000000.tar").read_bytes()[:3000])
    made = prepare_emilia(tmp_path / "in", tmp_path / "out", max_bad_share=1.0)
    assert made["samples"] == 1
    assert {reason: row["count"] for reason, row in made["rejected"].items()} == {
        "transcript too long for the sound": 1, "no text": 1, "tar cannot be read": 1}


def test_parts_and_an_interrupted_run(emilia, tmp_path):
    whole = prepare_emilia(emilia, tmp_path / "1")
    prepare_emilia(emilia, tmp_path / "2", part="1/2")
    with pytest.raises(DataError, match="1 of 2 parts are missing"):
        ShardSet.open(tmp_path / "2")
    made = prepare_emilia(emilia, tmp_path / "2", part="0/2")
    assert made["parts"] == 2 and made["samples"] == 7 and contents(tmp_path / "1") == contents(tmp_path / "2")
    index = tmp_path / "1" / "Emilia__DE__DE-B000000.index.json"
    at = {path: path.stat().st_mtime_ns for path in (tmp_path / "1").glob("*.index.json")}
    (tmp_path / "1/manifest.json").unlink()  # as if the run had been killed before its end
    index.unlink()
    assert prepare_emilia(emilia, tmp_path / "1") == whole
    assert [path for path in at if path.stat().st_mtime_ns != at[path]] == [index]


def test_behind_a_url(emilia, tmp_path):
    system = fsspec.filesystem("memory")
    system.put(str(emilia / "Emilia"), "/emilia-test/Emilia", recursive=True)
    try:
        made = prepare_emilia("memory://emilia-test", tmp_path / "url", language="EN")
        assert [row["url"] for row in made["shards"]] == [f"memory://emilia-test/Emilia/EN/EN-B00000{n}.tar"
                                                          for n in (0, 1)]
        prepare_emilia(emilia / "Emilia/EN", tmp_path / "here")
        want = contents(tmp_path / "here")
        assert contents(tmp_path / "url").keys() == want.keys()
        named = prepare_emilia("memory://emilia-test/Emilia/EN/EN-B{000000..000001}.tar", tmp_path / "braces")
        assert named["samples"] == 5 and contents(tmp_path / "braces").keys() == want.keys()
    finally:
        system.rm("/emilia-test", recursive=True)


def test_from_the_tars_to_spans(emilia, tmp_path, tokenizer):
    """prepare, align, stream."""
    out = tmp_path / "speech"
    prepare_emilia(emilia, out, language="EN")
    report = align_directory(out, AlignConfig(workers=1, min_score=0.01), quiet=True)
    shards = ShardSet.open(out)
    assert report.aligned == 6 and shards.unaligned() == []
    assert all(Path(words_path(ref)).parent == out for ref in shards.shards)
    for i in range(len(shards)):
        words = shards.words(i)
        assert len(words) == len(shards.read(i).text.split()) and words[-1].end <= shards.entry(i).duration + 0.1
    data = DataConfig(context=96, text_words=[2, 4], speech_words=[2, 5], workers=0, shuffle_shards=2)
    planner = Planner([SourceConfig(kind="speech", path="speech")], lambda name: tmp_path / name, data, tokenizer,
                      Hearing(16000, ((1, 320),), 480000, stack=4))
    stream = iter(Stream(planner, global_batch=1, micro_batch=1, pad_id=0, seed=3))
    keys = set()
    for step in islice(stream, 8):
        for batch in step.batches:
            assert batch.audio_lengths.max() > 1600 and batch.speech_lengths.max() > 0
            assert torch.isfinite(batch.audio).all() and batch.audio.abs().max() > 0.01
            keys |= set(batch.keys)
    stream.close()
    assert len(keys) >= 3 and all(any(key in name for key in contents(out)) for name in keys)


def test_the_record_of_the_docstring(emilia):
    text = module.__doc__[module.__doc__.index('{"id"'):module.__doc__.index("\n\n(In Emilia-YODAS")]
    record = json.loads(" ".join(text.split()))
    with tarfile.open(emilia / "Emilia/EN/EN-B000000.tar") as tar:
        own = json.loads(tar.extractfile(tar.next()).read())
    assert list(own) == list(record) and own["id"] == record["id"] and own["text"][0] == record["text"][0] == " "
    assert re.fullmatch(r"EN_B\d{5}/EN_B\d{5}_S\d{5}/mp3/.*\.mp3", own["wav"])
    assert re.fullmatch(r"EN_B\d{5}/EN_B\d{5}_S\d{5}/mp3/.*\.mp3", record["wav"])
