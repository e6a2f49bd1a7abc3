"""A local HTTP server that answers with ranges of bytes, and fails as it is told."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server:
    """Serves the files below ``root``. ``faults``: what happens to the next requests, one each: a status, or ``cut``
    (the connection ends inside the body). ``asked``: (path, range header) of every GET. ``ranges``: whether they are
    known."""

    def __init__(self, root: Path) -> None:
        self.root, self.faults, self.asked, self.ranges = root, deque[int | str](), list[tuple[str, str]](), True
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients may leave in the middle
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                server.asked.append((self.path, self.headers.get("Range", "")))
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                fault = server.faults.popleft() if body and server.faults else None
                path = server.root / self.path.split("?")[0].lstrip("/")
                if isinstance(fault, int) or not path.is_file():
                    self.send_response(fault if isinstance(fault, int) else 404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                raw = path.read_bytes()
                asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if asked and server.ranges:
                    first, last = int(asked[1]), min(int(asked[2] or len(raw)), len(raw) - 1)
                    if first >= len(raw):
                        self.send_response(416)
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {first}-{last}/{len(raw)}")
                    raw = raw[first : last + 1]
                else:
                    self.send_response(200)
                if server.ranges:
                    self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                if fault == "cut":
                    self.wfile.write(raw[: len(raw) // 2])
                    self.close_connection = True
                elif body:
                    self.wfile.write(raw)

        return Handler


@contextmanager
def serving(root: Path) -> Iterator[Server]:
    server = Server(root)
    thread = threading.Thread(target=server.http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
