"""A real ``mlflow server`` on SQLite, one for all tests of a session; and a gate in front of it, which can be shut."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from salad_ds.train.tracking import MlflowTracker
from salad_ds.train.tracking_base import Tracker
from tests.ports import held_port

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Without eight processes for jobs that nobody gives it."""


@contextlib.contextmanager
def serving(room: Path, store: str = "") -> Iterator[str]:
    """The address of a server that keeps everything in ``room``, or has a ``store`` already. It serves the artefacts as
    well: a client has nothing but HTTP."""
    port = held_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store or f"sqlite:///{room}/server.db",
               "--artifacts-destination", str(room / "kept"), "--host", "127.0.0.1", "--port", str(port),
               "--workers", "1"]  # fmt: skip
    with open(room / "server.txt", "ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True,
                                  env={**os.environ, **QUIET})  # fmt: skip
    try:
        end = time.monotonic() + 150
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            assert server.poll() is None and time.monotonic() < end, (room / "server.txt").read_text()[-2000:]
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        for number in (15, 9):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(10)


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, serving(tmp_path_factory.mktemp("mlflow")) as address:
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")  # on a busy machine it is slow, not away
        yield address


def patient(tracker: Tracker) -> Tracker:
    """The tracker, whose end waits for a server on a busy machine until it has everything."""
    assert isinstance(tracker, MlflowTracker)
    tracker.sender.patience = 300.0
    return tracker


class Gate:
    """A port before a server. Shut, it refuses connections, as that of a server that is away does."""

    def __init__(self, address: str) -> None:
        self.behind, self.port = int(address.rpartition(":")[2]), held_port()
        self.listening: socket.socket | None = None
        self.carrying: list[socket.socket] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, args=(self.listening,), daemon=True).start()

    def shut(self) -> None:
        if self.listening is not None:
            self.listening.shutdown(socket.SHUT_RDWR)
            self.listening.close()
        self.listening = None
        for one in self.carrying:  # a client may keep its connection
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.carrying.clear()

    def accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                server = socket.create_connection(("127.0.0.1", self.behind))
                self.carrying += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self.carry, args=pair, daemon=True).start()

    @staticmethod
    def carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def gate(tracking_server) -> Iterator[Gate]:
    gate = Gate(tracking_server)
    yield gate
    gate.shut()
