"""What was appended is there after any crash; what is damaged is gone, and nothing else is made of it."""

import os
import signal
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from salad_ds.files import digest_of
from salad_ds.synth import spool as module
from salad_ds.synth.spool import Spool

OWNER = digest_of({"x": 1})
HEADS = st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=9), st.floats(allow_nan=False)),
                        max_size=3)
RECORDS = st.lists(st.tuples(st.integers(0, 2 ** 64 - 1), HEADS, st.binary(max_size=40)), max_size=6)


def fill(path, records):
    """Appends; returns where each record ends in the file."""
    path.unlink(missing_ok=True)
    ends = []
    with Spool(path, OWNER) as spool:
        for number, head, body in records:
            spool.append(number, head, body)
            ends.append(path.stat().st_size)
    return ends


def content(spool):
    return {number: (spool.head(number), spool.body(number)) for number in spool}


def expected(records):
    return dict(sorted({number: (head, body) for number, head, body in records}.items()))


@given(RECORDS)
def test_what_was_appended_is_there(tmp_path_factory, records):
    path = tmp_path_factory.getbasetemp() / "a.spool"
    fill(path, records)
    with Spool(path, OWNER) as spool:
        assert content(spool) == expected(records) and all(number in spool for number, _, _ in records)


@given(RECORDS, st.data())
@settings(max_examples=200)
def test_a_torn_or_damaged_file_keeps_what_is_before_the_damage(tmp_path_factory, records, data):
    path = tmp_path_factory.getbasetemp() / "b.spool"
    ends = fill(path, records)
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans(), label="cut"):
        del raw[at:]
    else:
        raw[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    sound = [record for record, end in zip(records, ends, strict=True) if end <= at]
    if at < len(module.MAGIC) + 16:
        sound = []
    with Spool(path, OWNER) as spool:
        assert content(spool) == expected(sound)
        spool.append(7, {"new": True}, b"new")
    with Spool(path, OWNER) as spool:
        assert content(spool) == expected([*sound, (7, {"new": True}, b"new")])


@given(RECORDS, st.binary(min_size=1, max_size=100))
def test_rubbish_behind_the_last_record_is_cut_off(tmp_path_factory, records, rubbish):
    path = tmp_path_factory.getbasetemp() / "c.spool"
    fill(path, records)
    size = path.stat().st_size
    with open(path, "ab") as file:
        file.write(rubbish)
    with Spool(path, OWNER) as spool:
        assert content(spool) == expected(records)
    assert path.stat().st_size == size


@given(RECORDS, st.data())
def test_only_what_is_kept_is_kept(tmp_path_factory, records, data):
    path = tmp_path_factory.getbasetemp() / "d.spool"
    fill(path, records)
    all_of_them = expected(records)
    kept = data.draw(st.sets(st.sampled_from(sorted(all_of_them)) if all_of_them else st.nothing()))
    with Spool(path, OWNER) as spool:
        spool.keep([*kept, 12345678901234567890])
        assert content(spool) == {number: all_of_them[number] for number in sorted(kept)}
        spool.append(3, {"after": 1}, b"x")
    with Spool(path, OWNER) as spool:
        assert spool.head(3) == {"after": 1} and set(spool) == {*kept, 3}


def test_a_spool_of_something_else_is_not_taken(tmp_path):
    fill(tmp_path / "a", [(1, {"a": 1}, b"x")])
    with Spool(tmp_path / "a", digest_of({"x": 2})) as spool:
        assert not list(spool)
    with Spool(tmp_path / "a", OWNER) as spool:
        assert not list(spool)


KILLED = """
import sys
from salad_ds.synth.spool import Spool
spool = Spool(sys.argv[1], sys.argv[2])
number = 0
while True:
    spool.append(number, {"n": number}, bytes(5000))
    print(number, flush=True)
    number += 1
"""


def test_a_killed_process_loses_nothing_that_was_appended(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "a"), OWNER], stdout=subprocess.PIPE)
    for _ in range(20):
        line = process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    last = int([line, *process.stdout.read().split()][-1])
    process.wait()
    with Spool(tmp_path / "a", OWNER) as spool:
        assert list(spool)[:last + 1] == list(range(last + 1))
        assert spool.head(last) == {"n": last} and spool.body(last) == bytes(5000)
