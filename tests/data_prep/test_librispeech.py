"""LibriSpeech: its FLAC byte for byte, its transcripts, every way a chapter can be damaged; parts and processes."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_prep.librispeech import prepare_librispeech
from salad_ds.audio import decode
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError, RecipeError
from tests.data_prep.conftest import contents, files, killed

pytestmark = pytest.mark.assets
SCRIPT = Path(__file__).parents[2] / "data_prep/librispeech.py"


def command(*arguments, **options):
    """``python data_prep/librispeech.py`` in a directory of its own."""
    return subprocess.Popen([sys.executable, str(SCRIPT), *map(str, arguments)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **options)


def test_recordings_are_copied_and_told(librispeech, spoken, tmp_path):
    made = prepare_librispeech(librispeech, tmp_path / "out")
    got = contents(tmp_path / "out")
    assert list(got) == ["84-121123-0000", "84-121123-0001", "84-121123-0002", "84-121550-0000", "84-121550-0001",
                         "116-288045-0000", "116-288045-0001", "116-288045-0002"]
    sample = got["116-288045-0000"]
    assert sample.audio == (librispeech / "dev-other/116/288045/116-288045-0000.flac").read_bytes()
    assert sample.text == "he might even have been made amiable himself" and sample.meta["speaker"] == "116"
    assert sample.meta["duration"] == len(spoken[4][0]) / 16000 and sample.meta["sample_rate"] == 16000
    assert (made["samples"], made["rejected"], made["left_out"]) == (8, {}, {})
    assert made["seconds"] == pytest.approx(sum(one.meta["duration"] for one in got.values()), abs=1e-3)
    at = (tmp_path / "out/000000.tar").stat().st_mtime_ns
    assert prepare_librispeech(librispeech, tmp_path / "out") == made
    assert (tmp_path / "out/000000.tar").stat().st_mtime_ns == at, "what is done is left alone"


def test_subsets_casing_and_joining(librispeech, spoken, tmp_path):
    made = prepare_librispeech(librispeech / "dev-clean", tmp_path / "a", subset="all", casing="published")
    assert made["samples"] == 5 and contents(tmp_path / "a")["84-121550-0001"].text == spoken[4][1].upper()
    assert prepare_librispeech(librispeech, tmp_path / "b", subset="dev-other")["samples"] == 3
    made = prepare_librispeech(librispeech, tmp_path / "c", subset="dev-clean", join_seconds=11)
    got = contents(tmp_path / "c")
    assert list(got) == ["84-121123-0000-and-1", "84-121123-0002", "84-121550-0000-and-1"], "never over chapters"
    joined = got["84-121123-0000-and-1"]
    wave, rate = decode(joined.audio)
    (_, start, end, text) = joined.meta["parts"][1]
    assert text == spoken[1][1] and joined.text == f"{spoken[0][1]} {spoken[1][1]}"
    np.testing.assert_array_equal((wave[round(start * rate):round(end * rate)] * 32768).astype(int), spoken[1][0])
    for settings in ({"subset": "dev-cleen"}, {"casing": "title"}):
        with pytest.raises(DataError, match=next(iter(settings.values()))):
            prepare_librispeech(librispeech, tmp_path / "d", **settings)
    with pytest.raises(DataError, match="made from something else"):
        prepare_librispeech(librispeech, tmp_path / "c", join_seconds=12)


def damage(root):
    chapter = root / "dev-clean/84/121123"
    flac = chapter / "84-121123-0001.flac"
    flac.write_bytes(flac.read_bytes()[:20000])
    (chapter / "84-121123-0009.flac").write_bytes((chapter / "84-121123-0000.flac").read_bytes())
    with open(chapter / "84-121123.trans.txt", "a") as file:
        file.write("84-121123-0003 NO RECORDING OF THIS\n../../../secret OUT IT GOES\n84-121123-0002 SAID TWICE\n\n")


def test_every_fault_is_named_and_none_is_fatal(librispeech, tmp_path):
    damage(librispeech)
    made = prepare_librispeech(librispeech, tmp_path / "out", max_bad_share=0.5)
    assert made["samples"] == 7
    assert {reason: row["examples"] for reason, row in made["rejected"].items()} == {
        "line does not parse": ["84-121123.trans.txt, line 5: ../../../secret OUT IT GOES"],
        "does not decode": ["84-121123-0001: audio does not decode (Error : flac decoder lost sync.)"],
        "no such file": ["84-121123-0003: 84-121123-0003.flac"], "duplicate key": ["84-121123-0002"],
        "no transcript": ["84-121123-0009: 84-121123.trans.txt"]}
    with pytest.raises(DataError, match="5 of 12 samples of librispeech cannot be used"):
        prepare_librispeech(librispeech, tmp_path / "strict")


@pytest.mark.parametrize("join_seconds", [0, 11])
def test_processes_change_no_byte(librispeech, tmp_path, join_seconds):
    damage(librispeech)
    for workers in (1, 3):
        prepare_librispeech(librispeech, tmp_path / str(workers), samples_per_shard=2, max_bad_share=0.9,
                            join_seconds=join_seconds, workers=workers)
    assert files(tmp_path / "1") == files(tmp_path / "3")


def test_parts_hold_the_same_samples(librispeech, tmp_path):
    damage(librispeech)
    whole = prepare_librispeech(librispeech, tmp_path / "1", join_seconds=11, max_bad_share=0.8)
    for n in (2, 3, 4):  # of 4 parts one has no chapter
        out = tmp_path / str(n)
        for number in reversed(range(n)):
            with pytest.raises(DataError, match="not complete|holds no shards"):
                ShardSet.open(out)
            made = prepare_librispeech(librispeech, out, join_seconds=11, max_bad_share=0.8, part=f"{number}/{n}")
            assert ("part" in made) == (number > 0), "the last one gets the manifest of all"
        assert contents(out) == contents(tmp_path / "1")
        assert {reason: (row["count"], sorted(row["examples"])) for reason, row in made["rejected"].items()} == {
            reason: (row["count"], sorted(row["examples"])) for reason, row in whole["rejected"].items()}
        assert (made["samples"], made["seconds"], made["made_from"]) == (
            whole["samples"], whole["seconds"], whole["made_from"])
        assert [row["name"] for row in made["shards"]] == sorted(path.name for path in out.glob("*.tar"))
        assert prepare_librispeech(librispeech, out, join_seconds=11, part=f"0/{n}") == made
        assert prepare_librispeech(librispeech, out, join_seconds=11) == made, "whoever asks, it is done"


def test_the_manifest_of_all_is_the_same_whoever_writes_it(librispeech, tmp_path):
    made = []
    for place, order in enumerate(([0, 1, 2], [2, 0, 1], [1, 2, 0])):
        for number in order:
            prepare_librispeech(librispeech, tmp_path / str(place), samples_per_shard=2, part=f"{number}/3")
        made.append(files(tmp_path / str(place)))
    assert made[0] == made[1] == made[2] and {"00001-000000.tar", "manifest.part-00002-of-00003.json"} <= set(made[0])


def test_a_killed_part_goes_on_with_the_same_bytes(librispeech, tmp_path):
    damage(librispeech)
    for number in range(200000, 200012):  # enough for some to be left when the blow falls
        folder = librispeech / f"dev-clean/84/{number}"
        folder.mkdir()
        (folder / f"84-{number}.trans.txt").write_text(f"84-{number}-0000 AND SO ON AND ON AND ON AND ON\n")
        shutil.copy(librispeech / "dev-clean/84/121123/84-121123-0002.flac", folder / f"84-{number}-0000.flac")
    options = {"samples_per_shard": 2, "join_seconds": 11, "max_bad_share": 0.9}
    for number in range(2):
        prepare_librispeech(librispeech, tmp_path / "whole", part=f"{number}/2", workers=1, **options)
    prepare_librispeech(librispeech, tmp_path / "out", part="1/2", **options)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    killed("librispeech.py", 5, librispeech, tmp_path / "out", "--part=0/2", "--workers=1", *flags)
    with pytest.raises(DataError, match=r"not complete: 1 of 2 parts are missing \(0/2\)"):
        ShardSet.open(tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("00000-*.tar")}
    done = command(librispeech, tmp_path / "out", "--part=0/2", *flags, cwd=tmp_path)
    out, error = done.communicate()
    assert done.returncode == 0, error
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert len(before) == 2, "and the third was half written"
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before} == before, "nothing is written again"


def test_the_command_works_anywhere_and_says_what_is_missing(librispeech, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    first = command(librispeech, "shards", "--part", "0/2", cwd=empty, env=clean)
    out, error = first.communicate()
    assert first.returncode == 0 and "shards: part 0 of 2: 6 samples in 1 shards, 0:" in out, error
    array = {"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_MIN": "7", "SLURM_ARRAY_TASK_COUNT": "2"}
    second = command(librispeech, "shards", "--part", "auto", cwd=empty, env=clean | array)
    out, error = second.communicate()
    assert second.returncode == 0 and "shards: 8 samples in 2 shards" in out, error
    wrong = command(librispeech, "shards", "--part", "2/2", cwd=empty, env=clean)
    assert "error: part '2/2' is not i/n with 0 <= i < n" in wrong.communicate()[1] and wrong.returncode == 1
    assert sorted(path.name for path in empty.iterdir()) == ["shards"]


def test_other_divisions_are_refused(librispeech, tmp_path):
    prepare_librispeech(librispeech, tmp_path / "out", part="0/3")
    for part, fault in (("0/2", "written in 3 parts, not in 2"), ("", "written in 3 parts, not in 1")):
        with pytest.raises(DataError, match=fault):
            prepare_librispeech(librispeech, tmp_path / "out", part=part)
    with pytest.raises(DataError, match="made from something else"):
        prepare_librispeech(librispeech, tmp_path / "out", part="0/3", casing="published")
    with pytest.raises(DataError, match="in part, from something else .casing: 'lower' there, 'published' wanted"):
        prepare_librispeech(librispeech, tmp_path / "out", part="1/3", casing="published")
    prepare_librispeech(librispeech, tmp_path / "b", part="1/2", casing="published")
    prepare_librispeech(librispeech, tmp_path / "c", part="0/2")
    for path in (tmp_path / "b").glob("*"):
        path.rename(tmp_path / "c" / path.name)
    with pytest.raises(DataError, match="made from different things"):
        prepare_librispeech(librispeech, tmp_path / "c", part="0/2")
    with pytest.raises(RecipeError, match="is not i/n"):
        prepare_librispeech(librispeech, tmp_path / "out", part="1")


def test_bad_shares_hold_for_a_part_and_for_all(librispeech, tmp_path):
    chapter = librispeech / "dev-clean/84/121550"
    for number in range(5):
        (chapter / f"84-121550-{number:04d}.flac").write_bytes(b"noise")
    (chapter / "84-121550.trans.txt").write_text("".join(f"84-121550-{n:04d} NOISE NOISE NOISE\n" for n in range(5)))
    with pytest.raises(DataError, match="5 of 5 samples of librispeech"):
        prepare_librispeech(librispeech, tmp_path / "out", part="1/3")
    assert not (tmp_path / "out/manifest.part-00001-of-00003.json").exists()
    for number in range(2):
        prepare_librispeech(librispeech, tmp_path / "out", part=f"{number}/3", max_bad_share=1.0)
    with pytest.raises(DataError, match="5 of 11 samples of librispeech"):
        prepare_librispeech(librispeech, tmp_path / "out", part="2/3")
    assert not (tmp_path / "out/manifest.json").exists()
    prepare_librispeech(librispeech, tmp_path / "out", part="0/3", max_bad_share=0.5)
    counts = Counter(row["source"] for row in (one.meta for one in contents(tmp_path / "out").values()))
    assert counts == {"librispeech": 6}


def test_a_limit_is_shared(librispeech, tmp_path):
    for number in range(2):
        made = prepare_librispeech(librispeech, tmp_path / "out", part=f"{number}/2", limit=3, samples_per_shard=1)
    assert [row["name"] for row in made["shards"]] == ["00000-000000.tar", "00000-000001.tar", "00001-000000.tar"]
