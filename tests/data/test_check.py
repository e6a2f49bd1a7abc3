"""``salad-ds lint SHARDS``: real shards, really damaged; each fault is counted under its kind and named, and none is
fatal below the threshold."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from salad_ds.audio import encode_flac
from salad_ds.cli import main
from salad_ds.data import check
from salad_ds.data.check import check_shards
from salad_ds.data.check_shard import KINDS, digest
from salad_ds.data.refer import refer
from salad_ds.data.shards import Sample, ShardWriter, Word
from salad_ds.errors import DataError
from salad_ds.files import sha256_file
from salad_ds.lint import lint_shards

RATE, TEXT = 16000, "seven words are heard in this recording"
WORDS = [Word(0.1 * n, 0.1 * n + 0.09, 0.9) for n in range(7)]


def sound(key: str, seconds: float = 0.8, rate: int = RATE) -> bytes:
    wave = np.random.default_rng(len(key)).normal(0, 0.1, round(rate * seconds)).astype(np.float32)
    return encode_flac(wave, rate)


def sample(key: str, **more) -> Sample:
    meta = {"text": TEXT, "duration": 0.8, "sample_rate": RATE, "language": "en"}
    return Sample(key, {**meta, **more}, sound(key))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Eight sound utterances with word times in three shards."""
    directory = tmp_path_factory.mktemp("made") / "speech"
    with ShardWriter(directory, "test", 3, words_engine="test") as writer:
        for number in range(8):
            writer.add(sample(f"s{number}"), WORDS)
    return directory


@pytest.fixture
def speech(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "speech")
    return tmp_path / "speech"


def rewrite(directory: Path, number: int, change) -> None:
    """Write a shard's tar again with ``change(name, content)`` for each member (None drops it; a list replaces it), and
    let manifest and index follow, as if it had been published that way."""
    path = directory / f"{number:06d}.tar"
    with tarfile.open(path) as tar:
        old = [(member.name, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for name, raw in old:
            new = change(name, raw)
            for name_now, raw_now in new if isinstance(new, list) else [(name, new)] if new is not None else []:
                info = tarfile.TarInfo(name_now)
                info.size = len(raw_now)
                tar.addfile(info, io.BytesIO(raw_now))
    adopt(directory, number)


def adopt(directory: Path, number: int, samples: int | None = None) -> None:
    """Let the manifest and the sidecar's first line say what the tar's checksum is now; the index is made again."""
    path, manifest = directory / f"{number:06d}.tar", json.loads((directory / "manifest.json").read_text())
    row = manifest["shards"][number]
    row |= {"bytes": path.stat().st_size, "sha256": sha256_file(path), "samples": samples or row["samples"]}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    words = path.with_suffix(".words.jsonl")
    head, _, rest = words.read_text().partition("\n")
    words.write_text(json.dumps({**json.loads(head), "shard_sha256": row["sha256"]}) + "\n" + rest)
    path.with_suffix(".index.json").unlink(missing_ok=True)


def found(directory: Path) -> tuple[dict[str, int], str, int]:
    """(faults by kind, all that is said about them, bad samples)."""
    *_, row = check_shards("speech", directory)
    assert set(row.counts) <= set(KINDS)
    told = "\n".join(fault.what for faults in row.faults.values() for fault in faults)
    return dict(row.counts), told, row.bad


def meta(change):
    """Change the JSON of s4."""
    return lambda name, raw: json.dumps({**json.loads(raw), **change}).encode() if name == "s4.json" else raw


def test_nothing_is_wrong(speech, capsys):
    assert found(speech) == ({}, "", 0)
    assert main(["lint", str(speech), "--max-bad-share", "0"]) == 0
    assert "no faults" in capsys.readouterr().out


def wav(rate: int, samples: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(samples), rate, format="WAV")
    return buffer.getvalue()


SAMPLE_FAULTS = {
    "bad JSON": (lambda name, raw: raw[:-9] if name == "s4.json" else raw, "json", "s4: JSON does not parse"),
    "JSON that is a list": (lambda name, raw: b"[]" if name == "s4.json" else raw, "json", "s4: JSON is not an object"),
    "no JSON": (lambda name, raw: None if name == "s4.json" else raw, "json", "s4: no JSON"),
    "no text": (meta({"text": " "}), "text", "s4: no text"),
    "half a character": (meta({"text": "a \ud800"}), "text", "s4: text holds half a character"),
    "another script": (meta({"text": "семь слов слышны в этой записи здесь"}), "script",
                       "s4: the text is Cyrillic, its language 'en': 'семь слов"),
    "another sample rate": (lambda name, raw: sound("s4", rate=8000) if name == "s4.flac" else raw, "rate",
                            "s4 has 8000 samples per second, its JSON says 16000"),
    "another length": (lambda name, raw: sound("s4", 1.5) if name == "s4.flac" else raw, "duration",
                       "s4 lasts 1.50 s, its JSON says 0.80 s"),
    "sound of zero bytes": (lambda name, raw: b"" if name == "s4.flac" else raw, "audio", "s4: audio of zero bytes"),
    "sound without samples": (lambda name, raw: [("s4.wav", wav(RATE, 0))] if name == "s4.flac" else raw, "audio",
                              "s4: audio holds no samples"),
    "sound cut short": (lambda name, raw: raw[:100] if name == "s4.flac" else raw, "audio", "s4: audio"),
    "noise for sound": (lambda name, raw: bytes(500) if name == "s4.flac" else raw, "audio",
                        "s4: audio does not decode"),
    "a key twice in a shard": (
        lambda name, raw: [(name.replace("s5", "s3"), raw)], "duplicate", "s3: duplicate key"),
    "a path that escapes": (
        lambda name, raw: [(name.replace("s4", "../../s4"), raw)], "path",
        "../../s4: path leads out of the archive ('../../s4"),
    "no sound": (lambda name, raw: None if name == "s4.flac" else raw, "mixed", "s4 is text among speech"),
}  # fmt: skip


@pytest.mark.parametrize("fault", SAMPLE_FAULTS)
def test_faults_of_a_sample(speech, fault):
    change, kind, told = SAMPLE_FAULTS[fault]
    rewrite(speech, 1, change)
    counts, said, bad = found(speech)
    assert counts[kind] == 1 and f"{speech}/000001.tar: {told}" in said
    assert "000000.tar" not in said and "000002.tar" not in said
    assert bad <= 3, "the other shards' samples are not counted with it"
    if fault in ("another script", "another sample rate", "another length", "sound without samples"):
        assert bad == 1 and counts == {kind: 1}


def test_a_truncated_tar(speech):
    tar = speech / "000001.tar"
    raw = tar.read_bytes()
    tar.write_bytes(raw[: len(raw) // 2])
    assert found(speech) == ({"tar": 1}, f"{tar} has {len(raw) // 2} bytes, not {len(raw)}", 3)
    adopt(speech, 1)  # as it was published
    counts, said, bad = found(speech)
    assert (counts, bad) == ({"tar": 1}, 3) and f"{tar} is not a whole tar (unexpected end of data)" in said


def test_a_tar_cut_between_two_members(speech):
    tar = speech / "000001.tar"
    with tarfile.open(tar) as opened:
        end = opened.getmembers()[2].offset
    tar.write_bytes(tar.read_bytes()[:end])
    adopt(speech, 1)
    counts, said, bad = found(speech)
    assert counts["tar"] == 1 and f"{tar} ends without the mark of a tar's end" in said and bad == 1
    tar.write_bytes(b"not a tar" * 1000)
    adopt(speech, 1)
    assert "000001.tar is not a whole tar" in found(speech)[1]


def test_a_missing_tar_and_a_flipped_bit(speech):
    (speech / "000000.tar").unlink()
    raw = bytearray((speech / "000001.tar").read_bytes())
    raw[-1] ^= 1
    (speech / "000001.tar").write_bytes(raw)
    counts, said, bad = found(speech)
    assert (counts["missing"], counts["checksum"], bad) == (1, 1, 6)
    assert f"{speech}/000000.tar is missing" in said
    assert f"{speech}/000001.tar is damaged: its checksum is not the manifest's" in said


def test_a_key_in_two_shards(speech):
    for name in ("000000.tar", "000000.words.jsonl"):
        shutil.copy(speech / name, speech / name.replace("000000", "000001"))
    adopt(speech, 1)
    counts, said, bad = found(speech)
    assert (counts, bad) == ({"duplicate": 3}, 3)
    assert f"{speech}: the key s1 is there 2 times (000000.tar, 000001.tar)" in said


def test_repeated_keys_are_found_in_slices(tmp_path, speech):
    """However few digests are looked at together."""
    keys = [digest(f"s{n}") for n in (*range(8), 3, 5, 5)]
    shards = check.ShardSet.open(speech)
    for at_once in (1, 2, 5, 100):
        with open(tmp_path / "keys", "w+b") as file:
            file.write(np.array(keys, np.uint64).tobytes())
            assert check.repeated(file, shards, at_once) == {}, "no key is in the indexes twice"
    shutil.copy(speech / "000001.index.json", speech / "000002.index.json")
    for at_once in (1, 2, 5, 100):
        with open(tmp_path / "keys", "w+b") as file:
            file.write(np.array(keys, np.uint64).tobytes())
            assert sorted(check.repeated(file, shards, at_once)) == ["s3", "s5"]


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.mark.parametrize(("change", "told", "bad"), [
    (lambda rows: [rows[0] | {"words": rows[0]["words"][:3]}, *rows[1:]], "s3 has 3 word times for 7 words", 1),
    (lambda rows: [rows[0] | {"words": rows[0]["words"][::-1]}, *rows[1:]], "s3: word 1 has times", 1),
    (lambda rows: [rows[0] | {"words": [*rows[0]["words"][:6], [0.6, 1.2, 1]]}, *rows[1:]],
     "s3 has a word that ends at 1.20 s of 0.80", 1),
    (lambda rows: [rows[0] | {"words": [[-0.1, 0.1, 1], *rows[0]["words"][1:]]}, *rows[1:]], "s3: word 0 has times", 1),
    (lambda rows: rows[1:], "s3 has no word times and is not among the dropped", 1),
    (lambda rows: [*rows, rows[0]], "s3 is there twice", 1),
    (lambda rows: [*rows, rows[0] | {"key": "stranger"}], "stranger is not in its tar", 0),
])  # fmt: skip
def test_word_times(speech, change, told, bad):
    path = speech / "000001.words.jsonl"
    head, *rows = lines_of(path)
    path.write_text("\n".join([head, *map(json.dumps, change([json.loads(row) for row in rows]))]) + "\n")
    counts, said, _ = found(speech)
    assert counts["words"] >= 1 and f"{path}: {told}" in said
    assert counts["checksum"] == 1 and f"{path} is damaged: its checksum is not its first line's" in said
    head = {name: value for name, value in json.loads(head).items() if name != "words_sha256"}
    _, *rest = lines_of(path)
    path.write_text("\n".join([json.dumps(head), *rest]) + "\n")
    assert found(speech)[0].keys() == {"words"} and found(speech)[2] == bad, "a sidecar may have no checksum"


def test_indexes(speech):
    path = speech / "000001.index.json"
    index = json.loads(path.read_text())
    index["samples"][0]["json"][0] += 512
    path.write_text(json.dumps(index))
    assert found(speech) == ({"index": 1}, f"{path} does not describe its tar", 3)
    path.write_text("{")
    assert found(speech)[0] == {"index": 1}
    path.unlink()
    assert found(speech) == ({}, "", 0), "one that is missing is made when it is needed"


def test_cached_frames(speech):
    from salad_ds.data.features import FrameFormat, write_features

    form, paths = FrameFormat("an encoder", "float16", 4), [speech / f"00000{n}.features.safetensors" for n in range(3)]
    for number, path in enumerate(paths):
        keys = [f"s{n}" for n in range(3 * number, min(3 * number + 3, 8))]
        with write_features(path, form, sha256_file(speech / f"00000{number}.tar"), keys, [10] * len(keys)) as put:
            for place in range(len(keys)):
                put(place, np.random.default_rng(place).normal(size=(10, 4)))
    assert found(speech) == ({}, "", 0)
    raw = bytearray(paths[0].read_bytes())
    raw[-60] ^= 1
    paths[0].write_bytes(raw)
    shutil.copy(paths[2], paths[1])
    counts, said, bad = found(speech)
    assert (counts, bad) == ({"features": 2}, 6)
    assert f"{paths[0]} is damaged" in said and f"{paths[1]} holds the frames of another 000001.tar" in said


def test_manifests(speech):
    (speech / "manifest.json").write_text("{")
    counts, said, _ = found(speech)
    assert counts == {"manifest": 1} and "manifest.json is not valid JSON" in said
    with pytest.raises(DataError, match="1 fault"):
        lint_shards([str(speech)], max_bad_share=1.0, quiet=True, stream=io.StringIO())
    (speech / "manifest.json").rename(speech / "writing.json")
    assert "half written" in found(speech)[1]


def test_nothing_is_fatal_below_the_threshold(speech, capsys, tmp_path):
    rewrite(speech, 1, meta({"text": "семь слов слышны в этой записи здесь"}))
    listing = tmp_path / "faults.jsonl"
    assert main(["lint", str(speech), "--max-bad-share", "0.2", "--list", str(listing)]) == 0
    said = capsys.readouterr().out
    assert "1 of 8 samples are bad (12.5%)" in said and "1 script: a text is written in another script" in said
    assert "1 fault; nowhere more than 20% of the samples are bad" in said
    assert [json.loads(line)["kind"] for line in lines_of(listing)] == ["script"]
    assert main(["lint", str(speech), "--max-bad-share=0.1"]) == 1
    assert "too much is bad in" in capsys.readouterr().err
    assert main(["lint", str(speech)]) == 1, "5 % is the default"
    assert main(["lint", str(tmp_path / "nowhere")]) == 1 and "nowhere does not exist" in capsys.readouterr().err


def test_every_fault_is_written_down_and_a_few_are_shown(tmp_path, capsys):
    with ShardWriter(tmp_path / "speech", "test", 100) as writer:
        for number in range(60):
            writer.add(sample(f"s{number:02d}", language="ru"))
    listing = tmp_path / "faults.jsonl"
    assert main(["lint", str(tmp_path / "speech"), "--list", str(listing)]) == 1
    said = capsys.readouterr().out
    assert said.count("the text is Latin") == check.SHOWN and f"{60 - check.SHOWN} more" in said
    rows = [json.loads(line) for line in lines_of(listing)]
    assert len(rows) == 60 and all(f"s{number:02d}" in rows[number]["what"] for number in range(60))


def test_tars_in_place_are_checked_where_they_lie(speech, tmp_path):
    tars = sorted(speech.glob("*.tar"))
    refer(tmp_path / "there", tars, "x", quiet=True)
    assert found(tmp_path / "there") == ({}, "", 0)
    raw = bytearray(tars[1].read_bytes())
    with tarfile.open(tars[1]) as tar:
        place = next(member for member in tar if member.name.endswith("flac")).offset_data
    raw[place] ^= 0xFF
    tars[1].write_bytes(raw)
    counts, said, _ = found(tmp_path / "there")
    assert counts["audio"] == 1 and f"{tars[1]}: s3: audio does not decode" in said
    tars[2].unlink()
    assert f"{tars[2]} is missing" in found(tmp_path / "there")[1]
