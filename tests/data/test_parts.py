"""Parts: every unit is in one of them; names; what a launcher says; directories that are not complete."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.data.parts import WHOLE, Part, launched, part_of
from salad_ds.data.shards import Sample, ShardSet, ShardWriter, finished
from salad_ds.errors import DataError, RecipeError
from tests.data.test_shards import speech

LAUNCHERS = ("RANK", "WORLD_SIZE", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN",
             "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP")


@given(st.integers(1, 9), st.integers(0, 40), st.integers(1, 40))
def test_parts_divide_units_and_limits(n, units, limit):
    parts = [Part(number, n) for number in range(n)]
    taken = [list(part.take(range(units))) for part in parts]
    assert sorted(unit for own in taken for unit in own) == list(range(units))
    assert all(part.has(unit) for part, own in zip(parts, taken, strict=True) for unit in own)
    assert sum(part.share(limit) for part in parts) == limit and parts[0].share(0) is None


def test_names():
    part = part_of("3/12")
    assert (part.shard_name(7), part.manifest_name) == ("00003-000007.tar", "manifest.part-00003-of-00012.json")
    assert part_of("0/1") == part_of("") == WHOLE and WHOLE.shard_name(7) == "000007.tar"


@pytest.mark.parametrize("text", ["1/1", "2/2", "-1/2", "1", "a/b", "0/0", "1/2/3", "0/100000", " 0/2"])
def test_what_is_no_part(text):
    with pytest.raises(RecipeError, match="is not i/n"):
        part_of(text)


@pytest.mark.parametrize("told, part", [
    ({}, WHOLE), ({"RANK": "1", "WORLD_SIZE": "4"}, Part(1, 4)), ({"RANK": "0", "WORLD_SIZE": "1"}, WHOLE),
    ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, Part(3, 8)),
    ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1",
      "SLURM_ARRAY_TASK_MAX": "5", "SLURM_ARRAY_TASK_STEP": "2"}, Part(2, 3)),
    ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "RANK": "1", "WORLD_SIZE": "2"}, Part(1, 2)),
    ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1",
      "SLURM_ARRAY_TASK_MAX": "7"}, None),
])
def test_what_a_launcher_says(monkeypatch, told, part):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    if part is None:
        with pytest.raises(RecipeError, match="not evenly numbered"):
            launched()
    else:
        assert part_of("auto") == part


def write(directory, number, n, keys, **options):
    with ShardWriter(directory, "test", 2, {"of": "parts"}, part=Part(number, n), **options) as writer:
        for key in keys:
            writer.add(speech(key))
    return writer.manifest


def test_a_directory_is_complete_when_all_its_parts_are(tmp_path):
    write(tmp_path, 2, 3, [])
    with pytest.raises(DataError, match=r"2 of 3 parts are missing \(0/3, 1/3\)"):
        ShardSet.open(tmp_path)
    assert write(tmp_path, 0, 3, ["a", "b", "c"])["part"] == [0, 3]
    whole = write(tmp_path, 1, 3, ["d"])
    assert [row["name"] for row in whole["shards"]] == ["00000-000000.tar", "00000-000001.tar", "00001-000000.tar"]
    assert (whole["parts"], whole["samples"], whole["kind"]) == (3, 4, "speech")
    assert [entry.key for entry in ShardSet.open(tmp_path).entries()] == ["a", "b", "c", "d"]
    (tmp_path / "manifest.json").unlink()  # as if the last part had been killed before it wrote this
    with pytest.raises(DataError, match="has all its 3 parts"):
        ShardSet.open(tmp_path)
    assert finished(tmp_path, {"of": "parts"}, Part(1, 3)) == whole and ShardSet.open(tmp_path)


def test_kinds_do_not_mix_over_parts_and_nothing_at_all_is_an_error(tmp_path):
    write(tmp_path / "a", 0, 2, ["a"])
    with pytest.raises(DataError, match="holds speech and text"):
        with ShardWriter(tmp_path / "a", "test", 2, {"of": "parts"}, part=Part(1, 2)) as writer:
            writer.add(Sample("b", {"text": "b"}))
    write(tmp_path / "b", 0, 2, [])
    with pytest.raises(DataError, match="no sample at all"):
        write(tmp_path / "b", 1, 2, [])


HOLD = """
import sys, time
from salad_ds.data.parts import part_of
from salad_ds.data.shards import ShardWriter
with ShardWriter(sys.argv[1], "test", 2, {"of": "parts"}, part=part_of(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_to_a_part(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), "0/2"], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="another process is writing part 0/2 of"):
            write(tmp_path, 0, 2, ["a"])
        write(tmp_path, 1, 2, ["b"])
    finally:
        holder.kill()
        holder.wait()
    assert write(tmp_path, 0, 2, ["a"])["samples"] == 2


def test_leftovers_of_another_part_are_left_alone(tmp_path):
    write(tmp_path, 1, 2, ["b"])
    for name in (".00000-000000.tar.x.part", ".00001-000000.tar.x.part"):
        (tmp_path / name).write_bytes(b"half a tar")
    write(tmp_path, 0, 2, ["a"])
    assert [path.name for path in tmp_path.glob(".*.part")] == [".00001-000000.tar.x.part"]
