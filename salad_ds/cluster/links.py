"""Whether hosts reach each other at ports that nobody has opened by name, how far away they are, and their clocks.

Gloo and NCCL talk from any host to any other through ports that the system picks. So one rank of each host listens at
such a port, and tries those of all others. What it asks is the time: half the round trip is the error of the answer.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from types import TracebackType

from salad_ds.cluster.meeting import in_words

TIMES = 8
"""Questions per host; the one with the shortest round trip counts."""
AT_ONCE = 32
PATIENCE = 5.0
"""Seconds for a connection, and for an answer."""
CLOCK = struct.Struct("!d")


@dataclass(frozen=True)
class Link:
    """What one host found of another. ``fault``: why there is no connection, ""; ``round_trip``: seconds; ``offset``:
    the other clock minus ours, seconds, right to half a round trip."""

    fault: str = ""
    round_trip: float = 0.0
    offset: float = 0.0

    def plain(self) -> dict[str, object]:
        return asdict(self)


class Listener:
    """A context manager that tells whoever connects to ``port`` the time, seconds since 1970, once for each byte."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.socket = socket.create_server(("", 0), backlog=128)
        self.port = int(self.socket.getsockname()[1])

    def __enter__(self) -> Listener:
        threading.Thread(target=self.serve, name="preflight clock", daemon=True).start()
        return self

    def serve(self) -> None:
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self.answer, args=(peer,), daemon=True).start()

    def answer(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:
            peer.settimeout(4 * PATIENCE)
            while peer.recv(1):
                peer.sendall(CLOCK.pack(self.clock()))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # else accept() sleeps on
        self.socket.close()


def probe(address: str, port: int, patience: float = PATIENCE) -> Link:
    """Connect to a Listener and ask for its time."""
    try:
        with socket.create_connection((address, port), timeout=patience) as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asked = []
            for _ in range(TIMES):
                sent = time.time()
                peer.sendall(b"?")
                answer = b""
                while len(answer) < CLOCK.size:
                    piece = peer.recv(CLOCK.size - len(answer))
                    if not piece:
                        return Link("it hung up")
                    answer += piece
                asked.append((time.time() - sent, sent, CLOCK.unpack(answer)[0]))
    except OSError as error:
        return Link(in_words(error))
    trip, sent, theirs = min(asked)
    return Link("", trip, theirs - (sent + trip / 2))


def probe_all(places: dict[str, tuple[str, int]]) -> dict[str, Link]:
    """Of each host: its link. ``places``: host to (address, port)."""
    if not places:
        return {}
    with ThreadPoolExecutor(min(AT_ONCE, len(places))) as pool:
        return dict(zip(places, pool.map(lambda place: probe(*place), places.values()), strict=True))
