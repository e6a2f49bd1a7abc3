"""An answer that is sent while it is made: one JSON object per line, until it ends or nobody reads any more."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Tell = Callable[[dict[str, Any]], None]
"""Puts an object on its way; never waits."""


class Lines(Response):
    """``produce(tell)`` makes the lines. It is cancelled when the client goes away.

    Lines wait in memory until the client takes them, so that a slow reader does not keep the next one waiting: an
    answer is a few hundred kilobytes at most.
    """

    media_type = "application/x-ndjson"

    def __init__(self, produce: Callable[[Tell], Awaitable[None]]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.produce = produce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        put, take = anyio.create_memory_object_stream[bytes](math.inf)

        def tell(event: dict[str, Any]) -> None:
            put.send_nowait(json.dumps(event, ensure_ascii=False, allow_nan=False).encode() + b"\n")

        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            async def work() -> None:
                async with put:
                    await self.produce(tell)

            tasks.start_soon(listen)
            tasks.start_soon(work)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with take:
                async for line in take:
                    await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            tasks.cancel_scope.cancel()
