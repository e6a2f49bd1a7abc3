"""``salad-ds serve``: bind, load, say where, serve until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import ssl
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import quote

from salad_ds.errors import SaladError

TOKEN = "SALAD_DS_TOKEN"
"""Environment variable for --token: a command line can be read by everybody on this machine."""


@dataclass(frozen=True)
class Options:
    """As ``add_options`` describes them."""

    checkpoint: str
    host: str = "127.0.0.1"
    port: int = 8017
    token: str = ""
    allow_host: tuple[str, ...] = ()
    tls: tuple[str, ...] = ()
    max_seconds: float = 30.0
    max_mb: float = 32.0
    max_tokens: int = 200
    base: str = ""
    asr: str = ""


def add_options(verb: argparse.ArgumentParser) -> None:
    """The arguments of the command line."""
    given = vars(Options(""))

    def option(name: str, meta: str, told: str, kind: type = str) -> None:
        shown = f" ({given[name]:g})" if kind is not str else f" ({given[name]})" if given[name] else ""
        flag = "--" + name.replace("_", "-")
        verb.add_argument(flag, type=kind, default=given[name], metavar=meta, help=told + shown)

    verb.add_argument("checkpoint", help="directory of a saved student, such as runs/demo/stage2/model")
    option("host", "ADDRESS", "where to listen; any address but this machine's own needs a token")
    option("port", "N", "0 takes a free one", int)
    option("token", "TOKEN", f"what visitors must show, or 'new'; or the environment's {TOKEN}")
    verb.add_argument("--allow-host", action="append", default=[], metavar="NAME",
                      help="a further name under which it is asked for, as behind a proxy")  # fmt: skip
    verb.add_argument("--tls", nargs=2, default=(), metavar="PEM",
                      help="certificate and key, for https: microphones work on localhost and https only")  # fmt: skip
    option("max_seconds", "S", "longest clip", float)
    option("max_mb", "MIB", "largest upload", float)
    option("max_tokens", "N", "longest answer", int)
    option("base", "LLM", "the LLM the student was made from, as a third column")
    option("asr", "WHISPER", "proposes transcripts, such as packaged:whisper-base")


def options_of(chosen: argparse.Namespace) -> Options:
    values = {field.name: getattr(chosen, field.name) for field in fields(Options)}
    return Options(**{**values, "allow_host": tuple(chosen.allow_host), "tls": tuple(chosen.tls),
                      "token": chosen.token or os.environ.get(TOKEN, "")})  # fmt: skip


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to ``host`` and ``port``. Raises SaladError for what cannot be bound."""
    try:
        if not 0 <= port <= 65535:  # getaddrinfo would take it modulo 65536
            raise OverflowError("ports go from 0 to 65535")
        family, kind, _, _, address = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        return bound
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SaladError(f"cannot listen on {host}:{port} ({reason.lower()})",
                         "give another --port (0 takes a free one) or --host") from None


def address_of(options: Options, bound: socket.socket, token: str, local: bool) -> str:
    """Where to point a browser. The token stands behind the #: browsers do not send that part."""
    host, port = bound.getsockname()[:2]
    if not local and host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    host = f"[{host}]" if ":" in host else host
    scheme = "https" if options.tls else "http"
    return f"{scheme}://{host}:{port}/" + (f"#token={quote(token, safe='')}" if token else "")


def check(options: Options) -> None:
    """Raises SaladError for settings that cannot be."""
    for name, value, least in (("max-seconds", options.max_seconds, 0.1), ("max-mb", options.max_mb, 0.001),
                               ("max-tokens", options.max_tokens, 1)):
        if not least <= value < 1e6:
            raise SaladError(f"--{name} is {value:g}", f"give {least:g} or more")
    for path in options.tls:
        if not Path(path).is_file():
            raise SaladError(f"{path} does not exist", "give a PEM file")
    if options.tls:
        try:  # an empty password: a key that wants one is an error, not a question at the terminal
            certificate, key = options.tls
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        except OSError as error:
            raise SaladError(f"{' and '.join(options.tls)} are no certificate and key ({error})",
                             "give PEM files that belong together, the key without a password") from None


def serve(options: Options) -> None:
    """Serve the page until SIGINT or SIGTERM. Raises SaladError for what cannot be served: see the other functions."""
    from salad_ds.serve.guard import loopback, require_token

    check(options)
    token, local = require_token(options.host, options.token, options.allow_host), loopback(options.host)
    with listening(options.host, options.port) as bound:
        import uvicorn

        from salad_ds.serve.app import application
        from salad_ds.serve.limits import Limits
        from salad_ds.serve.student import Served

        print(f"loading {options.checkpoint} ...", file=sys.stderr, flush=True)
        served = Served(options.checkpoint, options.base, options.asr)
        limits = Limits(min(options.max_seconds, served.seconds), int(options.max_mb * 2**20), options.max_tokens)
        app = application(served, limits, local, token, options.allow_host, lambda: server.should_exit)
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, date_header=False,
                                proxy_headers=False, timeout_graceful_shutdown=10, limit_concurrency=50,
                                h11_max_incomplete_event_size=32 << 10, http="h11", ws="none", lifespan="off",
                                **dict(zip(("ssl_certfile", "ssl_keyfile"), options.tls, strict=False)))  # fmt: skip
        server = uvicorn.Server(config)
        if not local and not options.tls:
            print("without --tls the token and what is said can be read on the way", file=sys.stderr)
        bound.listen(64)  # whoever clicks at once is let in
        print(f"open {address_of(options, bound, token, local)}\nstop with Ctrl-C", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended everything and passes the signal on
            server.run(sockets=[bound])
        print("\nclosed", file=sys.stderr, flush=True)
