"""The champion's HTTP interface: chat completions in OpenAI's form, classifications in vLLM's, models, health and feedback."""

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from finetune_pipeline.serving.local_server import CLOSE, NO_STORE, host_guard, read_json
from finetune_pipeline.serving.requests import BadRequest
from finetune_pipeline.serving.service import WAITING, Service

T = TypeVar("T")
MAX_BODY = 1 << 20
_METHODS = {
    "/v1/chat/completions": "POST",
    "/classify": "POST",
    "/feedback": "POST",
    "/v1/models": "GET",
    "/health": "GET",
}


def chat_app(service: Service) -> Starlette:
    """Return the application for a service.

    Only JSON is accepted, so that web pages open in a browser on this machine cannot query the model or give feedback: browsers
    send cross-origin JSON only with the server's permission, which this one does not give.
    """
    threads = ThreadPoolExecutor(2 * WAITING, "request")  # the service refuses more than WAITING requests

    async def answered(request: Request, answer: Callable[[Any, Event], T]) -> T:
        """Answer a request in a thread, until its client closes the connection."""
        body, gone = await _json(request), Event()
        watcher = asyncio.create_task(_watch(request, gone))
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, answer, body, gone)
        finally:
            watcher.cancel()

    async def classify(request: Request) -> Response:
        return JSONResponse(await answered(request, service.classify), headers=NO_STORE)

    async def chat(request: Request) -> Response:
        chat_request, completion = await answered(request, service.chat)
        if chat_request.stream:
            return StreamingResponse(
                _events(completion, chat_request.usage), media_type="text/event-stream", headers=NO_STORE
            )
        return JSONResponse(completion, headers=NO_STORE)

    async def feedback(request: Request) -> Response:
        body = await _json(request)
        return JSONResponse(await asyncio.to_thread(service.feedback, body), headers=NO_STORE)

    async def models(_: Request) -> Response:
        return JSONResponse(service.models(), headers=NO_STORE)

    async def health(_: Request) -> Response:
        return JSONResponse(service.health(), headers=NO_STORE)

    async def bad_request(_: Request, error: Exception) -> Response:
        assert isinstance(error, BadRequest)
        return JSONResponse(error.body(), error.status, headers=CLOSE)

    async def server_error(_: Request, error: Exception) -> Response:
        return _refuse(500, f"this server has a fault, which its terminal shows: {type(error).__name__}")

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path, message = request.url.path, error.detail
        if error.status_code == 404:
            message = f"there is no {path:.80}; known paths: {', '.join(_METHODS)}"
        elif error.status_code == 405:
            message = f"{path} requires {_METHODS[path]}"
        return _refuse(error.status_code, message)

    endpoints = (chat, classify, feedback, models, health)
    return Starlette(
        routes=[Route(path, call, methods=[_METHODS[path]]) for path, call in zip(_METHODS, endpoints, strict=True)],
        exception_handlers={BadRequest: bad_request, HTTPException: http_error, Exception: server_error},
        middleware=[host_guard(_refuse)],
    )


def _refuse(status: int, message: str) -> Response:
    return JSONResponse(BadRequest(message, status=status).body(), status, headers=CLOSE)


async def _json(request: Request) -> Any:
    """Return the decoded body. Raises BadRequest or HTTPException."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise BadRequest("send JSON, with the header Content-Type: application/json", status=415)
    return await read_json(request, MAX_BODY)


async def _watch(request: Request, gone: Event) -> None:
    """Set `gone` when the client closes the connection of a request whose body was read."""
    await request.receive()
    gone.set()


def _events(completion: dict[str, Any], usage: bool) -> Iterator[str]:
    """Yield a completion as server-sent events: role, whole text in one piece with the probabilities of its tokens, finish
    reason with how sure the answer is, and token counts if requested."""
    choice = completion["choices"][0]
    shared = {**{k: completion[k] for k in ("id", "created", "model")}, "object": "chat.completion.chunk"}
    shared |= {"usage": None} if usage else {}
    message = choice["message"]
    extra = {
        key: value for key, value in choice.items() if key not in ("index", "message", "finish_reason", "logprobs")
    }
    parts: list[dict[str, object]] = [
        {"delta": {"role": "assistant", "content": ""}},
        {
            "delta": {key: text for key in ("content", "refusal") if (text := message[key]) is not None},
            "logprobs": choice["logprobs"],
        },
        {"delta": {}, "finish_reason": choice["finish_reason"], **extra},
    ]
    for part in parts:
        chunk = {**shared, "choices": [{"index": 0, "finish_reason": None, "logprobs": None, **part}]}
        yield f"data: {json.dumps(chunk)}\n\n"
    if usage:
        yield f"data: {json.dumps({**shared, 'choices': [], 'usage': completion['usage']})}\n\n"
    yield "data: [DONE]\n\n"
