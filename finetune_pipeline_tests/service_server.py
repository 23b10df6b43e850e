"""What the protocol servers of training services share: real sockets, a key that is checked, and faults on request."""

import contextlib
import json
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

KEY = "sk-planted-4f1d9c7e2b"
FAULTS = ("refuse", "busy", "fail after", "drop", "drop after", "garbage after", "slow", "late")
"""What a server may do to a request: answer 503 or 429 and do nothing; do it and answer 503; close the connection without
doing it, or after; do it and answer with a web page; do it and answer when nobody waits any more; or do it only then."""


@dataclass(frozen=True)
class Request:
    """A request as a server sees it."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


@dataclass(frozen=True)
class Reply:
    """What a server answers: an object as JSON, bytes as they are, or a list of bytes to send with tenths of a second between
    them, and nothing else."""

    content: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def refusal(status: int, message: str) -> Reply:
    return Reply({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}, status)


class ServiceServer(ThreadingHTTPServer, ABC):
    """Answers requests, one at a time as a database would.

    Attributes:
        fault: Names a fault for a request, or None.
        pause: Seconds that `slow` and `late` wait.
        requests: Everything that was asked, in order.
    """

    daemon_threads = True
    key: str | None = KEY
    """What whoever asks has to know; None: nothing."""
    one_at_a_time = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault: Callable[[Request], str | None] = lambda request: None
        self.pause = 0.6
        self.requests: list[Request] = []
        self.lock = threading.RLock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def note(self, request: Request) -> None:
        self.requests.append(request)

    @abstractmethod
    def answer(self, request: Request) -> Reply | None:
        """What the service answers; None: nothing."""

    def asked(self, method: str, ending: str) -> list[Request]:
        """The requests of a method to paths with this ending."""
        return [r for r in self.requests if r.method == method and r.path.endswith(ending)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up, or was killed, is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: ServiceServer

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, unquote(parts.path), parse_qs(parts.query), self.headers, body)
        server = self.server
        with server.lock:
            server.note(request)
            fault = server.fault(request)
        if fault == "refuse":
            return self._send(refusal(503, "overloaded"))
        if fault == "busy":
            return self._send(refusal(429, "too many requests"))
        if fault == "drop":
            return self._drop()
        if fault == "late":
            time.sleep(server.pause)
        with server.lock if server.one_at_a_time else contextlib.nullcontext():
            given = self.headers.get("Authorization")
            known = server.key is None or given == f"Bearer {server.key}" or request.path.startswith("/put/")
            reply = server.answer(request) if known else refusal(401, f"Incorrect API key provided: {given}")
        if fault == "slow":
            time.sleep(server.pause)
        if fault == "fail after":
            return self._send(refusal(503, "the gateway gave up"))
        if fault == "drop after":
            return self._drop()
        if fault == "garbage after":
            return self._send(Reply(b"<html>please log in</html>"))
        if reply is not None:
            self._send(reply)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _send(self, reply: Reply) -> None:
        if isinstance(reply.content, list) and reply.content and isinstance(reply.content[0], bytes):
            for piece in reply.content:
                self.wfile.write(piece)
                time.sleep(0.1)
            return
        raw = isinstance(reply.content, bytes)
        data = reply.content if raw else json.dumps(reply.content).encode()
        kind = "application/octet-stream" if raw else "application/json"
        self.send_response(reply.status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _drop(self) -> None:
        """Reset the connection, as a crashed gateway does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, *line: Any) -> None:
        """Tests are quiet."""


@contextlib.contextmanager
def serving(server: ServiceServer) -> Iterator[None]:
    """Serve until the block is left."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
