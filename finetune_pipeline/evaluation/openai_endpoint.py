"""Answers from an OpenAI-style chat endpoint, with a budget, a limit on requests at once, and a cache.

A request costs money, so it is repeated only if the endpoint cannot have processed it: the connection failed, or the answer
was 429 or 503. Every other failure makes that row a failed generation, which is scored as wrong.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune_pipeline import progress
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.endpoint_client import (
    Endpoint,
    EndpointError,
    RequestFailed,
    answer_in,
    client_of,
    failure_of,
    usage_in,
)
from finetune_pipeline.models.inference.generated import Answer

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Message = Mapping[str, Any]
_SENT = ("role", "content", "tool_calls", "tool_call_id", "name")
_LONGEST_WAIT = 60.0
_GIVE_UP_AFTER = 5


class TooManyRows(ValueError):
    """The rows exceed the budget; nothing was sent."""


@dataclass
class Spent:
    """Usage. untold: requests whose cost the endpoint did not report; they count at their maximum cost."""

    requests: int = 0
    repeated: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    untold: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.new_tokens


@dataclass(frozen=True)
class EndpointAnswers:
    """answers: one per conversation, in order. known: how many came from the cache. spent: usage of the others."""

    answers: list[Answer]
    known: int
    spent: Spent


def ask(
    endpoint: Endpoint,
    prompts: Sequence[Sequence[Message]],
    max_new_tokens: int,
    *,
    tools: Sequence[Sequence[Mapping[str, Any]] | None] | None = None,
    max_requests: int | None = None,
    max_tokens: int | None = None,
    cache: AnswerCache | None = None,
    stage: str = "predictions",
    name: str = "",
) -> EndpointAnswers:
    """Send every conversation at temperature 0. Equal ones are sent once; cached ones are not sent.

    A failed answer has status error, and its `error` begins with a :data:`~.endpoint_client.Kind`. Answers enter the cache as
    they arrive, so nothing paid for is lost if the process dies.

    Args:
        max_requests: Maximum number of conversations to send.
        max_tokens: Maximum tokens of prompts and answers together.

    Raises:
        TooManyRows: More rows than max_requests are not in the cache.
        EndpointError: The endpoint rejects key, address or model, or answers none of the first rows.
    """
    tools_by_prompt = tools or [None] * len(prompts)
    bodies = [_body(endpoint, m, t, max_new_tokens) for m, t in zip(prompts, tools_by_prompt, strict=True)]
    keys = [_key(endpoint, body, cache) for body in bodies]
    unique = dict(zip(keys, bodies, strict=True))
    cached = cache.find(list(unique)) if cache else {}
    answers = {key: cached[i] for i, key in enumerate(unique) if i in cached}
    missing = [key for key in unique if key not in answers]
    known_count = sum(key in answers for key in keys)
    if max_requests is not None and len(missing) > max_requests:
        raise TooManyRows(f"{len(missing)} rows would be sent to {endpoint.name}, and {max_requests} are allowed")

    def keep(index: int, answer: Answer) -> None:
        answers[missing[index]] = answer
        if cache:
            cache.keep({missing[index]: answer})
        progress.tell(stage, name, step=len(answers) - len(cached), of=len(missing))

    requests = _Requests(endpoint, max_new_tokens, max_tokens)
    asyncio.run(requests.answer_all([unique[key] for key in missing], keep))
    return EndpointAnswers([answers[key] for key in keys], known_count, requests.spent)


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
    """The state that requests share: the usage so far, how long all wait, and whether any was answered."""

    def __init__(self, endpoint: Endpoint, max_new_tokens: int, max_tokens: int | None) -> None:
        self.endpoint, self.longest, self.max_tokens = endpoint, max_new_tokens, max_tokens
        self.spent = Spent()
        self._reserved = 0
        self._resume_at = 0.0
        self._failures = 0
        self._answered = False

    async def answer_all(self, bodies: Sequence[Mapping[str, Any]], keep: Callable[[int, Answer], None]) -> None:
        """Ask with as many workers as the endpoint allows; call `keep` with each answer as it arrives."""
        waiting = iter(enumerate(bodies))

        async def work(client: AsyncOpenAI) -> None:
            for index, body in waiting:
                keep(index, await self._answer(client, body))

        async with client_of(self.endpoint) as client:
            workers = [asyncio.create_task(work(client)) for _ in range(min(self.endpoint.concurrency, len(bodies)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _answer(self, client: AsyncOpenAI, body: Mapping[str, Any]) -> Answer:
        """The answer to one conversation. Raises EndpointError if further requests are pointless."""
        # no token is shorter than a byte
        reserved = len(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")) + self.longest
        if self.max_tokens is not None and self.spent.tokens + self._reserved + reserved > self.max_tokens:
            return Answer(status="error", error="budget: the tokens that may be spent are spent")
        self._reserved += reserved
        cost: tuple[int, int] | None = None
        try:
            completion = await self._send(client, body)
            cost = usage_in(completion)
            answer = answer_in(completion)
        except RequestFailed as failure:
            self._failures += 1
            self._settle(reserved, (0, 0) if failure.unprocessed or 400 <= failure.status < 500 else cost)
            pointless = failure.status in (401, 404) or "insufficient_quota" in str(failure)
            if pointless or (not self._answered and self._failures >= _GIVE_UP_AFTER):
                fix = "look at address, model, key and account"
                raise EndpointError(f"{self.endpoint.name}: {failure}\nfix: {fix}") from None
            return Answer(status="error", error=str(failure))
        self._answered = True
        self._settle(reserved, cost)
        answer.prompt_tokens, answer.new_tokens = cost or (0, 0)
        return answer

    def _settle(self, reserved: int, cost: tuple[int, int] | None) -> None:
        self._reserved -= reserved
        self.spent.untold += cost is None
        prompt, new = cost or (reserved - self.longest, self.longest)
        self.spent.prompt_tokens += prompt
        self.spent.new_tokens += new

    async def _send(self, client: AsyncOpenAI, body: Mapping[str, Any]) -> Any:
        """The reply. Repeats requests the endpoint cannot have processed. Raises RequestFailed."""
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
            except Exception as error:  # noqa: BLE001 - each row reports its failure
                failure = failure_of(error, self.endpoint)
            last = attempt + 1 == self.endpoint.tries
            pause = min(0.5 * 2**attempt, _LONGEST_WAIT) if failure.wait is None else failure.wait
            if not failure.unprocessed or last or pause > _LONGEST_WAIT or "insufficient_quota" in str(failure):
                raise failure
            self._resume_at = max(self._resume_at, time.monotonic() + pause)  # all requests wait, not this one alone
        raise AssertionError("unreachable")
