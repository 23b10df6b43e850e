"""Shared base of the fake training services: an HTTP server that checks the API key and injects faults on request."""

import contextlib
import json
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

KEY = "sk-planted-4f1d9c7e2b"
FAULTS = ("refuse", "busy", "fail after", "drop", "drop after", "garbage after", "slow", "late")
"""Faults a server can inject, in this order: answer 503 or 429 without acting; act and answer 503; reset the connection
before or after acting; act and answer with HTML; act and answer after the client's timeout; act after that timeout."""


@dataclass(frozen=True)
class Request:
    """A request as the server receives it."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


@dataclass(frozen=True)
class Reply:
    """A server's answer. `content` is an object sent as JSON, bytes sent unchanged, or a list of bytes written raw to the
    socket (without status and headers) at intervals of 0.1 s."""

    content: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def refusal(status: int, message: str) -> Reply:
    return Reply({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}, status)


class ServiceServer(ThreadingHTTPServer, ABC):
    """Base of the fake services; `with server:` serves in a thread on a free port.

    Attributes:
        key: API key that requests must carry; None: no check.
        one_at_a_time: Handle requests serially.
        fault: Picks one of :data:`FAULTS` for a request, or None.
        pause: Seconds that `slow` and `late` wait.
        requests: All requests, in order of arrival.
    """

    daemon_threads = True
    key: str | None = KEY
    one_at_a_time = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault: Callable[[Request], str | None] = lambda request: None
        self.pause = 0.6
        self.requests: list[Request] = []
        self.lock = threading.RLock()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def note(self, request: Request) -> None:
        self.requests.append(request)

    @abstractmethod
    def answer(self, request: Request) -> Reply | None:
        """The service's answer; None to send nothing."""

    def asked(self, method: str, ending: str) -> list[Request]:
        """The requests with this method whose path ends with `ending`."""
        return [r for r in self.requests if r.method == method and r.path.endswith(ending)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of clients that timed out or were killed."""


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
            authorization = self.headers.get("Authorization")
            allowed = server.key is None or authorization == f"Bearer {server.key}" or request.path.startswith("/put/")
            reply = server.answer(request) if allowed else refusal(401, f"Incorrect API key provided: {authorization}")
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
            for chunk in reply.content:
                self.wfile.write(chunk)
                time.sleep(0.1)
            return
        is_binary = isinstance(reply.content, bytes)
        data = reply.content if is_binary else json.dumps(reply.content).encode()
        content_type = "application/octet-stream" if is_binary else "application/json"
        self.send_response(reply.status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(data)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _drop(self) -> None:
        """Reset the connection, as a crashed gateway does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, *line: Any) -> None:
        """Do not log requests."""
