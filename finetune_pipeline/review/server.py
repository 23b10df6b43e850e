"""Serves the review page over HTTP: every decision is appended to a file, and on disk before it is confirmed."""

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from finetune_pipeline.data.json_lines import append_decision
from finetune_pipeline.serving.local_server import CLOSE, NO_STORE, host_guard, read_json

MAX_BODY = 64 * 1024
_HEADERS = {**NO_STORE, "Content-Security-Policy": "frame-ancestors 'none'; form-action 'none'"}

Judge = Callable[[Any], tuple[dict[str, object] | None, list[str]]]


def review_app(page: str, judge: Judge, file: Path, reveal: Callable[[Any], str] = lambda row: "") -> Starlette:
    """Return the application: GET / returns the page, POST /ratings appends a decision to a file after validation by `judge`.

    reveal: what is said of a decision once it is stored, and not before.
    """
    lock = Lock()

    async def show(_: Request) -> Response:
        return HTMLResponse(page, headers=_HEADERS)

    async def rate(request: Request) -> Response:
        row, wrong = judge(await read_json(request, MAX_BODY))
        if row is None:
            raise HTTPException(400, "; ".join(wrong) or "nothing was decided")
        await run_in_threadpool(_store, row)
        return PlainTextResponse(reveal(row) or "stored", headers=_HEADERS)

    def _store(row: dict[str, object]) -> None:
        try:
            with lock:
                append_decision(file, row)
        except OSError as error:
            raise HTTPException(500, f"this decision is not stored: {file}: {error.strerror}") from error

    async def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _refuse(error.status_code, error.detail)

    return Starlette(
        routes=[Route("/", show), Route("/index.html", show), Route("/ratings", rate, methods=["POST"])],
        exception_handlers={HTTPException: http_error},
        middleware=[host_guard(_refuse)],
    )


def _refuse(status: int, message: str) -> Response:
    return PlainTextResponse(message, status, headers={**_HEADERS, **CLOSE})
