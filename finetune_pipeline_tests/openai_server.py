"""A real HTTP server on this machine that speaks the OpenAI protocol, and misbehaves on request."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]
Mind = Callable[[dict[str, Any], int], "Reply | dict[str, Any] | str | float | list[bytes]"]
"""Gets a request's body and how often that very body was seen before. Returns text to answer with, a whole reply as
JSON, (status, headers, bytes), seconds to say nothing for, or pieces to send with tenths of a second between them."""


def completion(text: str | None, finish: str = "stop", usage: tuple[int, int] | None = (7, 3), **more: Any) -> dict:
    """A chat completion as the protocol has it."""
    result: dict[str, Any] = {
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **more}}],
    }
    if usage:
        result["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return result


class Server(ThreadingHTTPServer):
    """requests: bodies in order of arrival, with path and key; most_at_once: the largest number answered together; models:
    the names it lists; headers: those of the requests."""

    daemon_threads = True

    def __init__(self, mind: Mind) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mind, self.requests, self.most_at_once = mind, list[dict[str, Any]](), 0
        self.at_once, self.lock = 0, threading.Lock()
        self.failing_lists = 0
        self.headers = list[dict[str, str]]()
        self.models: Callable[[], list[str]] = lambda: ["small", "large"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.server.failing_lists > 0:
            self.server.failing_lists -= 1
            return self._send(500, {}, b"not now")
        self._send(200, {}, json.dumps({"data": [{"id": name} for name in self.server.models()]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            seen = sum({k: v for k, v in r.items() if k not in ("path", "key")} == body for r in self.server.requests)
            self.server.headers.append(dict(self.headers))
            self.server.requests.append({**body, "path": self.path, "key": self.headers.get("Authorization")})
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            result = self.server.mind(body, seen)
            if isinstance(result, float):
                time.sleep(result)
                return
            if isinstance(result, list):
                for piece in result:
                    self.wfile.write(piece)
                    time.sleep(0.1)
                return
            if isinstance(result, tuple):
                return self._send(*result)
            reply = completion(result) if isinstance(result, str) else result
            self._send(200, {"Content-Type": "application/json"}, json.dumps(reply).encode())
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def _send(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Tests are quiet."""


@contextlib.contextmanager
def openai_server(mind: Mind) -> Iterator[Server]:
    """Serve until the block is left."""
    server = Server(mind)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
