"""``salad-ds serve`` from a terminal: where it listens, what it refuses, how it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from salad_ds.cli import main, parse
from salad_ds.serve.verb import TOKEN, Options, address_of, listening, options_of

pytestmark = pytest.mark.assets


def test_what_the_command_line_says_is_what_is_served(monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    assert options_of(parse(["serve", "here"])) == Options("here")
    given = ("--host ::1 --port 0 --token abc --allow-host a --allow-host b --tls c k --max-seconds 5 --max-mb 1.5 "
             "--max-tokens 9 --base b --asr w").split()  # fmt: skip
    wanted = Options("here", "::1", 0, "abc", ("a", "b"), ("c", "k"), 5.0, 1.5, 9, "b", "w")
    assert options_of(parse(["serve", "here", *given])) == wanted
    monkeypatch.setenv(TOKEN, "from the environment")
    assert options_of(parse(["serve", "here"])).token == "from the environment"
    assert options_of(parse(["serve", "here", "--token", "said"])).token == "said"


def test_the_address_to_open():
    with listening("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert address_of(Options(""), bound, "", True) == f"http://127.0.0.1:{port}/"
        told = address_of(Options("", tls=("c", "k")), bound, "a b&c", True)
        assert told == f"https://127.0.0.1:{port}/#token=a%20b%26c", "behind the #: not sent, not logged"
    with listening("0.0.0.0", 0) as bound:
        assert f"//{socket.gethostname()}:" in address_of(Options("", "0.0.0.0"), bound, "", False)


@pytest.mark.parametrize("arguments, told", [
    (["--host", "0.0.0.0"], "opens the page to others, and there is no token"),
    (["--host", "0.0.0.0", "--token", "short"], "at least 16 characters"),
    (["--allow-host", "ears.example"], "--allow-host opens the page to others, and there is no token"),
    (["--host", "203.0.113.7", "--token", "new"], "cannot listen on 203.0.113.7"),
    (["--host", "nowhere.invalid"], "has no address"),
    (["--port", "99999"], "cannot listen on 127.0.0.1:99999"),
    (["--max-seconds", "0"], "--max-seconds is 0"), (["--max-seconds", "nan"], "--max-seconds is nan"),
    (["--max-mb", "-1"], "--max-mb is -1"), (["--max-tokens", "0"], "--max-tokens is 0"),
    (["--tls", "/no/cert.pem", "/no/key.pem"], "/no/cert.pem does not exist"),
    (["--tls", "setup.py", "setup.py"], "setup.py and setup.py are no certificate and key"),
    ([], "there is no such directory"),
], ids=str)  # fmt: skip
def test_what_cannot_be_served_is_said_in_a_line(arguments, told, capsys, monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.chdir(Path(__file__).parents[2])
    assert main(["serve", "/no/where", "--port", "0", *arguments]) == 1
    out, error = capsys.readouterr()
    what, mend = error.strip().splitlines()[-2:]
    assert out == "" and "Traceback" not in error
    assert what.startswith("salad-ds serve: ") and told in what and mend.startswith("  mend: ") and len(mend) > 15


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(capsys):
    with listening("127.0.0.1", 0) as bound:
        bound.listen()
        assert main(["serve", "/no/where", "--port", str(bound.getsockname()[1])]) == 1
    error = capsys.readouterr().err
    assert "address already in use" in error and "loading" not in error


def test_another_base_llm_is_refused(served, student_dir, tmp_path, capsys):
    """One whose tokens are others."""
    served.tokenizer.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "tokenizer.json").read_text())
    vocab = written["model"]["vocab"]
    vocab["Ġthe"], vocab["Ġof"] = vocab["Ġof"], vocab["Ġthe"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(written))
    (tmp_path / "config.json").write_text(served.model.config.text_config.to_json_string())
    assert main(["serve", str(student_dir), "--port", "0", "--base", str(tmp_path)]) == 1
    assert "has another tokenizer than the student" in capsys.readouterr().err


def told_within(process: subprocess.Popen, seconds: float, pattern: str) -> re.Match:
    """The first line that matches, as the program prints it."""
    until, seen = time.monotonic() + seconds, ""
    while time.monotonic() < until:
        if select.select([process.stdout], [], [], 0.5)[0]:
            seen += os.read(process.stdout.fileno(), 4096).decode()
        if found := re.search(pattern, seen):
            return found
        assert process.poll() is None, seen
    raise AssertionError(seen)


@pytest.mark.slow
def test_it_says_where_it_is_serves_and_ends_with_ctrl_c(student_dir, human):
    command = [sys.executable, "-m", "salad_ds", "serve", str(student_dir), "--port", "0", "--token", "new"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        port, token = told_within(process, 120, r"open http://127\.0\.0\.1:(\d+)/#token=(\S+)\n").groups()
        key = {"authorization": f"Bearer {token}"}
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
        connection.request("POST", "/api/clips", human[0], key)
        response = connection.getresponse()
        assert response.status == 200 and response.getheader("server") is None
        clip = json.loads(response.read())["clip"]
        connection.request("POST", "/api/answers", json.dumps({"clip": clip, "tokens": 200}),
                           {"content-type": "application/json", **key})  # fmt: skip
        lines = connection.getresponse()
        assert json.loads(lines.readline())["event"] == "begin"
        process.send_signal(signal.SIGINT)  # in the middle of an answer, with a connection that stays open
        last = json.loads(lines.read().splitlines()[-1])
        assert last["event"] in ("error", "end")
        rest = process.communicate(timeout=60)[0].decode()
    finally:
        process.kill()
    assert process.returncode == 0 and rest.strip().endswith("closed") and "Traceback" not in rest
    assert "/api/" not in rest and token not in rest, "no log of who asked for what"
