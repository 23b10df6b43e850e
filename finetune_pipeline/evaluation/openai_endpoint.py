"""Answers from an OpenAI-style chat endpoint: how an API model is measured. Standard library only, no SDK.

A request costs money, so it is sent again only where the endpoint cannot have worked on it: no connection came about, or
it said 429 or 503. Whatever else goes wrong (another status, no answer in time, a reply that is none) makes that row a
failed generation, which is scored as wrong and never as text. Redirects are not followed: the key would go along.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from finetune_pipeline import progress
from finetune_pipeline.evaluation.generated import Answer

Message = Mapping[str, Any]
Kind = Literal["unreachable", "refused", "timeout", "garbled", "filtered", "called_tool", "budget"]
"""unreachable: no connection, or it broke; refused: a status that is no answer; timeout: nothing whole in time; garbled:
a reply that is none; filtered: held back by the endpoint; called_tool: a call where a text was asked for; budget: not
sent, since it could have cost more than was allowed."""
_SENT = ("role", "content", "tool_calls", "tool_call_id", "name")
_LONGEST_REPLY = 1 << 22
_LONGEST_WAIT = 60.0
_HOPELESS_AFTER = 5
_BUSY = (429, 503)


class EndpointError(RuntimeError):
    """No row can be answered there: a wrong key, address or model name, an empty account, or nothing but failures."""


class _Failed(Exception):
    """One request failed. unworked: the endpoint cannot have worked on it; wait: seconds it asked for."""

    def __init__(
        self, kind: Kind, what: str, *, unworked: bool = False, wait: float | None = None, status: int = 0
    ) -> None:
        super().__init__(f"{kind}: {what}")
        self.unworked, self.wait, self.status = unworked, wait, status


@dataclass(frozen=True)
class Endpoint:
    """Where a model is asked.

    url: up to and without ``/chat/completions``; https, or http on this machine. key_variable: the environment variable
    that holds the key; the key itself is read when a request is sent and stands nowhere else. timeout: seconds for a
    whole request. tries: how often a request is sent at most. body: fields of the request to add or replace (None
    removes one), for endpoints that want ``max_completion_tokens`` or know no ``temperature``.

    Raises ValueError for an address that is neither, or a variable that is not set.
    """

    url: str
    model: str
    key_variable: str | None = None
    timeout: float = 60.0
    concurrency: int = 4
    tries: int = 4
    body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
            raise ValueError(
                f"{self.url!r} is neither https nor on this machine: texts and the key would travel in the clear"
            )
        if parts.username or parts.password:
            raise ValueError("the address holds a login; put the key into an environment variable, and name that")
        key = os.environ.get(self.key_variable, "") if self.key_variable else "-"
        if not key:
            raise ValueError(f"the environment variable {self.key_variable} is not set")
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError(
                f"the environment variable {self.key_variable} holds no key: blanks or letters beyond ASCII"
            )
        if self.concurrency < 1 or self.tries < 1 or self.timeout <= 0:
            raise ValueError("concurrency and tries must be 1 or more, and timeout above 0")

    @property
    def name(self) -> str:
        """The model and the host, without anything secret."""
        return f"{self.model} at {urlsplit(self.url).hostname}"


@dataclass(frozen=True)
class Budget:
    """rows: requests that may be paid for; tokens: of prompts and answers together. None: as many as it takes."""

    rows: int | None = None
    tokens: int | None = None


@dataclass
class Spent:
    """What was used. untold: requests of which nobody said what they cost (failed ones the endpoint may have worked on
    among them); as many tokens are counted for them as they can have cost at most."""

    requests: int = 0
    repeated: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    untold: int = 0

    def to_dict(self) -> dict[str, int]:
        """Plain JSON."""
        return asdict(self)


def models_of(endpoint: Endpoint) -> list[str]:
    """Names the endpoint lists under ``/models``: a free request, repeated after any passing failure.

    Raises EndpointError when it cannot be had.
    """
    for attempt in range(endpoint.tries):
        try:
            told = _exchange(endpoint, "GET", "/models", None)
            return sorted(str(model["id"]) for model in told["data"])
        except _Failed as failure:
            if attempt + 1 == endpoint.tries or (400 <= failure.status < 500 and failure.status not in _BUSY):
                raise EndpointError(f"{endpoint.name}: {failure}") from None
            time.sleep(_pause(attempt, failure.wait))
        except (KeyError, TypeError) as error:
            raise EndpointError(f"{endpoint.name} does not list its models: {error!r}") from None
    raise AssertionError("unreachable")


def answer_all(
    endpoint: Endpoint,
    prompts: Sequence[Sequence[Message]],
    max_new_tokens: int,
    *,
    tools: Sequence[Sequence[Mapping[str, Any]] | None] | None = None,
    budget: Budget = Budget(),
    keep: Callable[[int, Answer], None] | None = None,
    stage: str = "predictions",
    name: str = "",
) -> tuple[list[Answer], Spent]:
    """One :class:`Answer` per conversation (messages ending with a user or tool turn), in order, and what it took.

    Asked at temperature 0. An answer that cannot be had has status error, and its `error` begins with a :data:`Kind`.
    keep: called with each answer that came (place, answer) as soon as it is there, one call at a time, so that nothing
    paid for is lost when the process dies. Raises ValueError before anything is sent when there are more prompts than
    budget.rows; EndpointError when the endpoint refuses key, address or model, or answers none of the first rows.
    """
    if budget.rows is not None and len(prompts) > budget.rows:
        raise ValueError(
            f"{len(prompts)} rows for {endpoint.name} are more than the {budget.rows} that may be sent; raise the limit, "
            "or ask fewer rows"
        )
    crew = _Crew(endpoint, max_new_tokens, budget)
    answers: list[Answer | None] = [None] * len(prompts)
    offered = tools or [None] * len(prompts)
    with ThreadPoolExecutor(endpoint.concurrency, thread_name_prefix="endpoint") as pool:
        waiting = {
            pool.submit(crew.answer, messages, told): i
            for i, (messages, told) in enumerate(zip(prompts, offered, strict=True))
        }
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                place = waiting[future]
                answer = answers[place] = future.result()
                if keep is not None and answer.status != "error":
                    keep(place, answer)
                progress.tell(stage, name, step=done, of=len(prompts))
        except BaseException:
            crew.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return [a for a in answers if a is not None], crew.spent


class _Crew:
    """The state that requests share: what was spent, how long all wait, and whether anything ever came back."""

    def __init__(self, endpoint: Endpoint, max_new_tokens: int, budget: Budget) -> None:
        self.endpoint, self.longest, self.budget = endpoint, max_new_tokens, budget
        self.spent = Spent()
        self._lock = threading.Lock()
        self._reserved = 0
        self._resume_at = 0.0
        self._failures = 0
        self._answered = False
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped.set()

    def answer(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None) -> Answer:
        """What came of one conversation. Raises EndpointError when no other one need be tried."""
        body = {
            "model": self.endpoint.model,
            "messages": [{k: v for k, v in m.items() if k in _SENT} for m in messages],
            "max_tokens": self.longest,
            "temperature": 0,
            **({"tools": list(tools)} if tools else {}),
            **self.endpoint.body,
        }
        data = json.dumps({k: v for k, v in body.items() if v is not None}, ensure_ascii=False).encode(
            "utf-8", "backslashreplace"
        )
        most = len(data) + self.longest  # no token is shorter than a byte
        if not self._reserve(most):
            return Answer(status="error", error="budget: the tokens that may be spent are spent")
        cost: tuple[int, int] | None = None
        try:
            told = self._ask(data)
            cost = _usage(told)
            answer = _read(told)
        except _Failed as failure:
            nothing = failure.unworked or 400 <= failure.status < 500
            self._settle(most, (0, 0) if nothing else cost, False)
            self._give_up_if_hopeless(failure)
            return Answer(status="error", error=str(failure))
        self._settle(most, cost, True)
        answer.prompt_tokens, answer.new_tokens = cost or (0, 0)
        return answer

    def _reserve(self, most: int) -> bool:
        """Take as much out of the budget as a request can cost at most."""
        with self._lock:
            used = self.spent.prompt_tokens + self.spent.new_tokens + self._reserved
            if self._stopped.is_set() or (self.budget.tokens is not None and used + most > self.budget.tokens):
                return False
            self._reserved += most
            return True

    def _settle(self, most: int, cost: tuple[int, int] | None, came: bool) -> None:
        with self._lock:
            self._reserved -= most
            self.spent.untold += cost is None
            prompt, new = cost or (most - self.longest, self.longest)
            self.spent.prompt_tokens += prompt
            self.spent.new_tokens += new
            self._answered |= came
            self._failures += not came

    def _give_up_if_hopeless(self, failure: _Failed) -> None:
        hopeless = failure.status in (401, 404) or "insufficient_quota" in str(failure)
        with self._lock:
            hopeless |= not self._answered and self._failures >= _HOPELESS_AFTER
        if hopeless:
            self.stop()
            raise EndpointError(f"{self.endpoint.name}: {failure}\nfix: look at address, model, key and account")

    def _ask(self, data: bytes) -> Any:
        for attempt in range(self.endpoint.tries):
            self._stopped.wait(max(0.0, self._resume_at - time.monotonic()))
            if self._stopped.is_set():
                raise _Failed("unreachable", "given up, since other rows failed", unworked=True)
            with self._lock:
                self.spent.requests += 1
                self.spent.repeated += attempt > 0
            try:
                return _exchange(self.endpoint, "POST", "/chat/completions", data)
            except _Failed as failure:
                quota = "insufficient_quota" in str(failure)
                if not failure.unworked or quota or attempt + 1 == self.endpoint.tries:
                    raise
                if failure.wait is not None and failure.wait > _LONGEST_WAIT:
                    raise
                with self._lock:  # all requests wait, not this one alone
                    self._resume_at = max(self._resume_at, time.monotonic() + _pause(attempt, failure.wait))
        raise AssertionError("unreachable")


def _pause(attempt: int, asked: float | None) -> float:
    return min(asked if asked is not None else 0.5 * 2**attempt, _LONGEST_WAIT)


def _usage(told: Any) -> tuple[int, int] | None:
    """(prompt tokens, new tokens) as the endpoint counts them; None where it does not tell."""
    usage = told.get("usage") if isinstance(told, dict) else None
    counts = [usage.get(k) if isinstance(usage, dict) else None for k in ("prompt_tokens", "completion_tokens")]
    prompt, new = (n if isinstance(n, int) and not isinstance(n, bool) and n >= 0 else None for n in counts)
    return None if prompt is None or new is None else (prompt, new)


def _read(told: Any) -> Answer:
    """The answer in a reply. Raises _Failed when there is none."""
    try:
        choice = told["choices"][0]
        message = choice["message"]
        text, finish = message.get("content"), choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _Failed("garbled", f"a reply without choices[0].message ({type(error).__name__})") from None
    if finish == "content_filter":
        raise _Failed("filtered", "the endpoint held its answer back")
    if message.get("tool_calls") and not text:
        raise _Failed("called_tool", "the model called a tool, and only texts are compared")
    if text is None:
        text = message.get("refusal") or ""
    if not isinstance(text, str):
        raise _Failed("garbled", f"content is no text but {type(text).__name__}")
    status = "truncated" if finish == "length" else "ok" if text.strip() else "empty"
    return Answer(text=text, status=status)


def _exchange(endpoint: Endpoint, method: str, path: str, data: bytes | None) -> Any:
    """The JSON that comes back from one request. Raises _Failed."""
    parts = urlsplit(endpoint.url)
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    key = os.environ.get(endpoint.key_variable, "") if endpoint.key_variable else ""
    if key:
        headers["Authorization"] = f"Bearer {key}"
    deadline = time.monotonic() + endpoint.timeout
    connection = _connection(parts, endpoint.timeout)
    try:
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            raise _Failed("unreachable", _short(error, key), unworked=True) from None
        # the socket's own timeout starts anew with every byte; this one ends the request
        alarm = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, [connection])
        alarm.daemon = True
        alarm.start()
        try:
            connection.request(method, parts.path.rstrip("/") + path, data, headers)
            response = connection.getresponse()
            reply = response.read(_LONGEST_REPLY + 1)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
                raise _Failed("timeout", f"no whole answer within {endpoint.timeout:g} seconds") from None
            raise _Failed("unreachable", _short(error, key)) from None
        finally:
            alarm.cancel()
        if time.monotonic() >= deadline:
            raise _Failed("timeout", f"no whole answer within {endpoint.timeout:g} seconds")
    finally:
        connection.close()
    if response.status != 200:
        told = _short(reply.decode("utf-8", "replace"), key)
        busy = response.status in _BUSY
        wait = _retry_after(response.getheader("Retry-After")) if busy else None
        raise _Failed("refused", f"{response.status}: {told}", unworked=busy, wait=wait, status=response.status)
    if len(reply) > _LONGEST_REPLY:
        raise _Failed("garbled", f"a reply of more than {_LONGEST_REPLY} bytes")
    try:
        return json.loads(reply)
    except ValueError:
        raise _Failed(
            "garbled", f"a reply that is no JSON: {_short(reply[:200].decode('utf-8', 'replace'), key)}"
        ) from None


def _connection(parts: SplitResult, timeout: float) -> http.client.HTTPConnection:
    """To the host itself, or through the proxy that the environment names for https."""
    host = str(parts.hostname)
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, parts.port, timeout=timeout)
    proxy = urllib.request.getproxies().get("https")
    if proxy and not urllib.request.proxy_bypass(host):
        via = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        tunnel = http.client.HTTPSConnection(str(via.hostname), via.port, timeout=timeout)
        tunnel.set_tunnel(host, parts.port)
        return tunnel
    return http.client.HTTPSConnection(host, parts.port, timeout=timeout)


def _cut(connection: http.client.HTTPConnection) -> None:
    """End a request whose time is over, whatever it waits for."""
    if connection.sock is not None:
        try:
            connection.sock.shutdown(2)
        except OSError:
            return


def _retry_after(told: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date."""
    if not told:
        return None
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _short(told: object, key: str) -> str:
    """One line of what was said, without the key: endpoints like to repeat it."""
    text = " ".join((str(told) or type(told).__name__).split())
    return (text.replace(key, "[key]") if key else text)[:200]
