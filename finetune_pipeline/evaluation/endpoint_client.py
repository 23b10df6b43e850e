"""Client for one OpenAI-compatible endpoint, and the meaning of its replies and failures.

The SDK's own retries are off where a request costs money, and redirects are not followed, since the key would go along.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from finetune_pipeline.faults import CLIENT_FIX
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.spec.baseline import ChatEndpointSpec, address_problem, is_local

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Kind = Literal["unreachable", "refused", "timeout", "garbled", "filtered", "called_tool", "budget"]
"""unreachable: no connection, or it broke; refused: an error status; timeout: no complete answer in time; garbled: the reply
is not a chat completion; filtered: the endpoint withheld the answer; called_tool: a tool call instead of text; budget: not
sent, because it might have exceeded the budget."""
_BUSY = (429, 503)
_NOT_CONNECTED = ("ConnectError", "ConnectTimeout", "ProxyError", "PoolTimeout")
"""Exceptions of the HTTP client that guarantee nothing was sent."""


class EndpointError(RuntimeError):
    """No row can be answered: wrong key, address or model name, an empty account, or only failures."""


class RequestFailed(Exception):
    """One request failed. unprocessed: the endpoint certainly did not process it. wait: seconds it asked for. status: HTTP's."""

    def __init__(
        self, kind: Kind, reason: str, *, unprocessed: bool = False, wait: float | None = None, status: int = 0
    ) -> None:
        super().__init__(f"{kind}: {reason}")
        self.unprocessed, self.wait, self.status = unprocessed, wait, status


def response_format(schema: Mapping[str, object]) -> dict[str, object]:
    """Return the request field that makes an OpenAI-compatible server decode answers under a JSON schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": dict(schema)}}


def decoding(endpoint: Endpoint, schema: Mapping[str, object] | None) -> Endpoint:
    """Return the endpoint with every answer decoded under a schema; unchanged without one."""
    return replace(endpoint, body={**endpoint.body, "response_format": response_format(schema)}) if schema else endpoint


@dataclass(frozen=True)
class Endpoint:
    """A model at an address. The key is read from its environment variable when requests are sent, and kept nowhere.

    Attributes:
        url: Up to and without ``/chat/completions``; https, or http on this machine.
        timeout: Seconds for a whole request.
        concurrency: Requests at once.
        tries: Maximum attempts per request.
        body: Fields of the request to add or replace; None removes one.

    Raises:
        ValueError: The address is invalid, or the variable holds no key.
    """

    url: str
    model: str
    key_variable: str | None = None
    timeout: float = 60.0
    concurrency: int = 4
    tries: int = 4
    body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if problem := address_problem(self.url):
            raise ValueError(problem[0])
        if self.key_variable and not self.key:
            raise ValueError(f"the environment variable {self.key_variable} is not set")
        if not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
            why = "blanks or letters beyond ASCII"
            raise ValueError(f"the environment variable {self.key_variable} holds no key: {why}")

    @classmethod
    def of(cls, spec: ChatEndpointSpec, model: str) -> Endpoint:
        """The endpoint of task.yaml. Raises ValueError."""
        return cls(spec.url, model, spec.key_variable, spec.timeout, spec.concurrency, spec.tries, spec.body)

    @property
    def key(self) -> str:
        """The current key; empty for an endpoint without one."""
        return os.environ.get(self.key_variable, "") if self.key_variable else ""

    @property
    def name(self) -> str:
        """Model and host, without secrets."""
        return f"{self.model} at {urlsplit(self.url).hostname}"


def models_of(endpoint: Endpoint) -> list[str]:
    """Names the endpoint lists under ``/models``. The request is free, so the SDK repeats it after any passing failure. Raises
    EndpointError if the list is unavailable."""

    async def listed() -> list[str]:
        async with client_of(endpoint, retries=endpoint.tries - 1) as client:
            return sorted([str(model.id) async for model in client.models.list()])

    try:
        return asyncio.run(listed())
    except EndpointError:
        raise
    except Exception as error:  # noqa: BLE001 - any failure is reported
        raise EndpointError(f"{endpoint.name} does not list its models: {failure_of(error, endpoint)}") from None


def client_of(endpoint: Endpoint, retries: int = 0) -> AsyncOpenAI:
    """The SDK's client. It sends only what the endpoint's settings say, and uses no proxy for this machine.

    A connection serves one request. If a reused connection broke, it would be unclear whether the request was processed.
    """
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout, omit

    headers: dict[str, Any] = {"Connection": "close", "OpenAI-Organization": omit, "OpenAI-Project": omit}
    timeout = Timeout(endpoint.timeout, connect=endpoint.timeout / 2)
    try:
        http = DefaultAsyncHttpxClient(follow_redirects=False, trust_env=not is_local(endpoint.url), timeout=timeout)
    except Exception as error:  # noqa: BLE001 - of many kinds
        raise EndpointError(f"no connection to {endpoint.name} can be made: {error}\nfix: {CLIENT_FIX}") from None
    return AsyncOpenAI(
        base_url=endpoint.url,
        api_key=endpoint.key or "none",
        max_retries=retries,
        default_headers=headers,
        http_client=http,
    )


def failure_of(error: Exception, endpoint: Endpoint) -> RequestFailed:
    """Translate an exception of the SDK. Its text is truncated, and the key removed."""
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    def excerpt(reason: object) -> str:
        text = " ".join((str(reason) or type(reason).__name__).split())
        return (text.replace(endpoint.key, "[key]") if endpoint.key else text)[:200]

    if isinstance(error, APIStatusError):
        status, busy = error.status_code, error.status_code in _BUSY
        wait = _retry_after(error.response.headers.get("Retry-After", "")) if busy else None
        reason = f"{status}: {excerpt(error.response.text or error.response.reason_phrase)}"
        return RequestFailed("refused", reason, unprocessed=busy, wait=wait, status=status)
    if type(error.__cause__).__name__ in _NOT_CONNECTED:
        return RequestFailed("unreachable", excerpt(error.__cause__), unprocessed=True)
    if isinstance(error, TimeoutError | APITimeoutError):
        return RequestFailed("timeout", f"no whole answer within {endpoint.timeout:g} seconds")
    if isinstance(error, APIConnectionError):
        return RequestFailed("unreachable", excerpt(error.__cause__ or error))
    return RequestFailed("garbled", f"a reply that is no JSON of the protocol: {excerpt(error)}")


def usage_in(completion: Any) -> tuple[int, int] | None:
    """(prompt tokens, new tokens) as counted by the endpoint; None if not reported."""
    usage = getattr(completion, "usage", None)
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    prompt, new = (n if isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**31 else None for n in counts)
    return None if prompt is None or new is None else (prompt, new)


def answer_in(completion: Any) -> Answer:
    """The answer in a reply, which the SDK does not validate. Raises RequestFailed when there is none."""
    try:
        choice = completion.choices[0]
        text, calls, refusal = choice.message.content, choice.message.tool_calls, choice.message.refusal
    except (AttributeError, LookupError, TypeError) as error:
        raise RequestFailed("garbled", f"a reply without choices[0].message ({type(error).__name__})") from None
    if choice.finish_reason == "content_filter":
        raise RequestFailed("filtered", "the endpoint withheld its answer")
    if calls and not text:
        raise RequestFailed("called_tool", "the model called a tool, and only texts are compared")
    if text is None:
        text = refusal or ""
    if not isinstance(text, str):
        raise RequestFailed("garbled", f"content is no text but {type(text).__name__}")
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair, as of an emoji cut in two, is no text
    status = "truncated" if choice.finish_reason == "length" else "ok" if text.strip() else "empty"
    return Answer(text=text, status=status)


def token_logs_in(completion: Any, text: str) -> list[float]:
    """Return the log-probabilities of an answer's tokens, without the one that ends the turn, which some servers report; empty if
    the reply has none."""
    try:
        entries = [(str(entry.token), float(entry.logprob)) for entry in completion.choices[0].logprobs.content]
    except (AttributeError, LookupError, TypeError, ValueError):
        return []
    before = "".join(token for token, _ in entries[:-1])
    if entries and entries[-1][0].strip() and before.strip() == text.strip():
        entries.pop()
    logs = [log for _, log in entries]
    return logs if all(math.isfinite(log) and log <= 1e-6 for log in logs) else []


def _retry_after(header: str) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None for anything else."""
    with contextlib.suppress(ValueError):
        return max(0.0, float(header))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    return None
