"""TCP ports for what a test starts later: held until then, for a job imports for many seconds before it listens."""

from __future__ import annotations

import socket

HELD: list[socket.socket] = []


def held_port() -> int:
    """A port of this machine that refuses connections and that the system gives to nobody else while this process
    lives. Who asks for it by number with SO_REUSEADDR, as servers and torch's TCPStore do, can listen there: a bound
    socket that does not listen is in nobody's way."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    HELD.append(holder)
    return int(holder.getsockname()[1])
