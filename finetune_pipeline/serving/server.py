"""HTTP around a service, on 127.0.0.1: chat completions in OpenAI's form, models, health, feedback."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from finetune_pipeline.serving.requests import BadRequest
from finetune_pipeline.serving.service import Service

MAX_BODY = 1 << 20
_POSTS = ("/v1/chat/completions", "/feedback")
_GETS = ("/v1/models", "/health")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def serving(service: Service, port: int = 0) -> ThreadingHTTPServer:
    """A server on 127.0.0.1 (port 0: any that is free), not yet serving.

    Only requests to this very address count, and only JSON is taken: a web page open in a browser on this machine cannot
    ask or teach the model. Raises OSError when the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_GET(self) -> None:
            self._guarded(self._get)

        def do_POST(self) -> None:
            self._guarded(self._post)

        def _guarded(self, work: Any) -> None:
            try:
                if self.headers.get("Host", "").lower() not in (f"127.0.0.1:{bound}", f"localhost:{bound}"):
                    raise BadRequest("this server answers on 127.0.0.1 only", status=403)
                work()
            except BadRequest as error:
                self.close_connection = True  # what is left of the body was not read
                self._answer(error.status, error.body())
            except (BrokenPipeError, ConnectionResetError, TimeoutError):
                self.close_connection = True  # the client has gone

        def _get(self) -> None:
            path = self.path.split("?")[0]
            if path == "/health":
                self._answer(200, service.health())
            elif path == "/v1/models":
                self._answer(200, service.models())
            else:
                self._unknown(path, _POSTS)

        def _post(self) -> None:
            path = self.path.split("?")[0]
            if path not in _POSTS:
                self._unknown(path, _GETS)
            body = self._body()
            if path == "/feedback":
                self._answer(200, service.feedback(body))
                return
            chat, made = service.chat(body)
            if chat.stream:
                self._stream(made)
            else:
                self._answer(200, made)

        def _unknown(self, path: str, other: tuple[str, ...]) -> None:
            if path in other:
                raise BadRequest(f"{path} wants {'POST' if path in _POSTS else 'GET'}", status=405)
            raise BadRequest(f"there is no {path:.80}; there are {', '.join((*_POSTS, *_GETS))}", status=404)

        def _body(self) -> Any:
            if self.headers.get("Content-Type", "").split(";")[0].strip().lower() != "application/json":
                raise BadRequest("send JSON, with the header Content-Type: application/json", status=415)
            length = self.headers.get("Content-Length", "")
            if not length.isdigit():
                raise BadRequest("the header Content-Length is missing", status=411)
            if int(length) > MAX_BODY:
                raise BadRequest(f"the body has more than {MAX_BODY} bytes", status=413)
            data = self.rfile.read(int(length))
            try:
                return json.loads(data)
            except (ValueError, RecursionError) as error:
                raise BadRequest(f"the body is no JSON: {error}") from error

        def _stream(self, made: dict[str, Any]) -> None:
            """The answer as server-sent events: who speaks, what is said (in one piece), why it ends."""
            choice = made["choices"][0]
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Cache-Control", "no-store")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            shared = {**{k: made[k] for k in ("id", "created", "model")}, "object": "chat.completion.chunk"}
            for delta, finish in (
                ({"role": "assistant", "content": ""}, None),
                ({"content": choice["message"]["content"]}, None),
                ({}, choice["finish_reason"]),
            ):
                told = {**shared, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
                self.wfile.write(b"data: " + json.dumps(told).encode() + b"\n\n")
            self.wfile.write(b"data: [DONE]\n\n")

        def _answer(self, status: int, told: dict[str, Any]) -> None:
            data = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Silence: rows are logged where production's rows belong."""

    server = _Server(("127.0.0.1", port), Handler)
    bound = server.server_port
    return server
