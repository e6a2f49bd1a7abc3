"""Progress: a bar where somebody looks, plain lines with rate and time left where a log is written."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

from salad_ds.progress import Progress, clock

CODE = """
import time
from salad_ds.progress import Progress
began = time.monotonic()
with Progress("align", 40, "recordings", every=0.05) as bar:
    for _ in range(40):
        time.sleep(0.01)
        bar.update(1, "3 dropped")
print(time.monotonic() - began)
"""


def test_without_a_terminal_there_are_plain_lines():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=True)
    lines = done.stderr.splitlines()
    most = float(done.stdout) / 0.05 + 2  # on a busy machine forty sleeps take long
    assert 2 <= len(lines) <= most and "\r" not in done.stderr and "\x1b" not in done.stderr
    assert lines[0].startswith("align: ") and "/40 recordings, " in lines[0] and lines[0].endswith("left, 3 dropped")
    assert lines[-1].startswith("align: 40/40 recordings, ") and "left" not in lines[-1] and "/s" in lines[-1]


def test_on_a_terminal_there_is_a_bar():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    job = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:  # the other end is closed
        pass
    assert job.wait(timeout=60) == 0
    shown = seen.decode()
    assert "\r" in shown and "40/40" in shown and "recordings/s" in shown and "3 dropped" in shown and "<" in shown


def test_what_was_done_before_is_no_part_of_the_rate(capsys, monkeypatch):
    now = iter([0.0, 10.0, 10.0, 20.0, 20.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    bar = Progress("train", 100, "steps", every=5.0, done=80)
    bar.update(5)
    assert capsys.readouterr().err == "train: 85/100 steps, 2.0 s each, 0:30 left\n"


def test_a_failure_and_quiet_say_nothing(capsys):
    try:
        with Progress("x", 2, every=100):
            raise ValueError
    except ValueError:
        pass
    with Progress("x", 2, quiet=True) as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_clock():
    shown = {0: "0:00", 59.6: "1:00", 75.3: "1:15", 3599.6: "1:00:00", 36061: "10:01:01"}
    assert {seconds: clock(seconds) for seconds in shown} == shown
