"""Who may ask: the one who sits at this machine, or who has the token; and never another page in their browser.

A page on this machine is within reach of every website its user visits. So a request must name this host (a website
that rebinds its own name to 127.0.0.1 does not), must not come from another origin, and gets answers that no other page
may frame or read. Opened to a network it also needs the token, sent once in a body or as ``Authorization: Bearer``;
afterwards a cookie stands for it. Neither appears in an address, nor in a log.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from salad_ds.errors import SaladError

LOCAL = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                               "img-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; "
                               "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=(), display-capture=()",
    "cache-control": "no-store",
}  # fmt: skip
"""On every answer."""
FEWEST = 16
"""Characters of a token that opens the page to others."""
PAUSE = 0.5
"""Seconds a wrong token waits for its answer."""


def loopback(host: str) -> bool:
    """Whether nobody but this machine reaches ``host``. Raises SaladError for a name that has no address."""
    try:
        found = {address[4][0] for address in socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        raise SaladError(f"--host {host} has no address", "give 127.0.0.1, or an address of this machine") from None
    return all(ipaddress.ip_address(str(address).split("%")[0]).is_loopback for address in found)


def require_token(host: str, token: str, names: Iterable[str] = ()) -> str:
    """The token to ask for, made here if it is ``new``. ``names``: under which others come, through a proxy. Raises
    SaladError where the page would be open to others without a good one."""
    if token == "new":
        return secrets.token_urlsafe(24)
    suggestion = "add --token new, or keep --host 127.0.0.1 and come through ssh -L"
    if not token and (not loopback(host) or any(names)):
        by = f"--host {host}" if not loopback(host) else "--allow-host"
        raise SaladError(f"{by} opens the page to others, and there is no token", suggestion)
    if token and (len(token) < FEWEST or not token.isascii() or not token.isprintable()):
        raise SaladError(f"the token must have at least {FEWEST} characters, all of them plain ASCII", suggestion)
    return token


def host_of(authority: str) -> str:
    """The name in ``name:port``, lower case, without brackets; empty if it is none."""
    try:
        return (urlsplit(f"//{authority}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Middleware in front of the whole application. ``local``: bound to loopback. ``names``: further names under which
    the page may be asked for. ``open``: addresses that need no token (the page itself holds nothing)."""

    def __init__(self, app: ASGIApp, local: bool = True, token: str = "", names: Iterable[str] = (),
                 open: Iterable[str] = ()) -> None:
        self.app, self.local, self.token, self.open = app, local, token, frozenset(open)
        self.names = {*LOCAL, *(name.lower() for name in names)}
        if not local:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self.session = secrets.token_urlsafe(32)
        self.cookie = "salad-" + hashlib.sha256(self.session.encode()).hexdigest()[:8]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self.refusal(scope)
        if refusal is None and scope["path"] not in self.open and not self.admitted(scope):
            refusal = JSONResponse({"error": "this page asks for a token", "mend": "enter the one that was printed at "
                                    "its start"}, 401, {"www-authenticate": "Bearer"})  # fmt: skip
            if "authorization" in Headers(scope=scope):
                await asyncio.sleep(PAUSE)
        await (refusal or self.app)(scope, receive, sealed)

    def refusal(self, scope: Scope) -> JSONResponse | None:
        """The answer to a request that another page may have sent; None if it is in order."""
        headers = Headers(scope=scope)
        host = host_of(headers.get("host", ""))
        # A name can be rebound to any address, an address cannot: behind one stands whoever was asked for.
        if host not in self.names and not (is_address(host) and not self.local):
            return JSONResponse({"error": "this host name is not served here", "mend": "open the address that was "
                                 "printed at the start, or name yours with --allow-host"}, 421)  # fmt: skip
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        foreign = origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
        if foreign or (site not in ("same-origin", "none") and headers.get("sec-fetch-mode") != "navigate"):
            return JSONResponse({"error": "this request comes from another page", "mend": "use the page itself"}, 403)
        return None

    def admitted(self, scope: Scope) -> bool:
        if not self.token:
            return True
        request = HTTPConnection(scope)
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        return (kind.lower() == "bearer" and same(given, self.token)) or same(request.cookies.get(self.cookie, ""),
                                                                              self.session)

    async def enter(self, given: str) -> bool:
        """Whether ``given`` is the token; a wrong one waits."""
        if same(given, self.token):
            return True
        await asyncio.sleep(PAUSE)
        return False


def same(given: str, wanted: str) -> bool:
    """Equal, found in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted.encode())
