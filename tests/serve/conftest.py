"""A small student behind the page, in a real server, and real human speech to send to it."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import soundfile
import uvicorn

from salad_ds.assets import resolve
from salad_ds.audio import decode
from salad_ds.serve.app import application
from salad_ds.serve.limits import Limits
from salad_ds.serve.student import Served
from salad_ds.serve.verb import listening
from tests import decided

# Its fixtures, by their names.
decided_llm_dir, model_config = decided.decided_llm_dir, decided.model_config
student, student_dir = decided.student, decided.student_dir


@pytest.fixture(scope="session")
def served(student_dir, decided_llm_dir) -> Served:
    return Served(str(student_dir), base=str(decided_llm_dir), asr="packaged:whisper-tiny.en")


@pytest.fixture(scope="session")
def human() -> tuple[bytes, str]:
    """A sentence of a novel, read by a human: (a 16-bit WAV file of 16 kHz, what is said)."""
    (path,) = Path(resolve("packaged:librivox")).rglob("*-0880.wav")
    (line,) = [line for line in (path.parent / "transcription").read_text().splitlines() if "-0880" in line]
    return wav(*decode(path)), line.partition("(")[0].replace("<s>", "").replace("</s>", "").strip()


def wav(wave: Any, rate: int, subtype: str = "PCM_16", kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass
class Site:
    """A running server. ``ask``: one request over a connection of its own."""

    port: int
    app: Any
    server: uvicorn.Server
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in {**self.headers, **headers}.items()}
        if isinstance(body, dict):
            body, sent = json.dumps(body), {"content-type": "application/json", **sent}
        connection = self.connect()
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def clip(self, data: bytes) -> str:
        return self.ask("POST", "/api/clips", data).json["clip"]


@contextmanager
def running(served: Served, limits: Limits | None = None, **settings: Any) -> Iterator[Site]:
    """The application, served on a free port by a thread of this process."""
    with listening("127.0.0.1", 0) as bound:
        app = application(served, limits or Limits(), closing=lambda: server.should_exit, **settings)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none",
                                               timeout_graceful_shutdown=60))  # fmt: skip
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        until = time.monotonic() + 180
        while not server.started and time.monotonic() < until:
            time.sleep(0.02)
        try:
            yield Site(bound.getsockname()[1], app, server)
        finally:
            server.should_exit = True
            thread.join(180)
            assert not thread.is_alive()


@pytest.fixture(scope="package")
def site(served) -> Iterator[Site]:
    """The page as it is served by default."""
    with running(served) as found:
        yield found
