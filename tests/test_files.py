"""Files appear whole, one writer at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from salad_ds.errors import DataError
from salad_ds.files import atomic_path, digest_of, read_json, sha256_file, sole_writer, write_json, writing_beside


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    target = tmp_path / "a" / "b.json"
    write_json(target, {"x": 1})
    with pytest.raises(RuntimeError), atomic_path(target) as part:
        part.write_text("half")
        raise RuntimeError
    assert read_json(target) == {"x": 1} and [f.name for f in target.parent.iterdir()] == ["b.json"]


def test_damaged_and_missing_json_are_named(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    for name, words in (("bad.json", "not valid JSON"), ("gone.json", "is missing")):
        with pytest.raises(DataError, match=words) as error:
            read_json(tmp_path / name)
        assert name in error.value.what


def test_digests_depend_on_content_only(tmp_path):
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1}) != digest_of({"a": 1, "b": [3]})
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_file(tmp_path / "f").startswith("ba7816bf8f01cfea")


def test_one_writer_at_a_time_and_a_killed_one_lets_go(tmp_path):
    code = (
        "import sys, time; from salad_ds.files import sole_writer\n"
        "with sole_writer(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with sole_writer(tmp_path) as free:
        assert not free
    began = time.monotonic()
    with sole_writer(tmp_path, patience=0.5) as free:
        assert not free and time.monotonic() - began >= 0.5
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with sole_writer(tmp_path, patience=5) as free:
        assert free


def test_the_first_of_several_writers_sweeps_up_and_no_later_one(tmp_path):
    def torn() -> None:
        (tmp_path / ".a.words.x.part").write_text("half")

    torn()
    with writing_beside(tmp_path, ".*.words.*.part", ".align.lock"):
        assert [path.name for path in tmp_path.iterdir()] == [".align.lock"]
        torn()
        with writing_beside(tmp_path, ".*.words.*.part", ".align.lock"):
            assert (tmp_path / ".a.words.x.part").exists(), "the other one may be writing it"
    with writing_beside(tmp_path, ".*.words.*.part", ".align.lock"):
        assert not (tmp_path / ".a.words.x.part").exists()
