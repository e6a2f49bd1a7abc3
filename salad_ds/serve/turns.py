"""One at a time: whoever comes while somebody is answered waits in a line, and sees how many are before them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from salad_ds.serve.limits import Refused


class Turns:
    """A line with room for ``waiting`` behind the one whose turn it is. It belongs to one event loop."""

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self.line: list[object] = []
        self.moved = asyncio.Event()

    def require_room(self) -> None:
        """Raises Refused when the line is full."""
        if len(self.line) > self.waiting:
            raise Refused(503, f"{len(self.line)} others are being answered or wait", "try again in a minute")

    @contextlib.asynccontextmanager
    async def turn(self, tell: Callable[[int], None]) -> AsyncIterator[None]:
        """Wait for one's turn; ``tell(ahead)`` whenever the line moves. Raises Refused when it is full; who is
        cancelled while waiting leaves the line."""
        self.require_room()
        ticket = object()
        self.line.append(ticket)
        try:
            while ahead := self.line.index(ticket):
                tell(ahead)
                await self.moved.wait()
            yield
        finally:
            self.line.remove(ticket)
            self.moved.set()
            self.moved = asyncio.Event()
