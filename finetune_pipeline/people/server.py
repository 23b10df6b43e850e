"""Serves one review page on this machine and appends what is decided to a file, a line at a time, durably."""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

MAX_BODY = 64 * 1024

Judge = Callable[[Any], tuple[dict[str, Any] | None, list[str]]]


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Add one JSON line to a file; on disk when it returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row, ensure_ascii=False) + "\n")
        out.flush()
        os.fsync(out.fileno())


def review_server(page: str, token: str, judge: Judge, file: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server on 127.0.0.1 (port 0: any that is free), not yet serving.

    GET / gives the page. POST /ratings takes one JSON row with the header X-Token; judge(row) gives the row to store, or
    what is wrong with it. Anything else, any other Host, and rows without the token are refused, so that a web page from
    elsewhere open in the same browser can neither read the page nor hand in ratings.
    """
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, status: int, body: str, kind: str = "text/plain") -> None:
            told = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(told)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Content-Security-Policy", "frame-ancestors 'none'; form-action 'none'")
            self.end_headers()
            self.wfile.write(told)

        def _ours(self) -> bool:
            return self.headers.get("Host", "") in (f"127.0.0.1:{bound}", f"localhost:{bound}")

        def do_GET(self) -> None:
            if not self._ours():
                self._answer(403, "this server answers on 127.0.0.1 only")
            elif self.path.split("?")[0] in ("/", "/index.html"):
                self._answer(200, page, "text/html")
            else:
                self._answer(404, "there is only one page")

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not self._ours() or not hmac.compare_digest(self.headers.get("X-Token", "").encode(), token.encode()):
                self._answer(403, "the token of this review is missing: reload the page")
            elif self.path != "/ratings" or not length.isdigit() or int(length) > MAX_BODY:
                self._answer(400, "one rating, as JSON, to /ratings")
            else:
                self._take(self.rfile.read(int(length)))

        def _take(self, body: bytes) -> None:
            try:
                row, wrong = judge(json.loads(body))
            except ValueError as error:
                row, wrong = None, [f"it is no JSON: {error}"]
            if row is None:
                self._answer(400, "; ".join(wrong) or "nothing was decided")
                return
            with lock:
                append_line(file, row)
            self._answer(200, "stored")

        def log_message(self, format: str, *arguments: Any) -> None:
            """Silence: the command line tells what matters."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    bound = server.server_port
    return server
