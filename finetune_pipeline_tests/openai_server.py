"""A server on this machine that speaks OpenAI's protocol for chats, and misbehaves on request."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from finetune_pipeline_tests.service_server import Reply, Request, ServiceServer, serving

Mind = Callable[[dict[str, Any], int], "tuple[int, dict[str, str], bytes] | dict[str, Any] | str | float | list[bytes]"]
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


class Server(ServiceServer):
    """requests: bodies in order of arrival, with path and key; most_at_once: the largest number answered together; models:
    the names it lists; headers: those of the requests."""

    key, one_at_a_time = None, False

    def __init__(self, mind: Mind) -> None:
        super().__init__()
        self.mind, self.requests, self.headers = mind, list[dict[str, Any]](), list[dict[str, str]]()
        self.at_once = self.most_at_once = self.failing_lists = 0
        self.models: Callable[[], list[str]] = lambda: ["small", "large"]

    @property
    def url(self) -> str:
        return f"{self.address}/v1"

    def note(self, request: Request) -> None:
        """Questions are noted by `answer`."""

    def answer(self, request: Request) -> Reply | None:
        if request.method == "GET":
            if self.failing_lists:
                self.failing_lists -= 1
                return Reply(b"not now", 500)
            return Reply({"data": [{"id": name} for name in self.models()]})
        body = request.json()
        with self.lock:
            seen = sum({k: v for k, v in r.items() if k not in ("path", "key")} == body for r in self.requests)
            self.headers.append(dict(request.headers))
            self.requests.append({**body, "path": request.path, "key": request.headers.get("Authorization")})
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            result = self.mind(body, seen)
            if isinstance(result, float):
                time.sleep(result)
                return None
        finally:
            with self.lock:
                self.at_once -= 1
        if isinstance(result, tuple):
            return Reply(result[2], result[0], result[1])
        return Reply(completion(result) if isinstance(result, str) else result)


@contextlib.contextmanager
def openai_server(mind: Mind) -> Iterator[Server]:
    """Serve until the block is left."""
    server = Server(mind)
    with serving(server):
        yield server
