"""The addresses of the page, and what each of them takes.

- ``GET /`` and the files of static/: the page
- ``POST /api/enter`` ``{"token"}``: a cookie for it
- ``GET /api/student``: what is served, and its limits
- ``POST /api/clips``, the file itself as body: a clip; ``{"clip", "seconds", "rate", "notice"}``
- ``POST /api/words`` ``{"clip"}``: lines: what the recogniser hears in it
- ``POST /api/answers`` ``{"clip", "text", "transcript", "chat", "tokens"}``: lines: the answer, see compare.py

Lines are JSON objects; ``{"event": "waiting", "ahead"}`` comes first while others are answered, and an ``{"event":
"error", "error", "mend"}`` ends them. Other errors are a status and ``{"error", "mend"}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from salad_ds import __version__
from salad_ds.errors import SaladError
from salad_ds.model.processing import AUDIO_MARK
from salad_ds.serve.guard import Guard
from salad_ds.serve.limits import TEXT, WORDS, Limits, Refused
from salad_ds.serve.stream import Lines, Tell
from salad_ds.serve.student import Events, Question, Served
from salad_ds.serve.turns import Turns
from salad_ds.serve.uploads import Clips, read_clip

KINDS = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8",
         "svg": "image/svg+xml"}  # fmt: skip
PATIENCE = 60
"""Seconds an upload may take."""
REQUEST = 64 << 10
"""Bytes of a request that is not a clip."""


def files() -> dict[str, Response]:
    """Every file of the page by its address, read once. The report's style is the house's, so it comes along."""
    static = resources.files("salad_ds.serve") / "static"
    found = {f"/{path.name}": path for path in static.iterdir() if path.name.rpartition(".")[2] in KINDS}
    found |= {"/": static / "index.html", "/house.css": resources.files("salad_ds.measure") / "page.css"}
    return {address: Response(path.read_bytes(), media_type=KINDS[path.name.rpartition(".")[2]])
            for address, path in found.items()}


class Page:
    """The handlers. ``closing``: whether the server is being stopped."""

    def __init__(self, served: Served, limits: Limits, closing: Callable[[], bool]) -> None:
        self.served, self.limits, self.closing = served, limits, closing
        self.clips, self.turns = Clips(), Turns(limits.waiting)
        self.models = ThreadPoolExecutor(1, "models")  # one thread: torch keeps a team of helpers for each
        self.decoders = anyio.CapacityLimiter(2)
        self.guard: Guard | None = None

    async def enter(self, request: Request) -> Response:
        given = (await fields(request)).get("token")
        assert self.guard is not None
        if not isinstance(given, str) or not await self.guard.enter(given):
            raise Refused(401, "this is not the token", "enter the one that was printed when the page was started")
        response = JSONResponse({})
        response.set_cookie(self.guard.cookie, self.guard.session, httponly=True, samesite="strict",
                            secure=request.url.scheme == "https")  # fmt: skip
        return response

    async def student(self, _: Request) -> Response:
        bounds = {"seconds": self.limits.seconds, "bytes": self.limits.bytes, "tokens": self.limits.tokens,
                  "text": TEXT, "words": WORDS}  # fmt: skip
        return JSONResponse({**self.served.about(), "limits": bounds, "version": __version__, "mark": AUDIO_MARK})

    async def upload(self, request: Request) -> Response:
        data = await body(request, self.limits.bytes)
        clip = await anyio.to_thread.run_sync(read_clip, data, self.limits, limiter=self.decoders)
        return JSONResponse({"clip": self.clips.add(clip), "seconds": clip.seconds, "rate": clip.rate,
                             "notice": clip.notice})  # fmt: skip

    async def words(self, request: Request) -> Response:
        clip = self.clips.get(str((await fields(request)).get("clip")))
        if not self.served.asr:
            raise Refused(404, "there is no recogniser", "start the page with --asr packaged:whisper-base")

        def heard() -> Events:
            yield {"event": "words", "text": self.served.words(clip), "by": self.served.asr}

        return self.lines(heard())

    async def answers(self, request: Request) -> Response:
        given = await fields(request)
        clip, question = self.clips.get(str(given.get("clip"))), asked(given, self.limits)
        if question.chat and not self.served.chats:
            raise Refused(400, "this LLM has no chat template", "let it continue instead")
        return self.lines(self.served.answer(clip, question))

    def lines(self, events: Events) -> Response:
        """``events`` made in the models' thread when it is their turn; between two of them it can end."""
        self.turns.require_room()

        async def produce(tell: Tell) -> None:
            loop = asyncio.get_running_loop()
            try:
                async with self.turns.turn(lambda ahead: tell({"event": "waiting", "ahead": ahead})):
                    while (event := await loop.run_in_executor(self.models, next, events, None)) is not None:
                        tell(event)
                        if self.closing():
                            raise Refused(503, "the page is being closed", "start it again")
            except SaladError as error:
                tell({"event": "error", "error": error.what, "mend": error.mend})
            except Exception:
                traceback.print_exc()
                tell({"event": "error", **DEFECT})
            finally:  # in its own thread, behind what it is doing; that of a page being closed takes nothing more
                with contextlib.suppress(RuntimeError):
                    self.models.submit(events.close)

        return Lines(produce)


DEFECT = {"error": "something went wrong here", "mend": "the terminal says what; the page still works"}


async def body(request: Request, limit: int) -> bytes:
    """The body. Raises Refused: 413 beyond ``limit`` bytes, at the first byte that is too many, 408 when it is slow."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_big(limit)
    found = bytearray()
    try:
        with anyio.fail_after(PATIENCE):
            async for piece in request.stream():
                found += piece
                if len(found) > limit:
                    raise too_big(limit)
    except TimeoutError:
        raise Refused(408, f"the upload took longer than {PATIENCE} s", "give a smaller file") from None
    return bytes(found)


def too_big(limit: int) -> Refused:
    return Refused(413, f"the upload is larger than {limit / 2**20:g} MiB", "give a shorter clip, or FLAC")


async def fields(request: Request) -> dict[str, Any]:
    """The JSON object in the body. Raises Refused for anything else. A form of another page cannot send this type."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "this address takes JSON", "send Content-Type: application/json")
    try:
        found = json.loads(await body(request, REQUEST))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused(400, "the request is not a JSON object", "send one, as the page does")
    return found


def asked(given: dict[str, Any], limits: Limits) -> Question:
    """The question in a request. Raises Refused for one that cannot be asked."""
    text, transcript = given.get("text", ""), given.get("transcript", "")
    tokens, chat = given.get("tokens", 40), given.get("chat", False)
    for name, value, most in (("text around the clip", text, TEXT), ("transcript", transcript, WORDS)):
        if not isinstance(value, str) or "\0" in value or any(0xD800 <= ord(c) < 0xE000 for c in value):
            raise Refused(400, f"the {name} is not a text", "send characters")
        if len(value) > most:
            raise Refused(413, f"the {name} has {len(value)} characters; at most {most} are taken", "shorten it")
    if text.count(AUDIO_MARK) > 1 or AUDIO_MARK in transcript:
        raise Refused(400, f"there is one clip, and so one place for {AUDIO_MARK}", "write it once, or not at all")
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 1 <= tokens <= limits.tokens:
        raise Refused(400, f"the longest answer must be 1 to {limits.tokens} tokens", "choose a number between")
    return Question(text, transcript.strip(), chat is True, tokens)


Handler = Callable[[Request], Awaitable[Response]]


def guarded(handler: Handler) -> Handler:
    """``handler`` with our errors in words; of anything else the terminal has the traceback and nobody the details."""

    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Refused as error:
            close = {"connection": "close"} if error.status in (408, 413) else {}  # the rest of it is not read
            return JSONResponse({"error": error.what, "mend": error.mend}, error.status, close)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            traceback.print_exc()
            return JSONResponse(DEFECT, 500)

    return answer


async def nowhere(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return JSONResponse({"error": "there is nothing at this address", "mend": "open / instead"}, status)


def application(served: Served, limits: Limits, local: bool = True, token: str = "", names: tuple[str, ...] = (),
                closing: Callable[[], bool] = lambda: False) -> Guard:
    """The whole application, as ASGI. ``local``, ``token``, ``names``: see Guard."""
    page = Page(served, limits, closing)
    static = files()

    async def file(request: Request) -> Response:
        return static[request.url.path]

    posts = {"enter": page.enter, "clips": page.upload, "words": page.words, "answers": page.answers}
    routes = [Route(address, file) for address in static]
    routes += [Route(f"/api/{name}", guarded(handler), methods=["POST"]) for name, handler in posts.items()]
    routes.append(Route("/api/student", guarded(page.student)))
    app = Starlette(routes=routes, exception_handlers={404: nowhere, 405: nowhere})
    page.guard = Guard(app, local, token, names, open=[*static, "/api/enter"])
    return page.guard
