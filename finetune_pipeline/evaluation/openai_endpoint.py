"""Answers from an OpenAI-style chat endpoint, with a budget, a limit on requests at once, and a cache.

A request costs money, so it is repeated only if the endpoint cannot have processed it: the connection failed, or the answer
was 429 or 503. Every other failure makes that row a failed generation, which is scored as wrong.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune_pipeline import progress
from finetune_pipeline.data.examples import Message, Tool
from finetune_pipeline.engine.files import digest_json
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.call_ledger import CallLedger
from finetune_pipeline.evaluation.endpoint_client import (
    Endpoint,
    EndpointError,
    RequestFailed,
    answer_in,
    client_of,
    failure_of,
    response_format,
    token_logs_in,
    usage_in,
)
from finetune_pipeline.models.inference.generated import Answer

if TYPE_CHECKING:
    from openai import AsyncOpenAI

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
    """answers: one per conversation, in order. known: how many came from the cache. spent: usage of the others. form_refused: how
    the endpoint refused to decode under a schema; empty if it did not. not_taken, over_budget: calls that the endpoint surely did
    not process, and those not sent since the ledger's budget might not pay for them."""

    answers: list[Answer]
    known: int
    spent: Spent
    form_refused: str = ""
    not_taken: int = 0
    over_budget: int = 0


def ask(
    endpoint: Endpoint,
    prompts: Sequence[Sequence[Message]],
    max_new_tokens: int,
    *,
    tools: Sequence[Sequence[Tool] | None] | None = None,
    max_requests: int | None = None,
    max_tokens: int | None = None,
    cache: AnswerCache | None = None,
    ledger: CallLedger | None = None,
    draws: Sequence[int] | None = None,
    schema: Mapping[str, object] | None = None,
    stage: str = "predictions",
    name: str = "",
) -> EndpointAnswers:
    """Send every conversation at temperature 0. Equal ones are sent once; cached ones are not sent.

    A failed answer has status error, and its `error` begins with a :data:`~.endpoint_client.Kind`. Answers enter the cache as
    they arrive, so nothing paid for is lost if the process dies.

    Args:
        max_requests: Maximum number of conversations to send.
        max_tokens: Maximum tokens of prompts and answers together.
        ledger: Holds the answers in place of a cache. Then five failed connections in a row end the questions.
        draws: The number of the answer to draw, of every conversation: 0 at temperature 0, others at temperature 1.
        schema: Answers are decoded under it, unless the endpoint refuses that (400) before its first such answer: then all are
            asked without. Answers bought either way are the same calls of the ledger.

    Raises:
        TooManyRows: More rows than max_requests are not in the cache.
        EndpointError: The endpoint rejects key, address or model, or answers none of the first rows.
    """
    unique, keys = _calls(endpoint, prompts, tools, draws, max_new_tokens)
    kept = ledger or cache
    cached = kept.find(list(unique)) if kept else {}
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

    requests = _Requests(endpoint, max_new_tokens, max_tokens, ledger, schema)
    asyncio.run(requests.answer_all([(key, unique[key]) for key in missing], keep))
    return EndpointAnswers(
        [answers[key] for key in keys],
        known_count,
        requests.spent,
        requests.form_refused,
        requests.not_taken,
        requests.over_budget,
    )


def unknown_calls(
    endpoint: Endpoint,
    prompts: Sequence[Sequence[Message]],
    tools: Sequence[Sequence[Tool] | None] | None,
    draws: Sequence[int] | None,
    max_new_tokens: int,
    ledger: CallLedger,
) -> list[dict[str, object]]:
    """Return the bodies of the requests that :func:`ask` would send, since the ledger does not have their answers."""
    unique, _ = _calls(endpoint, prompts, tools, draws, max_new_tokens)
    known = ledger.find(list(unique))
    return [body for i, body in enumerate(unique.values()) if i not in known]


def _calls(
    endpoint: Endpoint,
    prompts: Sequence[Sequence[Message]],
    tools: Sequence[Sequence[Tool] | None] | None,
    draws: Sequence[int] | None,
    max_new_tokens: int,
) -> tuple[dict[bytes, dict[str, object]], list[bytes]]:
    """Return the body of every distinct request by its key, and the key of every prompt."""
    numbers, tools_by_prompt = draws or [0] * len(prompts), tools or [None] * len(prompts)
    bodies = [
        _body(endpoint, messages, tools_of_prompt, max_new_tokens, 1 if draw else 0)
        for messages, tools_of_prompt, draw in zip(prompts, tools_by_prompt, numbers, strict=True)
    ]
    keys = [call_key(endpoint, body, draw) for body, draw in zip(bodies, numbers, strict=True)]
    return dict(zip(keys, bodies, strict=True)), keys


def _body(
    endpoint: Endpoint,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    max_new_tokens: int,
    temperature: int,
) -> dict[str, object]:
    body = {
        "model": endpoint.model,
        "messages": [{k: v for k, v in m.items() if k in _SENT} for m in messages],
        "max_tokens": max_new_tokens,
        "temperature": temperature,
        **({"tools": list(tools)} if tools else {}),
        **endpoint.body,
    }
    return {k: v for k, v in body.items() if v is not None}


def call_key(endpoint: Endpoint, body: Mapping[str, object], draw: int = 0) -> bytes:
    """Return the key of an answer, a digest of what it depends on."""
    return bytes.fromhex(digest_json(["endpoint", endpoint.url, body, *([draw] if draw else [])]))


class _OverBudget(Exception):
    """A request was not sent, since the ledger's budget might not pay for it."""


class _Requests:
    """The state that requests share: the usage so far, how long all wait, and whether any was answered."""

    def __init__(
        self,
        endpoint: Endpoint,
        max_new_tokens: int,
        max_tokens: int | None,
        ledger: CallLedger | None,
        schema: Mapping[str, object] | None,
    ) -> None:
        self.endpoint, self.longest, self.max_tokens, self.ledger = endpoint, max_new_tokens, max_tokens, ledger
        self.spent = Spent()
        self.form_refused = ""
        self._form = {"response_format": response_format(schema)} if schema else {}
        self._form_works = False
        self._reserved = 0
        self._resume_at = 0.0
        self._failures = 0
        self._unprocessed_in_a_row = 0
        self._answered = self._ended = False
        self.not_taken = self.over_budget = 0

    async def answer_all(
        self, calls: Sequence[tuple[bytes, Mapping[str, object]]], keep: Callable[[int, Answer], None]
    ) -> None:
        """Ask with as many workers as the endpoint allows; call `keep` with each answer as it arrives. calls: key and body."""
        waiting = iter(enumerate(calls))

        async def work(client: AsyncOpenAI) -> None:
            for index, (key, body) in waiting:
                if self._ended:
                    return
                keep(index, await self._answer(client, key, body))

        async with client_of(self.endpoint) as client:
            workers = [asyncio.create_task(work(client)) for _ in range(min(self.endpoint.concurrency, len(calls)))]
            try:
                await asyncio.gather(*workers)
            except EndpointError:
                self._ended = True  # calls under way may be paid for: their answers are waited for
                await asyncio.gather(*workers, return_exceptions=True)
                raise
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _answer(self, client: AsyncOpenAI, key: bytes, body: Mapping[str, object]) -> Answer:
        """The answer to one conversation. Raises EndpointError if further requests are pointless."""
        # no token is shorter than a byte
        sent = {**self._form, **body}
        reserved = len(json.dumps(sent, ensure_ascii=False).encode("utf-8", "replace")) + self.longest
        if self.max_tokens is not None and self.spent.tokens + self._reserved + reserved > self.max_tokens:
            return Answer(status="error", error="budget: the tokens that may be spent are spent")
        self._reserved += reserved
        cost: tuple[int, int] | None = None
        try:
            completion = await self._send_in_form(client, key, body, reserved)
            cost = usage_in(completion)
            answer = answer_in(completion)
            if body.get("logprobs"):
                answer.log_probabilities = token_logs_in(completion, answer.text)
        except _OverBudget:
            self.over_budget += 1
            self._settle(reserved, (0, 0))
            return Answer(status="error", error="budget: the dollars that may be spent are spent")
        except RequestFailed as failure:
            self._failures += 1
            self.not_taken += failure.unprocessed
            if self.ledger and str(failure).startswith(("filtered", "called_tool")):
                self._answered = True  # several answers to one row are withheld together: the endpoint works
            is_free = failure.unprocessed or 400 <= failure.status < 500
            self._settle(reserved, (0, 0) if is_free else cost)
            failed = Answer(status="error", error=str(failure))
            if self.ledger and not is_free:  # it may have been paid for: it is not sent again
                self.ledger.end(key, failed, cost)
            self._unprocessed_in_a_row = self._unprocessed_in_a_row + 1 if failure.unprocessed else 0
            pointless = failure.status in (401, 404) or "insufficient_quota" in str(failure)
            gone = self.ledger is not None and self._unprocessed_in_a_row >= _GIVE_UP_AFTER
            if pointless or gone or (not self._answered and self._failures >= _GIVE_UP_AFTER):
                fix = "look at address, model, key and account"
                raise EndpointError(f"{self.endpoint.name}: {failure}\nfix: {fix}") from None
            return failed
        self._answered, self._unprocessed_in_a_row = True, 0
        self._settle(reserved, cost)
        answer.prompt_tokens, answer.new_tokens = cost or (0, 0)
        if self.ledger:
            self.ledger.end(key, answer, cost)
        return answer

    def _settle(self, reserved: int, cost: tuple[int, int] | None) -> None:
        self._reserved -= reserved
        self.spent.untold += cost is None
        prompt, new = cost or (reserved - self.longest, self.longest)
        self.spent.prompt_tokens += prompt
        self.spent.new_tokens += new

    async def _send_in_form(self, client: AsyncOpenAI, key: bytes, body: Mapping[str, object], most_tokens: int) -> Any:
        """The reply, decoded under the schema if there is one. An endpoint that refuses the first such requests gets none more."""
        form = self._form
        if not form or body.keys() & {"response_format", "tools"}:
            return await self._send(client, key, body, most_tokens)
        try:
            reply = await self._send(client, key, {**body, **form}, most_tokens)
        except RequestFailed as failure:
            if failure.status != 400 or self._form_works:
                raise
            self._form, self.form_refused = {}, str(failure)
            return await self._send(client, key, body, most_tokens)
        self._form_works = True
        return reply

    async def _send(self, client: AsyncOpenAI, key: bytes, body: Mapping[str, Any], most_tokens: int) -> Any:
        """The reply. Repeats requests the endpoint cannot have processed. Raises RequestFailed, or _OverBudget before it sends
        what the ledger's budget might not pay."""
        for attempt in range(self.endpoint.tries):
            await asyncio.sleep(max(0.0, self._resume_at - time.monotonic()))
            if self.ledger and not self.ledger.begin(key, most_tokens - self.longest, self.longest):
                raise _OverBudget
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
            if self.ledger and (failure.unprocessed or 400 <= failure.status < 500):
                self.ledger.release(key)
            last = attempt + 1 == self.endpoint.tries or self._ended
            pause = min(0.5 * 2**attempt, _LONGEST_WAIT) if failure.wait is None else failure.wait
            if not failure.unprocessed or last or pause > _LONGEST_WAIT or "insufficient_quota" in str(failure):
                raise failure
            self._resume_at = max(self._resume_at, time.monotonic() + pause)  # all requests wait, not this one alone
        raise AssertionError("unreachable")
