"""An API model's answers over real HTTP: what fails is a failed row, what may have cost is not sent twice."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError, models_of
from finetune_pipeline.evaluation.openai_endpoint import Budget, TooManyRows, ask
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline_tests.openai_server import completion, openai_server

KEY = "sk-test-do-not-tell"


def asked(text: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Sort."}, {"role": "user", "content": text, "weight": 1}]


def last(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDPOINT_KEY", KEY)


def test_answers_come_in_order_greedily_and_with_what_they_cost() -> None:
    with openai_server(lambda body, seen: last(body).upper()) as server:
        endpoint = Endpoint(server.url, "small", "ENDPOINT_KEY", concurrency=3)
        result = ask(endpoint, [*(asked(f"t{n}") for n in range(12)), asked("t0")], 9)
        answers, spent = result.answers, result.spent
        assert [a.text for a in answers] == [*(f"T{n}" for n in range(12)), "T0"]
        assert {(a.status, a.prompt_tokens, a.new_tokens, tuple(a.label_scores)) for a in answers} == {("ok", 7, 3, ())}
        assert spent.to_dict() == {"requests": 12, "repeated": 0, "prompt_tokens": 84, "new_tokens": 36, "untold": 0}
        sent = server.requests[0]
        assert (sent["path"], sent["key"]) == ("/v1/chat/completions", f"Bearer {KEY}")
        assert (sent["model"], sent["max_tokens"], sent["temperature"]) == ("small", 9, 0)
        assert sent["messages"][0] == {"role": "system", "content": "Sort."}
        assert set(sent["messages"][1]) == {"role", "content"}
        assert server.most_at_once <= 3
        assert models_of(endpoint) == ["large", "small"]


FAULTS: dict[str, tuple[Any, str, str]] = {
    "server": ((500, {}, b'{"error": "oops, your key is ' + KEY.encode() + b'"}'), "error", "refused: 500"),
    "bad": ((400, {}, b"too long"), "error", "refused: 400: too long"),
    "moved": ((307, {"Location": "http://127.0.0.1:9/v1/chat/completions"}, b""), "error", "refused: 307"),
    "garbage": ((200, {}, b"<html>login</html>"), "error", "garbled"),
    "no choices": ({"choices": []}, "error", "garbled"),
    "list": ((200, {}, b"[1]"), "error", "garbled"),
    "number": (completion(3), "error", "garbled"),  # type: ignore[arg-type]
    "silence": (4.0, "error", "timeout"),
    "drip": ([b"HTTP/1.0 200 OK\r\n\r\n", *[b" "] * 60], "error", "timeout"),
    "half": ((200, {"Content-Length": "900"}, b'{"choices": [{"message": {"content": "how'), "error", "unreachable"),
    "filter": (completion("how_to", "content_filter"), "error", "filtered"),
    "call": (
        completion(None, "tool_calls", tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]),
        *("error", "called_tool"),
    ),
    "empty": (completion("  "), "empty", ""),
    "null": (completion(None), "empty", ""),
    "long": (completion("how_to and", "length"), "truncated", ""),
    "declines": (completion(None, refusal="I cannot."), "ok", ""),
}
"""By the text asked: the reply, and the status and the beginning of the error of its row."""


def test_every_fault_is_a_failed_row_and_no_paid_request_is_sent_twice() -> None:
    def mind(body: dict[str, Any], seen: int) -> Any:
        return FAULTS.get(last(body), ("how_to",))[0]

    names = ["fine", *FAULTS, "fine too"]
    with openai_server(mind) as server:
        endpoint = Endpoint(server.url, "small", "ENDPOINT_KEY", timeout=2, concurrency=2)
        result = ask(endpoint, [asked(n) for n in names], 9)
        assert sorted(last(r) for r in server.requests) == sorted(names)  # each once
    answers, spent = result.answers, result.spent
    by_name: dict[str, Answer] = dict(zip(names, answers, strict=True))
    assert by_name["fine"].text == by_name["fine too"].text == "how_to"
    for name, (_, status, error) in FAULTS.items():
        assert (by_name[name].status, by_name[name].error[: len(error)]) == (status, error), name
        assert not (status == "error" and by_name[name].text)
    assert KEY not in json.dumps([a.error for a in answers]) and "[key]" in by_name["server"].error
    assert by_name["declines"].text == "I cannot."
    # what a failed request cost, nobody knows: 500, 307, garbage, no choices, list, silence, drip, half
    assert (spent.requests, spent.repeated, spent.untold) == (18, 0, 8)


def test_busy_endpoints_and_broken_connections_are_tried_again() -> None:
    def mind(body: dict[str, Any], seen: int) -> Any:
        if last(body) == "busy" and seen < 2:
            return 429 if seen else 503, {"Retry-After": "0.01"}, b"slow down"
        if last(body) == "always busy":
            return 429, {"Retry-After": "0"}, b"no"
        return "how_to"

    with openai_server(mind) as server:
        endpoint = Endpoint(server.url, "small", concurrency=1)
        result = ask(endpoint, [asked("busy"), asked("always busy"), asked("x")], 9)
        answers, spent = result.answers, result.spent
        assert [(a.text, a.status) for a in answers] == [("how_to", "ok"), ("", "error"), ("how_to", "ok")]
        assert answers[1].error.startswith("refused: 429")
        assert (spent.requests, spent.repeated, spent.prompt_tokens) == (3 + 4 + 1, 5, 14)
        server.failing_lists = 2
        assert models_of(Endpoint(server.url, "small", timeout=5)) == ["large", "small"]  # free, hence after a 500, too
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = Endpoint(f"http://127.0.0.1:{free.getsockname()[1]}/v1", "small", tries=1)
        result = ask(gone, [asked("x")], 9)
        assert result.answers[0].error.startswith("unreachable") and result.spent.tokens == 0
        with pytest.raises(EndpointError, match="unreachable"):
            models_of(gone)


def test_the_environment_changes_neither_the_way_nor_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another-service")
    with openai_server(lambda body, seen: "a") as server:
        assert ask(Endpoint(server.url, "small"), [asked("x")], 9).answers[0].text == "a"
        assert server.requests[0]["key"] == "Bearer none"
        assert "another-service" not in str(server.headers)


def test_known_answers_are_not_paid_again_and_those_that_came_before_the_end_are_known(tmp_path: Path) -> None:
    def mind(body: dict[str, Any], seen: int) -> Any:
        return (401, {}, b"no") if last(body) == "t3" else "a"

    cache = AnswerCache(tmp_path, bytes(64), "test", 8)
    rows = [asked(f"t{n}") for n in range(6)]
    with openai_server(mind) as server:
        endpoint = Endpoint(server.url, "small", concurrency=1)
        with pytest.raises(EndpointError, match="401"):
            ask(endpoint, rows, 9, cache=cache)
        result = ask(endpoint, rows[:3], 9, cache=cache)
        assert (result.known, result.spent.requests, len(server.requests)) == (3, 0, 4)
        assert ask(endpoint, rows[:3], 8, cache=cache).known == 0, "a shorter answer is another one"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((401, {}, b"Incorrect API key provided: " + KEY.encode()), "401: Incorrect API key provided: \\[key\\]"),
        ((404, {}, b"no such model"), "404: no such model"),
        ((429, {}, b'{"error": {"code": "insufficient_quota"}}'), "insufficient_quota"),
        ((500, {}, b"down"), "500: down"),
    ],
)
def test_what_no_row_can_survive_stops_at_once(reply: Any, said: str) -> None:
    with openai_server(lambda body, seen: reply) as server:
        endpoint = Endpoint(server.url, "small", "ENDPOINT_KEY", concurrency=2)
        with pytest.raises(EndpointError, match=said) as caught:
            ask(endpoint, [asked(f"t{n}") for n in range(60)], 9)
        assert KEY not in str(caught.value)
        assert len(server.requests) <= 8


def test_budget_of_rows_and_tokens_is_never_exceeded() -> None:
    with openai_server(
        lambda body, seen: completion("how_to", usage=(90, 3) if last(body) != "t1" else None)
    ) as server:
        endpoint = Endpoint(server.url, "small", concurrency=2)
        rows = [asked(f"t{n}") for n in range(20)]
        with pytest.raises(TooManyRows, match="20 rows are to be asked of .*, and 19 are allowed"):
            ask(endpoint, rows, 9, budget=Budget(rows=19))
        assert not server.requests
        result = ask(endpoint, rows, 9, budget=Budget(rows=20, tokens=1000))
        answers, spent = result.answers, result.spent
        done = [a for a in answers if a.status == "ok"]
        assert 5 <= len(done) == len(server.requests) < 20
        assert spent.tokens <= 1000 and spent.untold == 1
        assert {a.error.partition(":")[0] for a in answers if a.status == "error"} == {"budget"}


def test_addresses_and_keys_that_cannot_be_right() -> None:
    for url in ("http://example.com/v1", "ftp://example.com", "example.com", "https://me:secret@example.com/v1"):
        with pytest.raises(ValueError):
            Endpoint(url, "small")
    with pytest.raises(ValueError, match="NO_SUCH_KEY is not set"):
        Endpoint("https://example.com/v1", "small", "NO_SUCH_KEY")


def test_fields_of_the_request_can_be_replaced() -> None:
    with openai_server(lambda body, seen: "a") as server:
        body = {"max_tokens": None, "temperature": None, "max_completion_tokens": 5}
        ask(Endpoint(server.url, "small", body=body), [asked("x")], 9, tools=[[{"type": "function"}]])
        sent = server.requests[0]
        assert {"max_tokens", "temperature"}.isdisjoint(sent)
        assert (sent["max_completion_tokens"], sent["tools"]) == (5, [{"type": "function"}])
