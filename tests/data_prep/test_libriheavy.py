"""LibriHeavy: cuts sought in their chapters, the book's text, neighbours with what lies between, what is missing."""

import gzip
import json
import shutil

import numpy as np
import pytest

from data_prep.libriheavy import prepare_libriheavy
from salad_ds.audio import decode
from salad_ds.data.cuts import RECORDING
from salad_ds.data.samples import make_key
from salad_ds.errors import DataError
from tests.data_prep.conftest import BOOK, RATE, contents, files

pytestmark = pytest.mark.assets
STRAIGHT = BOOK[2].replace("“", '"').replace("”", '"').replace("’", "'")


def by_id(directory):
    return {sample.meta["id"]: sample for sample in contents(directory).values()}


def pcm(sample):
    wave, rate = decode(sample.audio)
    assert rate == RATE == sample.meta["sample_rate"] and len(wave) / rate == pytest.approx(sample.meta["duration"])
    return (wave * 32768).astype(np.int16)


def test_cuts_are_sought_in_their_chapters(libriheavy, spoken, tmp_path):
    made = prepare_libriheavy(libriheavy.root, tmp_path / "out")
    got = by_id(tmp_path / "out")
    assert made["samples"] == len(got) == 20 and made["rejected"] == {} and "’" in BOOK[2]
    for rows in libriheavy.cuts.values():
        for row in rows:
            sample = got[row["id"]]
            number = next(n for n, text in enumerate(BOOK) if text == row["supervisions"][0]["custom"]["texts"][0])
            np.testing.assert_array_equal(pcm(sample), spoken[number][0])
            assert sample.text == (STRAIGHT if number == 2 else BOOK[number])
            assert (sample.meta["speaker"], sample.meta["language"]) == ("100", "en")
    assert make_key(row["id"]) in contents(tmp_path / "out")


def test_neighbours_are_joined_with_what_lies_between_them(libriheavy, tmp_path):
    made = prepare_libriheavy(libriheavy.root, tmp_path / "out", subset="small", join_seconds=20, gap_seconds=0.5)
    first = next(iter(contents(tmp_path / "out").values()))
    recording, chapter = next(iter(libriheavy.chapters.items()))
    rows = libriheavy.cuts["small"][:3]
    assert first.meta["id"] == f"{recording}_0-and-2" and first.text == f"{BOOK[0]} {BOOK[1]} {STRAIGHT}"
    start, end = rows[0]["start"], rows[2]["start"] + rows[2]["duration"]
    np.testing.assert_array_equal(pcm(first), chapter[round(start * RATE):round(end * RATE)])
    for row, (name, begin, stop, _) in zip(rows, first.meta["parts"], strict=True):
        assert name == row["id"] and begin == pytest.approx(row["start"] - start, abs=1e-4)
        assert stop - begin == pytest.approx(row["duration"], abs=2e-4)
    # In every chapter 3 s lie before the fourth sentence: two samples, or more where 20 s are full.
    assert [len(one.meta.get("parts", [0])) for one in contents(tmp_path / "out").values()] == [3, 2] * 3
    assert made["seconds"] < sum(map(len, libriheavy.chapters.values())) / RATE
    wide = prepare_libriheavy(libriheavy.root, tmp_path / "wide", subset="small", join_seconds=60, gap_seconds=3.5)
    assert wide["samples"] == 3


def test_every_fault_is_named_and_none_is_fatal(libriheavy, tmp_path):
    recordings = list(libriheavy.chapters)
    libriheavy.path(recordings[1]).unlink()
    whole = libriheavy.path(recordings[2]).read_bytes()
    libriheavy.path(recordings[2]).write_bytes(whole[:len(whole) // 2])
    rows = libriheavy.cuts["medium"]
    rows[0]["supervisions"][0]["custom"]["texts"] = ["x", "X"]
    del rows[1]["supervisions"][0]["custom"]
    rows[2]["duration"] = -1
    rows[3]["duration"] = 60.0
    rows[3]["supervisions"][0]["custom"]["texts"][0] *= 8
    rows[4]["recording"]["sources"][0]["source"] = "download/librilight/../../../etc/passwd"
    rows[4]["supervisions"][0]["recording_id"] = rows[4]["recording"]["id"] = "small/somewhere/else"
    libriheavy.write(b'{"id": "cut short\n')
    made = prepare_libriheavy(libriheavy.root, tmp_path / "out", max_bad_share=0.9)
    table = {reason: (row["count"], row["examples"][0]) for reason, row in made["rejected"].items()}
    seconds = sum(row["duration"] for row in libriheavy.cuts["small"][5:10])
    assert table.pop("recording is missing") == (1, f"{recordings[1]}: 5 cuts, {seconds:.0f} s"), "once, not per cut"
    count, example = table.pop("does not decode")
    assert count == 4 and example.startswith(f"{recordings[2]}_") and "02_austen" not in example
    assert f"{recordings[2]}.flac does not decode" in made["rejected"]["does not decode"]["examples"][0]
    assert f"{recordings[3]}.flac ends " in made["rejected"]["does not decode"]["examples"][-1]
    assert table == {
        "transcript too short for the sound": (1, f"{rows[0]['id']}: 6.05 s for 'x'"),
        "not a raw cut of LibriHeavy": (1, "libriheavy_cuts_medium.jsonl.gz, line 2: KeyError: 'custom'"),
        "start or duration is not possible": (1, "libriheavy_cuts_medium.jsonl.gz, line 3: "
                                              f"{rows[2]['id']}: {rows[2]['start']}, -1.0"),
        "path leads out of the corpus": (1, "small/somewhere/else: 1 cuts, 5 s"),
        "line does not parse": (1, "libriheavy_cuts_medium.jsonl.gz, line 6: Invalid control character at: "
                                "line 1 column 18 (char 17)")}
    with pytest.raises(DataError, match="cannot be used"):
        prepare_libriheavy(libriheavy.root, tmp_path / "strict")


def test_a_missing_recording_is_not_fatal_below_the_threshold(libriheavy, tmp_path):
    libriheavy.path(list(libriheavy.chapters)[3]).unlink()
    made = prepare_libriheavy(libriheavy.root, tmp_path / "out", max_bad_share=0.1)  # 1 of 16
    assert made["samples"] == 15 and made["rejected"]["recording is missing"]["count"] == 1


def test_parts_and_processes_change_no_sample(libriheavy, tmp_path):
    libriheavy.path(list(libriheavy.chapters)[1]).unlink()
    libriheavy.write(b"{}\n[\n")
    options = {"join_seconds": 20, "max_bad_share": 0.9, "samples_per_shard": 2}
    whole = prepare_libriheavy(libriheavy.root, tmp_path / "1", workers=1, **options)
    for n in (2, 3):
        for number in range(n):
            made = prepare_libriheavy(libriheavy.root, tmp_path / str(n), part=f"{number}/{n}", **options)
        assert contents(tmp_path / str(n)) == contents(tmp_path / "1")
        counts = {reason: row["count"] for reason, row in made["rejected"].items()}
        assert counts == {reason: row["count"] for reason, row in whole["rejected"].items()}
        assert counts == {"recording is missing": 1, "line does not parse": 1, "not a raw cut of LibriHeavy": 1}
    prepare_libriheavy(libriheavy.root, tmp_path / "processes", workers=3, **options)
    assert files(tmp_path / "processes") == files(tmp_path / "1")


def test_places(libriheavy, tmp_path):
    elsewhere = tmp_path / "disk"
    shutil.move(libriheavy.root / "download/librilight", elsewhere)
    with pytest.raises(DataError, match="librilight is not there.*audio"):
        prepare_libriheavy(libriheavy.root, tmp_path / "out")
    made = prepare_libriheavy(libriheavy.root, tmp_path / "out", audio=str(elsewhere))
    assert made["samples"] == 20
    one = prepare_libriheavy(libriheavy.root / "libriheavy_cuts_medium.jsonl.gz", tmp_path / "one",
                             audio=str(elsewhere), limit=2)
    assert one["samples"] == 2
    with pytest.raises(DataError, match="libriheavy_cuts_large.jsonl.gz is not there"):
        prepare_libriheavy(libriheavy.root, tmp_path / "x", subset="small,large", audio=str(elsewhere))


def test_a_damaged_file_of_cuts_is_named(libriheavy, tmp_path):
    path = libriheavy.root / "libriheavy_cuts_medium.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"medium\.jsonl\.gz is damaged after line \d"):
        prepare_libriheavy(libriheavy.root, tmp_path / "out")


def test_the_record_of_the_docstring_is_read():
    from data_prep import libriheavy as module

    text = module.__doc__[module.__doc__.index('{"id"'):module.__doc__.index("The text is")]
    cut = module.read_cut(" ".join(text.split()).encode())
    assert cut.text.endswith('when the mermaids smile an\' wink?" she asked.') and (cut.start, cut.duration) == (
        243.919, 7.36)
    assert cut.speaker == "100" and cut.source.startswith("download/librilight/small/100/sea_fairies")
    line = json.dumps(json.loads(" ".join(text.split()))).encode()
    assert RECORDING.search(line)[1].decode() == cut.recording
    assert gzip.decompress(gzip.compress(line)) == line
