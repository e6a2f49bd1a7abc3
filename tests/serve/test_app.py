"""What the page's addresses answer, over real connections: clips, answers, errors, the line, and who goes away."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable

import pytest

from salad_ds.serve import app
from salad_ds.serve.limits import Limits, Refused
from tests.serve.conftest import running

pytestmark = pytest.mark.assets


@pytest.fixture(scope="module")
def clip(site, human) -> str:
    return site.clip(human[0])


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def test_the_page_and_its_files(site):
    page = site.ask("GET", "/")
    assert page.status == 200 and page.headers["content-type"].startswith("text/html") and b"<h1>" in page.body
    for name, kind in (("page.css", "text/css"), ("house.css", "text/css"), ("page.js", "text/javascript"),
                       ("recorder.js", "text/javascript"), ("icon.svg", "image/svg+xml")):  # fmt: skip
        found = site.ask("GET", f"/{name}")
        assert found.status == 200 and found.headers["content-type"].startswith(kind) and len(found.body) > 100
        assert name in page.body.decode() or name in ("house.css", "recorder.js")
    assert b"style=" not in page.body and b"onclick" not in page.body and page.body.count(b"<script") == 1


@pytest.mark.parametrize("path", ["/nothing", "/../setup.py", "/static/page.js", "/api", "/api/clips/x", "/%2e%2e/x"])
def test_nothing_else_is_served(site, path):
    found = site.ask("GET", path)
    assert found.status == 404 and found.json["error"] == "there is nothing at this address"


def test_what_is_served_is_told(site, served):
    about = site.ask("GET", "/api/student").json
    assert about["student"].endswith(served.name.split("/")[-1]) and about["asr"] == "packaged:whisper-tiny.en"
    assert about["limits"] == {"seconds": 30.0, "bytes": 32 << 20, "tokens": 200, "text": 500, "words": 3000}
    assert about["chat"] is True and "whisper-tiny.en" in about["encoder"] and about["adapter"].startswith("2 layers")


def test_from_a_clip_to_an_answer(site, human):
    made = site.ask("POST", "/api/clips", human[0])
    assert made.status == 200 and made.json["seconds"] == pytest.approx(2.99) and made.json["rate"] == 16000
    question = {"clip": made.json["clip"], "transcript": human[1], "tokens": 5}
    answer = site.ask("POST", "/api/answers", question)
    assert answer.status == 200 and answer.headers["content-type"] == "application/x-ndjson"
    kinds = [event["event"] for event in answer.lines]
    assert kinds == ["begin", *["step"] * 5, "end", *["own"] * 10]
    again = site.ask("POST", "/api/answers", question)
    assert [line for line in again.lines if line["event"] == "step"] == answer.lines[1:6], "the same question again"
    (words,) = site.ask("POST", "/api/words", {"clip": made.json["clip"]}).lines
    assert words["by"] == "packaged:whisper-tiny.en" and "young man" in words["text"].lower()


def test_the_first_token_comes_before_the_last(site, clip):
    """The answer is sent while it is made."""
    connection = site.connect()
    connection.request("POST", "/api/answers", json.dumps({"clip": clip, "tokens": 100}),
                       {"content-type": "application/json"})  # fmt: skip
    response = connection.getresponse()
    assert response.getheader("content-length") is None
    lines, times = [], []
    for line in response:
        lines.append(json.loads(line))
        times.append(time.monotonic())
    assert len(lines) > 50 and times[-1] > times[1]
    assert lines[1]["index"] == 0 and lines[-1]["event"] == "end"


@pytest.mark.parametrize("question, status, words", [
    ({"clip": "nothing"}, 404, "no longer here"),
    ({}, 404, "no longer here"),
    ({"clip": ["x"]}, 404, "no longer here"),
    ({"text": 5}, 400, "is not a text"),
    ({"text": "a\0b"}, 400, "is not a text"),
    ({"transcript": "\ud800"}, 400, "is not a text"),
    ({"text": "x" * 501}, 413, "has 501 characters; at most 500"),
    ({"transcript": "x" * 3001}, 413, "has 3001 characters"),
    ({"text": "<|audio|> <|audio|>"}, 400, "one place for"),
    ({"transcript": "a <|audio|> b"}, 400, "one place for"),
    ({"tokens": 0}, 400, "1 to 200"), ({"tokens": 201}, 400, "1 to 200"), ({"tokens": "5"}, 400, "1 to 200"),
    ({"tokens": True}, 400, "1 to 200"), ({"tokens": 1e3}, 400, "1 to 200"),
], ids=lambda value: repr(value)[:40])  # fmt: skip
def test_a_question_that_cannot_be_asked(site, clip, question, status, words):
    answer = site.ask("POST", "/api/answers", {"clip": clip, **question} if question else {})
    assert answer.status == status and words in answer.json["error"] and answer.json["mend"]


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 60_000, b'{"a":' * 9_000],
                         ids=lambda body: repr(body[:9]))  # fmt: skip
def test_a_request_that_is_no_json_object(site, body):
    answer = site.ask("POST", "/api/answers", body, content_type="application/json")
    assert answer.status == 400 and answer.json["error"] == "the request is not a JSON object"


def test_other_requests(site):
    assert site.ask("POST", "/api/answers", b"{}", content_type="text/plain").status == 415
    assert site.ask("POST", "/api/answers", b"x" * 70_000, content_type="application/json").status == 413
    assert site.ask("GET", "/api/answers").status == site.ask("DELETE", "/api/clips").status == 405
    assert site.ask("POST", "/api/enter", {"token": "x"}).status == 401, "there is none, so none is right"


@pytest.mark.parametrize("data, status, words", [(b"", 400, "upload is empty"), (b"no sound" * 99, 415, "not audio")],
                         ids=["empty", "text"])  # fmt: skip
def test_a_bad_upload_is_an_error_in_words(site, data, status, words):
    answer = site.ask("POST", "/api/clips", data, content_type="audio/wav")
    assert answer.status == status and words in answer.json["error"] and answer.json["mend"]


def test_an_upload_that_is_too_large_is_refused_before_it_is_there(served, human):
    with running(served, Limits(bytes=50_000)) as site:
        for headers, body in (({"content-length": "60000"}, b""), ({"transfer-encoding": "chunked"}, human[0])):
            with socket.create_connection(("127.0.0.1", site.port), timeout=30) as wire:
                lines = [f"{name}: {value}" for name, value in headers.items()]
                wire.sendall("\r\n".join(["POST /api/clips HTTP/1.1", "host: localhost", *lines, "", ""]).encode())
                for at in range(0, min(len(body), 51_000), 1000):  # half of it: the answer does not wait for the rest
                    piece = body[at:at + 1000]
                    wire.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                answer = wire.recv(9999)
                assert b" 413 " in answer.split(b"\r\n")[0], headers
                assert b"larger than" in answer or b"larger than" in wire.recv(9999)


def test_an_upload_that_stops_half_way_costs_nobody_anything(site, human, capfd):
    with socket.create_connection(("127.0.0.1", site.port)) as wire:
        wire.sendall(b"POST /api/clips HTTP/1.1\r\nhost: localhost\r\ncontent-length: 90000\r\n\r\n" + human[0][:3000])
    assert site.ask("POST", "/api/clips", human[0]).status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_slow_upload_is_given_up(site, monkeypatch):
    monkeypatch.setattr(app, "PATIENCE", 0.2)
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as wire:
        wire.sendall(b"POST /api/clips HTTP/1.1\r\nhost: localhost\r\ncontent-length: 90000\r\n\r\nRIFF")
        assert b" 408 " in wire.recv(9999)


class Gate:
    """Stands between two tokens of an answer: a test says when it goes on."""

    def __init__(self, served, monkeypatch) -> None:
        self.open, self.begun, self.steps = False, 0, 0
        answer = served.answer

        def slow(clip, question):
            self.begun += 1
            for event in answer(clip, question):
                if event["event"] != "begin":
                    until(lambda: self.open, "the gate was never opened")
                self.steps += 1
                yield event

        monkeypatch.setattr(served, "answer", slow)


def begin(site, clip, tokens=5):
    """An answer that is under way: (connection, response, its first event)."""
    connection = site.connect()
    connection.request("POST", "/api/answers", json.dumps({"clip": clip, "tokens": tokens}),
                       {"content-type": "application/json"})  # fmt: skip
    response = connection.getresponse()
    return connection, response, json.loads(response.readline())


def test_one_at_a_time_in_the_order_they_came(served, human, monkeypatch):
    gate = Gate(served, monkeypatch)
    with running(served, Limits(waiting=2)) as site:
        clip = site.clip(human[0])
        first, second, third = (begin(site, clip) for _ in range(3))
        assert [first[2]["event"], second[2], third[2]] == [
            "begin", {"event": "waiting", "ahead": 1}, {"event": "waiting", "ahead": 2}]  # fmt: skip
        full = site.ask("POST", "/api/answers", {"clip": clip})
        assert full.status == 503 and "3 others" in full.json["error"]
        assert gate.begun == 1
        second[1].close(), second[0].close()  # goes away while waiting
        assert json.loads(third[1].readline()) == {"event": "waiting", "ahead": 1}
        gate.open = True
        rest = [json.loads(line) for line in third[1]]
        assert rest[0]["event"] == "begin" and rest[-1]["event"] == "end" and gate.begun == 2
        assert json.loads(first[1].read().splitlines()[-1])["event"] == "end"


def test_who_goes_away_is_not_answered_further(served, human, monkeypatch):
    gate = Gate(served, monkeypatch)
    with running(served) as site:
        clip = site.clip(human[0])
        connection, response, _ = begin(site, clip, tokens=200)
        response.close(), connection.close()
        time.sleep(0.3)  # the server learns of it
        gate.open = True
        after = site.ask("POST", "/api/answers", {"clip": clip, "tokens": 3})
        assert [line["event"] for line in after.lines] == ["begin", "step", "step", "step", "end"]
        assert gate.steps < 20, "of the 202 events of the first"


def test_a_reader_who_does_not_read_keeps_nobody_waiting(served, human, monkeypatch):
    with running(served) as site:
        clip = site.clip(human[0])
        idle = begin(site, clip, tokens=200)  # and then takes nothing
        assert site.ask("POST", "/api/answers", {"clip": clip, "tokens": 2}).lines[-1]["event"] == "end"
        assert json.loads(idle[1].read().splitlines()[-1])["event"] == "end"


def test_closing_ends_answers_and_says_so(served, human, monkeypatch):
    gate = Gate(served, monkeypatch)

    def open_when_it_closes() -> None:
        until(lambda: site.server.should_exit, "the server was never told to stop")
        time.sleep(0.5)  # and by then it does
        gate.open = True

    with running(served) as site:
        connection, response, _ = begin(site, site.clip(human[0]), tokens=200)
        threading.Thread(target=open_when_it_closes, daemon=True).start()
    last = json.loads(response.read().splitlines()[-1])
    assert last == {"event": "error", "error": "the page is being closed", "mend": "start it again"}
    connection.close()


@pytest.mark.parametrize("fault, told", [
    (Refused(413, "it does not fit", "less"), {"error": "it does not fit", "mend": "less"}),
    (RuntimeError("secret /etc/path"), app.DEFECT),
])  # fmt: skip
def test_an_answer_that_fails_says_so_and_the_next_one_does_not(served, human, monkeypatch, capfd, fault, told):
    with running(served) as site:
        clip = site.clip(human[0])
        with monkeypatch.context() as patch:
            patch.setattr(served, "_walk", lambda *_: (_ for _ in ()).throw(fault))
            lines = site.ask("POST", "/api/answers", {"clip": clip}).lines
        assert lines[-1] == {"event": "error", **told} and "secret" not in json.dumps(lines)
        assert ("secret" in capfd.readouterr().err) == isinstance(fault, RuntimeError), "the terminal knows"
        assert site.ask("POST", "/api/answers", {"clip": clip, "tokens": 1}).lines[-1]["event"] == "end"


def test_without_a_chat_template_there_is_no_chat(site, clip, served, monkeypatch):
    monkeypatch.setattr(served.tokenizer, "chat_template", None)
    answer = site.ask("POST", "/api/answers", {"clip": clip, "chat": True})
    assert answer.status == 400 and "no chat template" in answer.json["error"]
    assert site.ask("GET", "/api/student").json["chat"] is False


def test_nothing_is_printed_about_what_is_asked(site, human, capfd):
    clip = site.clip(human[0])
    site.ask("POST", "/api/answers", {"clip": clip, "transcript": human[1], "tokens": 1})
    site.ask("GET", "/nothing?secret=1")
    out, error = capfd.readouterr()
    assert not out and not error
