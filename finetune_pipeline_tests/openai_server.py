"""Fake server of OpenAI's chat completions API, with failures on request."""

import time
from collections.abc import Callable
from typing import Any

from finetune_pipeline_tests.service_server import Reply, Request, ServiceServer

Mind = Callable[[dict[str, Any], int], "tuple[int, dict[str, str], bytes] | dict[str, Any] | str | float | list[bytes]"]
"""Chooses the answer from a request's body and the number of earlier requests with the same body. Returns the answer's text,
a complete reply as JSON, (status, headers, bytes), seconds to wait before closing without an answer, or raw chunks (see
:class:`Reply`)."""


def completion(text: str | None, finish: str = "stop", usage: tuple[int, int] | None = (7, 3), **message: Any) -> dict:
    """A chat completion in OpenAI's format. message: further fields of the message."""
    content = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "finish_reason": finish, "message": content}
    result: dict[str, Any] = {"object": "chat.completion", "choices": [choice]}
    if usage:
        result["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return result


class Server(ServiceServer):
    """Answers every chat request with `mind`.

    Attributes:
        requests: Request bodies in order of arrival, with path and key.
        headers: Headers of these requests.
        most_at_once: Largest number of requests answered concurrently.
        models: Returns the model names to list.
        failing_lists: Number of model listings still to fail.
    """

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
        """Do nothing: `answer` records the requests."""

    def answer(self, request: Request) -> Reply | None:
        if request.method == "GET":
            if self.failing_lists:
                self.failing_lists -= 1
                return Reply(b"not now", 500)
            return Reply({"data": [{"id": name} for name in self.models()]})
        body = request.json()
        with self.lock:
            repeats = sum({k: v for k, v in r.items() if k not in ("path", "key")} == body for r in self.requests)
            self.headers.append(dict(request.headers))
            self.requests.append({**body, "path": request.path, "key": request.headers.get("Authorization")})
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            result = self.mind(body, repeats)
            if isinstance(result, float):
                time.sleep(result)
                return None
        finally:
            with self.lock:
                self.at_once -= 1
        if isinstance(result, tuple):
            return Reply(result[2], result[0], result[1])
        return Reply(completion(result) if isinstance(result, str) else result)


openai_server = Server
