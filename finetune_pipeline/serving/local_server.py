"""Runs an HTTP server on 127.0.0.1 for a Starlette application: refuses other hosts and limits bodies."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
from collections.abc import Callable
from threading import Thread
from typing import Any

import h11
import psutil
import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from finetune_pipeline.data.json_lines import decode_line
from finetune_pipeline.faults import OutsideError

HOST = "127.0.0.1"
BODY_SECONDS = 30.0
"""Time limit of a request body; slower ones are refused and the connection is closed."""
HEADER_SECONDS = 10.0
"""Time limit of a request's header; the connection is then closed."""
MOST_CONNECTIONS = 256
"""Connections at a time; further ones are closed at once. Systems often allow a process 1,024 files."""
STOP_SECONDS = 8
"""Time that the last responses get when the server stops. Containers are killed after 10 s."""
NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Headers of every response."""
CLOSE = {**NO_STORE, "Connection": "close"}
"""Headers of a refusal: the rest of the request's body is not read."""
_UNFRAMED = {"X-Frame-Options": "SAMEORIGIN", "Content-Security-Policy": "frame-ancestors 'self'"}
"""Headers of every response: no other site's page may show this one in a frame, where people would click unawares."""


class HostGuard:
    """ASGI middleware that refuses requests from other sites' web pages, open in a browser on this machine.

    Without the check of Host, such a page could rebind its own name to 127.0.0.1 and read this server's responses. Without the
    check of Origin (and of Sec-Fetch-Site, if a browser sends no Origin), it could send requests that change something. Its
    links may open the server's pages, but not in a frame.

    Args:
        app: The application behind the guard.
        refuse: Makes the response for a status and a message.
        pages: Matches the paths that other sites' links may open, as the request has them; every other path is refused.
    """

    def __init__(self, app: ASGIApp, refuse: Callable[[int, str], Response], pages: re.Pattern[str]) -> None:
        self._app, self._refuse, self._pages = app, refuse, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _UNFRAMED.items():
                    headers.append(name, value)  # a policy of the application's own stays in force
            await send(message)

        refusal = None if scope["type"] == "lifespan" else self._foreign(scope)
        app = self._refuse(403, refusal) if refusal else self._app
        await app(scope, receive, send_unframed)

    def _foreign(self, scope: Scope) -> str | None:
        """Return why a request is refused; None if it comes from this machine and not from another server's page."""
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if host.rsplit(":", 1)[0] not in (HOST, "localhost"):  # the port may belong to a tunnel, or be left out: 80
            return "this server only answers on 127.0.0.1"
        elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if headers.get("origin", f"http://{host}").lower() == f"http://{host}" and not elsewhere:
            return None
        is_link = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest", "document")) == ("navigate", "document")
        if (
            is_link
            and scope.get("method") == "GET"
            and "origin" not in headers
            and self._pages.fullmatch(scope["path"])
        ):
            return None
        return "web pages of other sites may not use this server, and their links may only open its pages"


def host_guard(refuse: Callable[[int, str], Response], pages: str = "/") -> Middleware:
    """Return the :class:`HostGuard` as an entry of Starlette's middleware list; pages: a regular expression."""
    return Middleware(HostGuard, refuse=refuse, pages=re.compile(pages))


async def read_json(request: Request, limit: int) -> Any:
    """Read and decode a request's body.

    Raises HTTPException as soon as it exceeds `limit` bytes (413), if it takes longer than :data:`BODY_SECONDS` (408), if the
    client disconnects, and if it is not JSON (400).
    """
    announced = request.headers.get("content-length", "0")
    body = b""
    try:
        if len(announced) > 18 or int(announced) > limit:
            raise HTTPException(413, f"the body has more than {limit} bytes")
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise HTTPException(413, f"the body has more than {limit} bytes")
    except ValueError as error:
        raise HTTPException(400, "Content-Length is not a number") from error
    except TimeoutError as error:
        raise HTTPException(408, f"the body did not arrive within {BODY_SECONDS:g} s") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the body is incomplete") from error
    value, findings, _ = decode_line(body, "body")
    if findings:
        raise HTTPException(400, f"the body cannot be read: {'; '.join(f.message for f in findings)}")
    return value


def port_problem(port: int, option: str = "--port") -> str | None:
    """Return a sentence on why the port cannot be used and what to do; None if it is free. option: chooses another port."""
    try:
        socket.create_server((HOST, port)).close()
        return None
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return f"port {port} cannot be used: {error.strerror}; choose another with {option}"
    holder = "another user's process"
    with contextlib.suppress(psutil.Error):  # macOS shows other processes' connections only to root
        listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        if pid := next((c.pid for c in listening if c.pid and c.laddr and c.laddr.port == port), None):
            holder = f"process {pid} ({' '.join(psutil.Process(pid).cmdline())[:120]})"
    return f"port {port} is in use by {holder}; end that, or choose another with {option}"


class _Protocol(H11Protocol):
    """HTTP/1.1 that closes connections without a complete request header in time, and those above a number; uvicorn waits for
    ever, and each of them holds a file."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        self._watch_header()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_header()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer:
            self._timer.cancel()

    def _watch_header(self) -> None:
        is_due = self.conn.their_state is h11.IDLE and (self.cycle is None or bool(self.conn.trailing_data[0]))
        if is_due and self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)
        elif not is_due and self._timer is not None:
            self._timer.cancel()
            self._timer = None


class LocalServer:
    """Serves an application on 127.0.0.1 from a separate thread while its `with` block runs.

    port: 0 chooses a free port, see `self.port`. Raises OutsideError if the port cannot be used.
    """

    def __init__(self, app: ASGIApp, port: int = 0) -> None:
        try:
            self._socket = socket.create_server((HOST, port), backlog=128)
        except OSError as error:
            raise OutsideError(port_problem(port) or f"port {port} was just in use; run it again") from error
        self.port: int = self._socket.getsockname()[1]
        settings = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._server = uvicorn.Server(settings)
        # off the main thread uvicorn leaves the process's signal handlers alone
        self._thread = Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True, name="http")

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> LocalServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
