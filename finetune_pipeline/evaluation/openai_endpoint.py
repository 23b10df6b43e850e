"""Answers from an OpenAI-style chat endpoint, with a budget, a limit on requests at once, and a cache.

A request costs money, so it is sent again only where the endpoint cannot have worked on it: no connection came about, or
it answered 429 or 503. Every other failure (another status, no answer in time, a broken reply) makes that row a failed
generation, which is scored as wrong and never as text. The SDK's own retries are off. Redirects are not followed, since
the key would go along.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from finetune_pipeline import progress
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.spec.baseline import ChatEndpointSpec, address_problem, is_local

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Message = Mapping[str, Any]
Kind = Literal["unreachable", "refused", "timeout", "garbled", "filtered", "called_tool", "budget"]
"""unreachable: no connection, or it broke; refused: an error status; timeout: no whole answer in time; garbled: the reply
is no chat completion; filtered: the endpoint held the answer back; called_tool: a tool call where text was asked for;
budget: not sent, since it could have cost more than was allowed."""
_SENT = ("role", "content", "tool_calls", "tool_call_id", "name")
_LONGEST_WAIT = 60.0
_HOPELESS_AFTER = 5
_BUSY = (429, 503)
_NOT_CONNECTED = ("ConnectError", "ConnectTimeout", "ProxyError", "PoolTimeout")
"""Exceptions of the HTTP client after which nothing can have been sent."""


class EndpointError(RuntimeError):
    """No row can be answered there: a wrong key, address or model name, an empty account, or nothing but failures."""


class TooManyRows(ValueError):
    """More rows are to be asked than the budget allows; nothing was sent."""


class _Failed(Exception):
    """One request failed. unworked: the endpoint cannot have worked on it. wait: seconds it asked for. status: HTTP's."""

    def __init__(
        self, kind: Kind, reason: str, *, unworked: bool = False, wait: float | None = None, status: int = 0
    ) -> None:
        super().__init__(f"{kind}: {reason}")
        self.unworked, self.wait, self.status = unworked, wait, status


@dataclass(frozen=True)
class Endpoint:
    """A model at an address. The key is read from its environment variable when requests are sent, and kept nowhere.

    Attributes:
        url: Up to and without ``/chat/completions``; https, or http on this machine.
        model: The model's name there.
        key_variable: Environment variable that holds the key.
        timeout: Seconds for a whole request.
        concurrency: Requests at once.
        tries: How often a request is sent at most.
        body: Fields of the request to add or replace; None removes one.

    Raises:
        ValueError: The address cannot be used, or the variable holds no key.
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
        key = os.environ.get(self.key_variable, "") if self.key_variable else "-"
        if not key:
            raise ValueError(f"the environment variable {self.key_variable} is not set")
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError(
                f"the environment variable {self.key_variable} holds no key: blanks or letters beyond ASCII"
            )

    @classmethod
    def of(cls, spec: ChatEndpointSpec, model: str) -> Endpoint:
        """A model at the endpoint that task.yaml names. Raises ValueError."""
        return cls(spec.url, model, spec.key_variable, spec.timeout, spec.concurrency, spec.tries, spec.body)

    @property
    def name(self) -> str:
        """The model and the host, without anything secret."""
        return f"{self.model} at {urlsplit(self.url).hostname}"


@dataclass(frozen=True)
class Budget:
    """rows: requests that may be paid for. tokens: of prompts and answers together. None: no limit."""

    rows: int | None = None
    tokens: int | None = None


@dataclass
class Spent:
    """What was used. untold: requests whose cost the endpoint did not report (failed ones it may have worked on among
    them); they count as the most they can have cost."""

    requests: int = 0
    repeated: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    untold: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.new_tokens

    def to_dict(self) -> dict[str, int]:
        """Plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class EndpointAnswers:
    """answers: one a conversation, in order. known: how many came from the cache. spent: what the others cost."""

    answers: list[Answer]
    known: int
    spent: Spent


def models_of(endpoint: Endpoint) -> list[str]:
    """Names the endpoint lists under ``/models``. The request is free, so the SDK repeats it after any passing failure.

    Raises:
        EndpointError: The list cannot be had.
    """
    return asyncio.run(_models(endpoint))


async def _models(endpoint: Endpoint) -> list[str]:
    async with _client(endpoint, retries=endpoint.tries - 1) as client:
        try:
            return sorted([str(model.id) async for model in client.models.list()])
        except Exception as error:  # noqa: BLE001 - whatever went wrong, it is told
            raise EndpointError(f"{endpoint.name} does not list its models: {_failure(error, endpoint)}") from None


def ask(
    endpoint: Endpoint,
    prompts: Sequence[Sequence[Message]],
    max_new_tokens: int,
    *,
    tools: Sequence[Sequence[Mapping[str, Any]] | None] | None = None,
    budget: Budget = Budget(),
    cache: AnswerCache | None = None,
    stage: str = "predictions",
    name: str = "",
) -> EndpointAnswers:
    """Ask every conversation at temperature 0. Equal ones are sent once; what the cache knows is not sent.

    An answer that cannot be had has status error, and its `error` begins with a :data:`Kind`. Answers go into the cache
    as they come, so that nothing paid for is lost when the process dies.

    Args:
        endpoint: Where to ask.
        prompts: Messages ending with a user or tool turn.
        max_new_tokens: Longest answer.
        tools: The tools offered in each conversation.
        budget: What may be spent.
        cache: Answers that are known.
        stage: For the progress line.
        name: For the progress line.

    Raises:
        TooManyRows: More rows are unknown than budget.rows.
        EndpointError: The endpoint refuses key, address or model, or answers none of the first rows.
    """
    offered = tools or [None] * len(prompts)
    bodies = [_body(endpoint, m, t, max_new_tokens) for m, t in zip(prompts, offered, strict=True)]
    keys = [_key(endpoint, body, cache) for body in bodies]
    first: dict[bytes, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    found = cache.find(list(first)) if cache else {}
    answers = {key: found[i] for i, key in enumerate(first) if i in found}
    missing = [key for key in first if key not in answers]
    known = sum(key in answers for key in keys)
    if budget.rows is not None and len(missing) > budget.rows:
        raise TooManyRows(f"{len(missing)} rows are to be asked of {endpoint.name}, and {budget.rows} are allowed")

    def keep(place: int, answer: Answer) -> None:
        answers[missing[place]] = answer
        if cache:
            cache.keep({missing[place]: answer})
        progress.tell(stage, name, step=len(answers) - len(found), of=len(missing))

    crew = _Requests(endpoint, max_new_tokens, budget)
    asyncio.run(crew.answer_all([bodies[first[key]] for key in missing], keep))
    return EndpointAnswers([answers[key] for key in keys], known, crew.spent)


def _body(
    endpoint: Endpoint, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, max_new_tokens: int
) -> dict[str, Any]:
    body = {
        "model": endpoint.model,
        "messages": [{k: v for k, v in m.items() if k in _SENT} for m in messages],
        "max_tokens": max_new_tokens,
        "temperature": 0,
        **({"tools": list(tools)} if tools else {}),
        **endpoint.body,
    }
    return {k: v for k, v in body.items() if v is not None}


def _key(endpoint: Endpoint, body: Mapping[str, Any], cache: AnswerCache | None) -> bytes:
    if cache:
        return cache.key(["endpoint", endpoint.url, body])
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()


class _Requests:
    """The state that requests share: what was spent, how long all wait, and whether anything ever came back."""

    def __init__(self, endpoint: Endpoint, max_new_tokens: int, budget: Budget) -> None:
        self.endpoint, self.longest, self.budget = endpoint, max_new_tokens, budget
        self.spent = Spent()
        self._reserved = 0
        self._resume_at = 0.0
        self._failures = 0
        self._answered = False

    async def answer_all(self, bodies: Sequence[Mapping[str, Any]], keep: Callable[[int, Answer], None]) -> None:
        """Ask with as many workers as the endpoint allows; keep is called with each answer as it comes."""
        waiting = iter(enumerate(bodies))

        async def work(client: AsyncOpenAI) -> None:
            for place, body in waiting:
                keep(place, await self._answer(client, body))

        async with _client(self.endpoint) as client:
            workers = [asyncio.create_task(work(client)) for _ in range(min(self.endpoint.concurrency, len(bodies)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _answer(self, client: AsyncOpenAI, body: Mapping[str, Any]) -> Answer:
        """The answer to one conversation. Raises EndpointError when no other one need be tried."""
        # no token is shorter than a byte
        most = len(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")) + self.longest
        if self.budget.tokens is not None and self.spent.tokens + self._reserved + most > self.budget.tokens:
            return Answer(status="error", error="budget: the tokens that may be spent are spent")
        self._reserved += most
        cost: tuple[int, int] | None = None
        try:
            completion = await self._send(client, body)
            cost = _usage(completion)
            answer = _read(completion)
        except _Failed as failure:
            self._failures += 1
            self._settle(most, (0, 0) if failure.unworked or 400 <= failure.status < 500 else cost)
            self._give_up_if_hopeless(failure)
            return Answer(status="error", error=str(failure))
        self._answered = True
        self._settle(most, cost)
        answer.prompt_tokens, answer.new_tokens = cost or (0, 0)
        return answer

    def _settle(self, most: int, cost: tuple[int, int] | None) -> None:
        self._reserved -= most
        self.spent.untold += cost is None
        prompt, new = cost or (most - self.longest, self.longest)
        self.spent.prompt_tokens += prompt
        self.spent.new_tokens += new

    def _give_up_if_hopeless(self, failure: _Failed) -> None:
        hopeless = failure.status in (401, 404) or "insufficient_quota" in str(failure)
        if hopeless or (not self._answered and self._failures >= _HOPELESS_AFTER):
            raise EndpointError(f"{self.endpoint.name}: {failure}\nfix: look at address, model, key and account")

    async def _send(self, client: AsyncOpenAI, body: Mapping[str, Any]) -> Any:
        """The reply; requests the endpoint cannot have worked on are sent again. Raises _Failed."""
        for attempt in range(self.endpoint.tries):
            await asyncio.sleep(max(0.0, self._resume_at - time.monotonic()))
            self.spent.requests += 1
            self.spent.repeated += attempt > 0
            try:
                async with asyncio.timeout(self.endpoint.timeout):
                    return await client.chat.completions.create(
                        model=body["model"],
                        messages=body["messages"],
                        extra_body={k: v for k, v in body.items() if k not in ("model", "messages")},
                    )
            except Exception as error:  # noqa: BLE001 - each is told in its row
                failure = _failure(error, self.endpoint)
            last = attempt + 1 == self.endpoint.tries
            if not failure.unworked or last or "insufficient_quota" in str(failure):
                raise failure
            if failure.wait is not None and failure.wait > _LONGEST_WAIT:
                raise failure
            pause = failure.wait if failure.wait is not None else min(0.5 * 2**attempt, _LONGEST_WAIT)
            self._resume_at = max(self._resume_at, time.monotonic() + pause)  # all requests wait, not this one alone
        raise AssertionError("unreachable")


def _client(endpoint: Endpoint, retries: int = 0) -> AsyncOpenAI:
    """The SDK's client: nothing but what the endpoint's settings say is sent, and nothing through a proxy to this machine.

    A connection serves one request: a kept one may be closed while the next request is on its way, and nobody could tell
    whether that was worked on.
    """
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout, omit

    key = os.environ.get(endpoint.key_variable, "") if endpoint.key_variable else ""
    headers: dict[str, Any] = {"Connection": "close", "OpenAI-Organization": omit, "OpenAI-Project": omit}
    return AsyncOpenAI(
        base_url=endpoint.url,
        api_key=key or "none",
        max_retries=retries,
        default_headers=headers,
        http_client=DefaultAsyncHttpxClient(
            follow_redirects=False,
            trust_env=not is_local(endpoint.url),
            timeout=Timeout(endpoint.timeout, connect=endpoint.timeout / 2),
        ),
    )


def _failure(error: Exception, endpoint: Endpoint) -> _Failed:
    """What an exception of the SDK means for the row. Its text is cut, and the key taken out of it."""
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    key = os.environ.get(endpoint.key_variable, "") if endpoint.key_variable else ""

    def short(reason: object) -> str:
        text = " ".join((str(reason) or type(reason).__name__).split())
        return (text.replace(key, "[key]") if key else text)[:200]

    if isinstance(error, APIStatusError):
        status, busy = error.status_code, error.status_code in _BUSY
        wait = _retry_after(error.response.headers.get("Retry-After")) if busy else None
        return _Failed("refused", f"{status}: {short(error.response.text)}", unworked=busy, wait=wait, status=status)
    if type(error.__cause__).__name__ in _NOT_CONNECTED:
        return _Failed("unreachable", short(error.__cause__), unworked=True)
    if isinstance(error, TimeoutError | APITimeoutError):
        return _Failed("timeout", f"no whole answer within {endpoint.timeout:g} seconds")
    if isinstance(error, APIConnectionError):
        return _Failed("unreachable", short(error.__cause__ or error))
    return _Failed("garbled", f"a reply that is no JSON of the protocol: {short(error)}")


def _usage(completion: Any) -> tuple[int, int] | None:
    """(prompt tokens, new tokens) as the endpoint counts them; None where it does not tell."""
    usage = getattr(completion, "usage", None)
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    prompt, new = (n if isinstance(n, int) and not isinstance(n, bool) and n >= 0 else None for n in counts)
    return None if prompt is None or new is None else (prompt, new)


def _read(completion: Any) -> Answer:
    """The answer in a reply, which the SDK does not validate. Raises _Failed when there is none."""
    try:
        choice = completion.choices[0]
        text, calls, refusal = choice.message.content, choice.message.tool_calls, choice.message.refusal
    except (AttributeError, IndexError, TypeError) as error:
        raise _Failed("garbled", f"a reply without choices[0].message ({type(error).__name__})") from None
    if choice.finish_reason == "content_filter":
        raise _Failed("filtered", "the endpoint held its answer back")
    if calls and not text:
        raise _Failed("called_tool", "the model called a tool, and only texts are compared")
    if text is None:
        text = refusal or ""
    if not isinstance(text, str):
        raise _Failed("garbled", f"content is no text but {type(text).__name__}")
    status = "truncated" if choice.finish_reason == "length" else "ok" if text.strip() else "empty"
    return Answer(text=text, status=status)


def _retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date."""
    try:
        return max(0.0, float(header or ""))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header or "").timestamp() - time.time())
    except (ValueError, TypeError):
        return None
